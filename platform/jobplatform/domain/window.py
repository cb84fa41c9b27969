"""The window of a queue: how many of its jobs may be in flight at once, and the free slots of each priority."""

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
    """Return, for each priority, how many jobs of it and of higher ones may be dispatched now, in all; negative: none.

    `out`: jobs in flight per priority. A more urgent job is dispatched even if the window is full of less urgent ones,
    and the jobs of one priority never exceed the window.
    """
    free_slots, busy = [0] * len(out), 0
    for priority in reversed(range(len(out))):
        busy += out[priority]
        free_slots[priority] = min(window - busy, batch)
    return free_slots
