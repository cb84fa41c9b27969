"""Each drill once, shortened, on one stack. Faults with the same allowed effect on runs share one load.

`make drills` runs each alone and at full length, on both brokers.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from drills.drill import play
from drills.faults import FAULTS, CanNotBeDone, Fault, Runs
from drills.sink import Sink
from drills.world import World
from jobplatform.devstack.instance import taken

SIZE = 0.05


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    sink = Sink()
    with taken("drills"):
        result = World(print, sink, durable=False)
        try:
            result.start()
            yield result
        finally:
            result.stop()
            sink.close()


def groups() -> dict[str, list[Fault]]:
    """Group the faults by module and by their allowed effect on runs."""
    result: dict[str, list[Fault]] = {}
    for item in FAULTS.values():
        module = item.do.__module__.rpartition(".")[2]
        result.setdefault(f"{module}: runs {item.runs.value}", []).append(item)
    return result


def in_fair_order(faults: list[Fault]) -> Fault:
    """Return a fault that injects all of these one after the other; jobs flow again before the next one."""

    def do(world: World, size: float) -> dict[str, int]:
        hits = {}
        for fault in faults:
            try:
                hits |= {f"{fault.key}: {name}": count for name, count in fault.do(world, size).items()}
            except CanNotBeDone as error:
                print(f"skipped: {fault.name}: {error}")
            world.wait_for_flow()
        return hits

    shows = tuple({name: None for item in faults for name in item.shows})
    return Fault(" · ".join(fault.name for fault in faults), faults[0].runs, shows, do)


@pytest.mark.parametrize("name", list(groups()))
def test_no_job_is_lost_and_the_audit_is_clean(world: World, name: str) -> None:
    outcome = play(world, in_fair_order(groups()[name]), SIZE)
    assert not outcome.wrong, outcome
    assert outcome.accepted > 0


def test_the_faults_cover_every_allowed_effect_on_runs() -> None:
    assert {item.runs for item in FAULTS.values()} == set(Runs) and len(FAULTS) > 25
