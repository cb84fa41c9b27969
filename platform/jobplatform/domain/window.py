"""The window of a queue: how many of its jobs may be dispatched or running at once. `dispatch_jobs.sql` fills it."""

from __future__ import annotations


def window_of(window_min: int, window_factor: float, slots: int) -> int:
    """Return the window: small for slow lanes, large for fast ones, never unlimited."""
    return max(window_min, int(window_factor * slots))
