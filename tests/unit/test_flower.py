"""Corrections of Flower's faults."""

from __future__ import annotations

from types import SimpleNamespace

import pytest


def test_flower_reconnects_within_half_a_minute_of_any_outage(monkeypatch) -> None:
    """Flower itself doubles its pause without bound: after an outage of two hours it is blind for two more."""
    from workers import flower_app

    class Over(BaseException):
        """Ends the outage."""

    pauses: list[float] = []

    def connection() -> None:
        if len(pauses) == 12:
            raise Over
        raise ConnectionRefusedError("nobody there")

    monkeypatch.setattr(flower_app.time, "sleep", pauses.append)
    thread = SimpleNamespace(capp=SimpleNamespace(connection=connection), on_event=lambda event: None)
    with pytest.raises(Over):
        flower_app.events.Events.run(thread)
    assert pauses[:6] == [1, 2, 4, 8, 16, 30] and max(pauses) == 30
