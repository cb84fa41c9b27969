"""The window of a queue: how many of its jobs may be dispatched or running at once, and who has a place in it."""

from __future__ import annotations

from collections.abc import Sequence


def window_of(
    window_min: int, window_factor: float, slots: int, per_second: float = 0.0, window_seconds: float = 0.0
) -> int:
    """Return the window (jobs): a few per slot, and as many as the queue finishes in `window_seconds`.

    Short jobs get a deep window, so that no slot is idle between two rounds; long ones a short one. `per_second` is the
    measured rate of the queue.
    """
    return max(window_min, int(window_factor * slots), int(per_second * window_seconds))


def slots_of(out: Sequence[int], window: int, batch: int) -> list[int]:
    """Return, for each priority, how many jobs of it and of those above it may go now, in all; negative: none.

    `out`: how many of each are out. A more urgent job goes out when the window is full of lesser ones, and there is
    never more than a window of any class.
    """
    places, busy = [0] * len(out), 0
    for priority in reversed(range(len(out))):
        busy += out[priority]
        places[priority] = min(window - busy, batch)
    return places
