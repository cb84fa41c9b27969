"""Definition of a fault: its action, the effect that it may have on runs, and the evidence that it struck.

`size` scales a fault: 1.0 for its full length, less in tests.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from drills.world import World

#: what a fault has hit: name → count. A zero means that the fault missed, and the drill fails
Hits = dict[str, int]


class CanNotBeDone(Exception):
    """This fault can't be injected on this machine; the message names what is missing."""


class Runs(Enum):
    """The effect that a fault may have on runs."""

    #: none: every run succeeds, even one that lasts through the whole fault
    STAY = "stay"
    #: workers shut down: they finish a run, or release it
    FINISH = "finish"
    #: a run may be cut at any point; effects outside the journal may take place twice
    CUT = "cut"


@dataclass(frozen=True)
class Fault:
    """A fault and its name in the table. `shows`: figures of `drills.evidence` that must not be zero afterwards."""

    name: str
    runs: Runs
    shows: tuple[str, ...]
    do: Callable[[World, float], Hits]

    @property
    def key(self) -> str:
        """The name on the command line."""
        return self.do.__name__


REGISTERED: list[Fault] = []


def fault(
    name: str, runs: Runs = Runs.STAY, shows: tuple[str, ...] = ()
) -> Callable[[Callable[[World, float], Hits]], Callable[[World, float], Hits]]:
    """Register a fault under the name of its function."""

    def add(do: Callable[[World, float], Hits]) -> Callable[[World, float], Hits]:
        REGISTERED.append(Fault(name, runs, shows, do))
        return do

    return add


def lasting(seconds: float, has_bitten: Callable[[], bool], patience_seconds: float = 60.0) -> Callable[[], bool]:
    """Return a `while` condition: true for this long, then until the fault has struck or patience ends."""
    began = time.monotonic()

    def goes_on() -> bool:
        passed = time.monotonic() - began
        return passed < seconds or (passed < patience_seconds and not has_bitten())

    return goes_on
