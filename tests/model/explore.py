"""Explore a model: every reachable state, the properties it breaks, and the shortest trace to it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

S = TypeVar("S")


@dataclass(frozen=True)
class Step(Generic[S]):
    """One action: its name, the state after it, and whether it is a fault or a caller's request (may never happen)."""

    name: str
    after: S
    fault: bool = False


@dataclass(frozen=True)
class Failure:
    """A property that does not hold, with the shortest list of actions that shows it."""

    property: str
    trace: tuple[str, ...]


@dataclass(frozen=True)
class Explored:
    """How many states were seen, and the first failure of each property."""

    states: int
    failures: dict[str, Failure]


def explore(
    start: S,
    steps: Callable[[S], Iterable[Step[S]]],
    broken: Callable[[S], Iterator[str]],
    is_good: Callable[[S], bool],
    stuck: str,
) -> Explored:
    """Explore breadth-first, so that every trace is the shortest.

    `broken` yields the properties that a state breaks; nothing is explored beyond such a state. `stuck` names the
    property that a good state can be reached from every state without another fault.
    """
    came_from: dict[S, tuple[S, str] | None] = {start: None}
    without_fault: dict[S, list[S]] = {}
    failures: dict[str, Failure] = {}
    good: list[S] = []
    waiting = deque([start])
    while waiting:
        state = waiting.popleft()
        result = list(broken(state))
        for name in result:
            failures.setdefault(name, Failure(name, _trace(came_from, state)))
        if result:
            good.append(state)  # reported once, not again as a dead end
            continue
        if is_good(state):
            good.append(state)
        for step in steps(state):
            if step.after not in came_from:
                came_from[step.after] = (state, step.name)
                waiting.append(step.after)
            if not step.fault:
                without_fault.setdefault(step.after, []).append(state)
    reached, edge = set(good), deque(good)
    while edge:
        for before in without_fault.get(edge.popleft(), ()):
            if before not in reached:
                reached.add(before)
                edge.append(before)
    for state in came_from:  # in the order of their distance
        if state not in reached:
            failures.setdefault(stuck, Failure(stuck, _trace(came_from, state)))
            break
    return Explored(len(came_from), failures)


def _trace(came_from: dict[S, tuple[S, str] | None], state: S) -> tuple[str, ...]:
    names = []
    while (before := came_from[state]) is not None:
        state, name = before
        names.append(name)
    return tuple(reversed(names))
