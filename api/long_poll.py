"""Long polls: `?wait=SECONDS` and `Prefer: wait=SECONDS` answer at the end of a job or workflow."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import TypeVar
from uuid import UUID

from flask import request

from api.services import services
from api.wait_registry import CAN_PARK, PARKED, WAIT, Wait

T = TypeVar("T")

MAX_WAIT_SECONDS = 60.0
POLL_SECONDS = 0.1
_PREFER = re.compile(r"\bwait=(\d{1,4})\b")


def when_ended(subject_id: UUID, seconds: float, read: Callable[[], T], has_ended: Callable[[T], bool]) -> T:
    """Return the result of `read` once it has ended, or after the requested seconds (of the query, or preferred)."""
    seconds = seconds or _preferred()
    here = read()
    if seconds and not has_ended(here) and not request.environ.get(PARKED):
        if request.environ.get(CAN_PARK):
            request.environ[WAIT] = Wait(subject_id, seconds)  # api.server repeats the request when it has ended
        else:
            here = _wait_here(here, seconds, read, has_ended)
    return here


def _preferred() -> float:
    match = _PREFER.search(request.headers.get("Prefer", ""))
    return min(float(match.group(1)), MAX_WAIT_SECONDS) if match else 0.0


def _wait_here(result: T, seconds: float, read: Callable[[], T], has_ended: Callable[[T], bool]) -> T:
    """Wait in this thread, on servers without an event loop (gunicorn), if fewer than `blocking_waits` do so."""
    has = services()
    if not has.blocking_waits.acquire(blocking=False):
        return result
    try:
        deadline = time.monotonic() + seconds
        while not has_ended(result) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
            result = read()
        return result
    finally:
        has.blocking_waits.release()
