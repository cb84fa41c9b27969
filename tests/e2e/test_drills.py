"""Each drill once, and short, on one stack; those that may do the same to runs follow each other under one load.

`make drills` plays each by itself and in full, on both brokers.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from drills.drill import play
from drills.faults import FAULTS, CanNotBeDone, Fault, Runs
from drills.sink import Sink
from drills.world import World
from jobplatform.devstack.place import taken

SIZE = 0.05


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    sink = Sink()
    with taken("drills"):
        found = World(print, sink, durable=False)
        try:
            found.start()
            yield found
        finally:
            found.stop()
            sink.close()


def groups() -> dict[str, list[Fault]]:
    """Faults of a module that allow the same."""
    found: dict[str, list[Fault]] = {}
    for one in FAULTS.values():
        module = one.do.__module__.rpartition(".")[2]
        found.setdefault(f"{module}: runs {one.runs.value}", []).append(one)
    return found


def in_turn(faults: list[Fault]) -> Fault:
    """Return a fault that is all of these, one after the other; the flow is back in between."""

    def do(world: World, size: float) -> dict[str, int]:
        hits = {}
        for one in faults:
            try:
                hits |= {f"{one.key}: {name}": count for name, count in one.do(world, size).items()}
            except CanNotBeDone as error:
                print(f"not played: {one.name}: {error}")
            world.wait_for_flow()
        return hits

    shows = tuple({name: None for one in faults for name in one.shows})
    return Fault(" · ".join(one.name for one in faults), faults[0].runs, shows, do)


@pytest.mark.parametrize("name", list(groups()))
def test_nothing_is_lost_and_all_adds_up(world: World, name: str) -> None:
    outcome = play(world, in_turn(groups()[name]), SIZE)
    assert not outcome.wrong, outcome
    assert outcome.accepted > 0


def test_every_way_to_treat_a_run_is_among_them() -> None:
    assert {one.runs for one in FAULTS.values()} == set(Runs) and len(FAULTS) > 25
