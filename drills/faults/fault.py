"""What a fault is: what it does, what it may do to runs, and what must show that it has bitten.

`size` is 1.0 in full, less in tests.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from drills.world import World

#: what a fault has hit, by name; a zero says that it has missed, and the drill is not good
Hits = dict[str, int]


class CanNotBeDone(Exception):
    """This fault can't be made on this machine; the message says what is missing."""


class Runs(Enum):
    """What a fault may do to what runs."""

    #: nothing: no run ends but by success, not even one that lasts through the whole fault
    STAY = "stay"
    #: workers are told to go: they finish a run, or give it back
    FINISH = "finish"
    #: a run may end anywhere; what it did without a journal may be done twice
    CUT = "cut"


@dataclass(frozen=True)
class Fault:
    """A fault and its name in the table. `shows` are names of `drills.evidence` that must not be zero afterwards."""

    name: str
    runs: Runs
    shows: tuple[str, ...]
    do: Callable[[World, float], Hits]

    @property
    def key(self) -> str:
        """Its name on the command line."""
        return self.do.__name__


REGISTERED: list[Fault] = []


def fault(
    name: str, runs: Runs = Runs.STAY, shows: tuple[str, ...] = ()
) -> Callable[[Callable[[World, float], Hits]], Callable[[World, float], Hits]]:
    """Add a fault, under the name of its function."""

    def add(do: Callable[[World, float], Hits]) -> Callable[[World, float], Hits]:
        REGISTERED.append(Fault(name, runs, shows, do))
        return do

    return add


def lasting(seconds: float, has_bitten: Callable[[], bool], patience_seconds: float = 60.0) -> Callable[[], bool]:
    """Return a condition for `while`: for this long, and on until it has bitten or patience ends."""
    began = time.monotonic()

    def goes_on() -> bool:
        passed = time.monotonic() - began
        return passed < seconds or (passed < patience_seconds and not has_bitten())

    return goes_on
