"""The window of a queue: how many of its jobs may be dispatched or running at once, per priority."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from jobplatform.domain.jobs import MAX_PRIORITY

T = TypeVar("T", bound=Any)


def window_of(window_min: int, window_factor: float, slots: int) -> int:
    """Return the window: small for slow lanes, large for fast ones, never unlimited."""
    return max(window_min, int(window_factor * slots))


def free_places(window: int, active: Mapping[int, int], batch: int) -> dict[int, int]:
    """Return priority → free places: window − jobs dispatched or running with this priority or a higher one.

    So a more urgent job goes out when the window is full of lesser ones, and there is never more than a window of any
    class. `batch` caps each.
    """
    places, busy = {}, 0
    for priority in range(MAX_PRIORITY, -1, -1):
        busy += active.get(priority, 0)
        places[priority] = max(0, min(window - busy, batch))
    return places


def choose(picked: Sequence[T], free: Mapping[int, int], batch: int) -> list[T]:
    """Return those of the picked jobs that fit: what goes out at a priority takes its place from all lesser ones.

    `picked` is ordered by priority, most urgent first.
    """
    chosen: list[T] = []
    for job in picked:
        if len(chosen) >= min(free[job.priority], batch):
            continue
        chosen.append(job)
    return chosen
