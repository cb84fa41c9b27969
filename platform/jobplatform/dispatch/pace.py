"""When to dispatch again to a queue whose window is full: when a quarter of it is free, by the rate at which it drains.

A round costs the same for one free slot as for a hundred, in Postgres and in RabbitMQ; workers have the other three
quarters of the window meanwhile. An urgent job does not wait: its notification wakes the dispatcher.
"""

from __future__ import annotations

import time
from collections.abc import Callable

#: minimum and maximum interval between rounds of a full window (s)
SOONEST, LATEST = 0.004, 0.1
#: fraction of the window that must be free
SHARE = 0.25
#: weight of the newest measurement
WEIGHT = 0.3


class Pace:
    """Rate at which a queue's window drains."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rate = 0.0
        self._out = 0
        self._looked_at: float | None = None

    @property
    def per_second(self) -> float:
        """Jobs that the queue finishes per second, as measured between rounds."""
        return self._rate

    def note(self, active: int, sent: int) -> None:
        """Record a round: how many jobs were in flight before it, and after it."""
        now = self._clock()
        if self._looked_at is not None and now > self._looked_at:
            rate = max(0, self._out - active) / (now - self._looked_at)
            self._rate += WEIGHT * (rate - self._rate)
        self._out, self._looked_at = active + sent, now

    def seconds_until_worth_it(self, window: int) -> float:
        """Return the seconds until a quarter of the window is expected to be free."""
        if self._rate <= 0:
            return LATEST if self._looked_at is None or self._out >= window else SOONEST
        return min(LATEST, max(SOONEST, SHARE * window / self._rate))
