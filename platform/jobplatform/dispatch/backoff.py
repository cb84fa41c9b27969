"""Back-off per queue after a failure: the first retry has a batch of one."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Backoff:
    """Doubles from 1 s to `cap_seconds`; a success clears it."""

    cap_seconds: float
    clock: Callable[[], float] = time.monotonic
    _failures: dict[str, int] = field(default_factory=dict)
    _until: dict[str, float] = field(default_factory=dict)

    def failed(self, name: str) -> float:
        """Note a failure; returns the seconds until the next try."""
        self._failures[name] = self._failures.get(name, 0) + 1
        wait = min(self.cap_seconds, 2.0 ** min(self._failures[name] - 1, 16))
        self._until[name] = self.clock() + wait
        return wait

    def succeeded(self, name: str) -> None:
        """Forget the failures."""
        self._failures.pop(name, None)
        self._until.pop(name, None)

    def try_now(self) -> None:
        """End all waits. Failures stay recorded, so that the next batch of each queue has one job."""
        self._until.clear()

    def ready(self, name: str) -> bool:
        """Return whether the next try is due."""
        return self.clock() >= self._until.get(name, 0.0)

    def doubtful(self, name: str) -> bool:
        """Return whether the last try failed: the next batch then has one job."""
        return name in self._failures
