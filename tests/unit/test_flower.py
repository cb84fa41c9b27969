"""What Flower gets wrong by itself."""

from __future__ import annotations

from types import SimpleNamespace

import pytest


def test_flower_is_back_half_a_minute_after_an_outage_however_long(monkeypatch) -> None:
    """Flower doubles its pause without an upper bound: after two hours it stays blind for two more."""
    from workers import flower_app

    class Over(BaseException):
        """The outage is."""

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
