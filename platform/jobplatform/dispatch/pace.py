"""When to look again at a queue whose window is full: when a quarter of it is free, by the rate at which it empties.

A look costs the same for one free place as for a hundred, in Postgres and in RabbitMQ; the workers have the other three
quarters of the window meanwhile. An urgent job does not wait for it: its hint wakes the dispatcher.
"""

from __future__ import annotations

import time
from collections.abc import Callable

#: at the least, and at the most: seconds between looks at a full window
SOONEST, LATEST = 0.004, 0.1
#: the share of the window that is to be free
SHARE = 0.25
#: how much the newest measurement counts
WEIGHT = 0.3


class Pace:
    """How fast one queue's window empties."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rate = 0.0
        self._out = 0
        self._looked_at: float | None = None

    def note(self, active: int, sent: int) -> None:
        """Note a look: how many jobs were out, and how many went out after it."""
        now = self._clock()
        if self._looked_at is not None and now > self._looked_at:
            rate = max(0, self._out - active) / (now - self._looked_at)
            self._rate += WEIGHT * (rate - self._rate)
        self._out, self._looked_at = active + sent, now

    def seconds_until_worth_it(self, window: int) -> float:
        """Return how long to wait until a quarter of the window is free."""
        if self._rate <= 0:
            return LATEST if self._looked_at is None or self._out >= window else SOONEST
        return min(LATEST, max(SOONEST, SHARE * window / self._rate))
