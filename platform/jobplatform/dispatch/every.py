"""A timer for periodic work."""

from __future__ import annotations

import time
from collections.abc import Callable


class Every:
    """Due immediately, then every `seconds`."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock, self._next = seconds, clock, 0.0

    def due(self) -> bool:
        """Return whether it is due; if so, restart the timer."""
        if self._clock() < self._next:
            return False
        self._next = self._clock() + self._seconds
        return True

    def seconds_left(self) -> float:
        """Return the seconds until it is due; 0 when it is due."""
        return max(0.0, self._next - self._clock())

    def again(self, seconds: float = 0.0) -> None:
        """Make it due in this many seconds, immediately by default."""
        self._next = self._clock() + seconds
