"""Each drill once, and short, on one stack. `make drills` plays them in full, on both brokers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from drills.drill import play
from drills.faults import FAULTS, CanNotBeDone
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


@pytest.mark.parametrize("name", list(FAULTS))
def test_nothing_is_lost_and_all_adds_up(world: World, name: str) -> None:
    try:
        outcome = play(world, FAULTS[name], SIZE)
    except CanNotBeDone as error:
        pytest.skip(str(error))
    assert not outcome.wrong, outcome
    assert outcome.accepted > 0
