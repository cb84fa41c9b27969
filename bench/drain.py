"""Drain of no-op jobs, and the time from accept to start."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from bench.sides import Bare, Ours, Pool

WARM_UP = 50


#: a condition under which a side is measured
Condition = Callable[[Ours | Bare], AbstractContextManager[None]]


def quiet(_: Ours | Bare) -> AbstractContextManager[None]:
    """Change nothing: the machine as it is."""
    return nullcontext()


def drain(side: Ours | Bare, pool: Pool, jobs: int, condition: Condition = quiet) -> float:
    """Load jobs, then start a worker; returns jobs per second from the first completion to the last."""
    side.clear()
    side.load(jobs)
    with condition(side), side.workers(pool):
        side.wait_done(jobs)
        return side.drain_rate()


def accept_to_start(side: Ours | Bare, rate: float, seconds: float) -> list[float]:
    """Submit at a steady rate to a warm worker; returns the sorted milliseconds from call to start."""
    side.clear()
    count = int(rate * seconds)
    with side.workers(Pool("prefork", 2)):
        for _ in range(WARM_UP):
            side.submit()
        side.wait_done(WARM_UP)
        side.clear()
        began = time.monotonic()
        for n in range(count):
            pause = began + n / rate - time.monotonic()
            if pause > 0:
                time.sleep(pause)
            side.submit_timed()
        side.wait_done(count)
        return sorted(1000 * second for second in side.start_seconds())


def share(values: list[float], part: float) -> float:
    """Return a percentile of sorted values."""
    return values[min(len(values) - 1, int(part * len(values)))]
