"""Celery's remote control, with Flower's credentials: it can inspect workers and change nothing."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery

from tests.e2e.conftest import Platform
from workers.control import REFUSED


@pytest.fixture
def control(platform: Platform) -> Any:
    app = Celery("monitor", broker=platform.stack.broker_url_of("monitor"), set_as_current=False)
    return app.control


def reply(control: Any, command: str, arguments: dict[str, Any]) -> list[dict[str, Any]]:
    replies: list[dict[str, Any]] = control.broadcast(command, arguments=arguments, reply=True, timeout=5, limit=5)
    return [answer for item in replies for answer in item.values()]


def test_commands_that_would_change_a_worker_are_refused_with_advice(platform: Platform, control: Any) -> None:
    arguments = {
        "add_consumer": {"queue": "no-such-queue"},
        "cancel_consumer": {"queue": "gpu"},
        "pool_grow": {"n": 1},
        "pool_shrink": {"n": 1},
        "rate_limit": {"task_name": "acme.resize", "rate_limit": 1},
    }
    before = set(platform.sql("SELECT id FROM workers WHERE stopped_at IS NULL"))
    for command in sorted(set(REFUSED) - {"pool_restart", "revoke_by_stamped_headers", "revoke", "terminate"}):
        answers = reply(control, command, arguments.get(command, {}))
        assert answers, command
        assert all(REFUSED[command] in answer["error"] for answer in answers), answers
    job = platform.wait(platform.submit("acme.resize", {"width": 1, "height": 1}))
    assert job["state"] == "succeeded"
    assert set(platform.sql("SELECT id FROM workers WHERE stopped_at IS NULL")) == before


def test_inspection_commands_are_answered(control: Any) -> None:
    assert all(answer == {"ok": "pong"} for answer in reply(control, "ping", {}))
    assert all(isinstance(answer, dict) for answer in reply(control, "stats", {}))
