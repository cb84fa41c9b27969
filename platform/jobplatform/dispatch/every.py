"""A timer: says when something is due again."""

from __future__ import annotations

import time
from collections.abc import Callable


class Every:
    """Due at once, and then every so many seconds."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock, self._next = seconds, clock, 0.0

    def due(self) -> bool:
        """Return whether it is time, and start over if so."""
        if self._clock() < self._next:
            return False
        self._next = self._clock() + self._seconds
        return True

    def seconds_left(self) -> float:
        """Return how long it is until it is due; 0 when it is."""
        return max(0.0, self._next - self._clock())

    def again(self, seconds: float = 0.0) -> None:
        """Make it due in so many seconds, at once by default."""
        self._next = self._clock() + seconds
