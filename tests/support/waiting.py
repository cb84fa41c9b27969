"""Waiting on conditions, never on sleeps."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def eventually(condition: Callable[[], T], seconds: float = 30.0, what: str = "") -> T:
    """Return the first true value of `condition`; fail with the last one when time is up."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what or condition} (last: {value!r})")
        time.sleep(0.02)


def wait_until_blocked(harness: Any, count: int = 1) -> None:
    """Wait until this many statements of the test's database wait for a lock."""
    eventually(
        lambda: (
            harness.all(
                "SELECT count(*)::int FROM pg_stat_activity WHERE datname = current_database() "
                "AND wait_event_type = 'Lock' AND state = 'active'"
            )[0]
            >= count
        ),
        what=f"{count} blocked statements",
    )
