"""Plan a workflow: turn its parts into steps with dependencies, as the ledger stores them.

Every part has one final step: the step itself, the last one of a chain, the gate after a group or a map. So an
edge leads from one step to another, and a group of 1,000 after a group of 1,000 has 2,000 edges.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any

from jobplatform.domain.references import (
    PREVIOUS,
    BadReference,
    Reference,
    find_references,
    read_reference,
    replace_references,
)
from jobplatform.domain.workflows import MAX_STEPS, Chain, Graph, Group, Map, Part, PlannedStep, Step
from jobplatform.errors import FieldError, InvalidRequest

_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}\Z")
#: reported errors per submission, and how many of them get a hint
MAX_ERRORS, HINTS = 100, 10


@dataclass
class Plan:
    """Steps in topological order."""

    steps: list[PlannedStep] = field(default_factory=list)
    by_name: dict[str, PlannedStep] = field(default_factory=dict)
    #: where a step was written in the order, for errors: name → field
    fields: dict[str, str] = field(default_factory=dict)

    @property
    def sinks(self) -> list[PlannedStep]:
        """The steps without successors."""
        return [step for step in self.steps if not step.children]


def plan_flow(
    flow: Part, new_id: Callable[[], str], prefix: str = "", field_name: str = "flow", name: str = "1"
) -> Plan:
    """Plan a workflow. `prefix` precedes the names of its parts: steps that a step adds are named after it. `name` is
    its default name.

    Raises `InvalidRequest` naming every invalid part: duplicate, unknown or circular names, references that lead
    nowhere or to a step that is not a predecessor.
    """
    planner = _Planner(new_id, prefix)
    if isinstance(flow, Graph):
        planner.add_graph(flow, field_name)
    else:
        planner.add(flow, name if flow.name is None else f"{prefix}{flow.name}", [], None, field_name)
    if planner.errors:
        raise InvalidRequest("the workflow can't work", tuple(planner.errors))
    return planner.plan


class _Planner:
    def __init__(self, new_id: Callable[[], str], prefix: str) -> None:
        self._new_id, self._prefix = new_id, prefix
        self.plan = Plan()
        self.errors: list[FieldError] = []
        #: by the name of a part: the step whose results a reference to it means, and the one that ends it (its `then`)
        self._ends: dict[str, PlannedStep] = {}
        self._lasts: dict[str, PlannedStep] = {}

    def wrong(self, where: str, expected: str, got: object = "") -> None:
        if len(self.errors) < MAX_ERRORS:
            self.errors.append(FieldError(where, expected, str(got)))

    def near(self, name: str, known: Iterable[str]) -> str:
        """Return a similar known name; only for the first errors, as the search is slow."""
        result = get_close_matches(name, list(known), n=1, cutoff=0.5) if len(self.errors) < HINTS else []
        return result[0] if result else ""

    def add(
        self,
        part: Part,
        name: str,
        parents: list[PlannedStep],
        previous: PlannedStep | None,
        where: str,
        of_graph: bool = False,
    ) -> PlannedStep | None:
        """Plan a part that starts after its parents; returns its final step, None if it is invalid."""
        if part.after and not of_graph:
            self.wrong(
                f"{where}.after", "nothing: only parts of `steps` come after others by name", ", ".join(part.after)
            )
            return None
        if part.name is not None and not _NAME.match(part.name):
            self.wrong(f"{where}.name", "letters, digits, _ and -, at most 100", part.name)
            return None
        if part.name == PREVIOUS:
            self.wrong(f"{where}.name", f"another name: {PREVIOUS!r} is the part before in a chain", part.name)
            return None
        if name in self._ends or name in self.plan.by_name:
            self.wrong(f"{where}.name", "a name that no other part has", name)
            return None
        if len(self.plan.steps) >= MAX_STEPS:
            if not any(error.expected.startswith("at most") for error in self.errors):
                self.wrong(where, f"at most {MAX_STEPS:,} steps; let a step add more when it runs")
            return None
        end: PlannedStep | None
        if isinstance(part, Step):
            end = self._job(part, name, parents, previous, where)
        elif isinstance(part, Chain):
            end = self._chain(part, name, parents, previous, where)
        elif isinstance(part, Group):
            end = self._group(part, name, parents, previous, where)
        elif isinstance(part, Map):
            end = self._map(part, name, parents, previous, where)
        else:
            self.wrong(where, "a step, chain, group or map: a graph is a workflow of its own", "a graph")
            return None
        if end is not None:
            self._ends.setdefault(name, end)
            self._lasts[name] = end
        return end

    def _new(self, name: str, kind: str, parents: list[PlannedStep], where: str, **more: Any) -> PlannedStep:
        made = PlannedStep(self._new_id(), name, len(self.plan.steps), kind, **more)
        self.plan.steps.append(made)
        self.plan.by_name[name] = made
        self.plan.fields[name] = where
        self._link(parents, made)
        return made

    def _link(self, parents: Sequence[PlannedStep], child: PlannedStep) -> None:
        for parent in parents:
            parent.children.append(child.id)
        child.pending += len(parents)

    def _job(
        self, part: Step, name: str, parents: list[PlannedStep], previous: PlannedStep | None, where: str
    ) -> PlannedStep:
        referenced, payload = self._references(part.payload, previous, f"{where}.payload")
        return self._new(
            name,
            "job",
            _together(parents, referenced),
            where,
            on_failure=part.on_failure,
            step=replace(part, payload=payload),
        )

    def _chain(
        self, part: Chain, name: str, parents: list[PlannedStep], previous: PlannedStep | None, where: str
    ) -> PlannedStep | None:
        if not part.parts:
            self.wrong(f"{where}.chain", "at least one part", "none")
            return None
        end: PlannedStep | None = None
        for index, inner in enumerate(part.parts):
            called = self._called(inner, name, f"{index + 1}")
            end = self.add(inner, called, parents, previous, f"{where}.chain.{index}")
            if end is None:
                return None
            parents, previous = [end], end
        return end

    def _group(
        self, part: Group, name: str, parents: list[PlannedStep], previous: PlannedStep | None, where: str
    ) -> PlannedStep | None:
        gate = self._new(name, "gate", [], where)
        if len(parents) > 1 and len(part.parts) > 1:  # not an edge from each to each
            parents = [self._new(f"{name}/begin", "gate", parents, where)]
        for index, inner in enumerate(part.parts):
            end = self.add(inner, self._called(inner, name, f"[{index}]"), parents, previous, f"{where}.group.{index}")
            if end is not None:
                self._link([end], gate)
        if not part.parts:
            self._link(parents, gate)
        return self._then(part.then, name, gate, where)

    def _map(
        self, part: Map, name: str, parents: list[PlannedStep], previous: PlannedStep | None, where: str
    ) -> PlannedStep | None:
        if isinstance(part.over, Mapping):
            if not _is_reference(part.over):
                self.wrong(
                    f"{where}.map", 'a list, or a reference to one like {"$from": "list.result.files"}', part.over
                )
                return None
            referenced, over = self._references(part.over, previous, f"{where}.map")
            if not referenced:
                return None
            also, payload = self._references(part.step.payload, previous, f"{where}.step.payload", item=True)
            made = self._new(
                name,
                "map",
                _together(parents, referenced, also),
                where,
                step=replace(part.step, payload=payload),
                on_failure=part.step.on_failure,
                over=over,
            )
            return self._then(part.then, name, made, where)
        gate = self._new(name, "gate", [], where)
        if len(part.over) + len(self.plan.steps) > MAX_STEPS:
            self.wrong(f"{where}.map", f"at most {MAX_STEPS:,} steps in all", len(part.over))
            return None
        referenced, payload = self._references(part.step.payload, previous, f"{where}.step.payload", item=True)
        parents, each = _together(parents, referenced), replace(part.step, payload=payload)
        if len(parents) > 1 and len(part.over) > 1:
            parents = [self._new(f"{name}/begin", "gate", parents, where)]
        for index, item in enumerate(part.over):
            policy = part.step.on_failure
            made = self._new(
                f"{name}[{index}]", "job", parents, f"{where}.step", on_failure=policy, step=each, item=item
            )
            self._link([made], gate)
        if not part.over:
            self._link(parents, gate)
        return self._then(part.then, name, gate, where)

    def _then(self, then: Part | None, name: str, gate: PlannedStep, where: str) -> PlannedStep | None:
        if then is None:
            return gate
        self._ends[name] = gate
        return self.add(then, self._called(then, name, "then"), [gate], gate, f"{where}.then")

    def _called(self, part: Part, around: str, position: str) -> str:
        """The name of an inner part: its own, or its position in the surrounding part."""
        if part.name is not None:
            return f"{self._prefix}{part.name}"
        return f"{around}{position}" if position.startswith("[") else f"{around}/{position}"

    def _references(
        self, value: Any, previous: PlannedStep | None, where: str, *, item: bool = False
    ) -> tuple[list[PlannedStep], Any]:
        """Return the steps that a JSON value refers to, and the value with their full names."""
        steps: list[PlannedStep] = []
        try:
            for path, result in find_references(value):
                at = ".".join((where, *path))
                if result.of == "item":
                    if not item:
                        self.wrong(at, "$item in the step of a map only", result.written())
                elif (target := self._target(result, previous, at)) is not None:
                    steps.append(target)
        except BadReference as error:
            self.wrong(where, str(error))
            return [], value

        def named(result: Reference) -> Any:
            target = None if result.of == "item" else self._find(result, previous)
            return result.written() if target is None else replace(result, step=target.name).written()

        return steps, replace_references(value, named, unwrap=False)

    def _find(self, result: Reference, previous: PlannedStep | None) -> PlannedStep | None:
        if result.step == PREVIOUS:
            return previous
        name = f"{self._prefix}{result.step}"
        return self._ends.get(name) or self.plan.by_name.get(name)

    def _target(self, result: Reference, previous: PlannedStep | None, at: str) -> PlannedStep | None:
        target = self._find(result, previous)
        if target is None:
            near = self.near(result.step, (name.removeprefix(self._prefix) for name in self._ends))
            hint = f"; did you mean {near!r}?" if near else ""
            what = "a part before it" if result.step == PREVIOUS else "the name of a step that comes before" + hint
            self.wrong(at, what, result.step)
        elif result.of == "result" and target.type != "job":
            self.wrong(
                at, f"{result.step}.results: it is a {'map' if target.type == 'map' else 'group'}", result.written()
            )
            return None
        return target

    def add_graph(self, graph: Graph, where: str) -> None:
        """Plan parts by name, each after the ones that it names, or refers to."""
        named: dict[str, tuple[int, Part]] = {}
        for index, part in enumerate(graph.parts):
            if part.name is None:
                self.wrong(f"{where}.{index}.name", "a name: steps of a graph name one another", "nothing")
            elif part.name in named:
                self.wrong(f"{where}.{index}.name", "a name that no other part has", part.name)
            else:
                named[part.name] = (index, part)
        if not graph.parts:
            self.wrong(where, "at least one step", "none")
        owners = {inner: name for name, (_, part) in named.items() for inner in _names_in(part)} | {n: n for n in named}
        waits = {
            name: self._waits_for(part, named, owners, f"{where}.{index}") for name, (index, part) in named.items()
        }
        if self.errors:
            return
        for name in self._sorted(waits, where):
            index, part = named[name]
            lasts = (self._lasts.get(f"{self._prefix}{wait}") for wait in waits[name])
            after = [last for last in lasts if last is not None]
            self.add(part, f"{self._prefix}{name}", _together(after), None, f"{where}.{index}", of_graph=True)

    def _waits_for(self, part: Part, named: Mapping[str, Any], owners: Mapping[str, str], where: str) -> list[str]:
        result = list(part.after)
        for position, name in enumerate(part.after):
            if name == part.name:
                self.wrong(f"{where}.after.{position}", "another part: none comes after itself", name)
            elif name not in named:
                near = self.near(name, named)
                self.wrong(
                    f"{where}.after.{position}", f"did you mean {near!r}?" if near else "the name of a part", name
                )
        try:
            for step in _steps_of(part):
                result += [owners[ref.step] for _, ref in find_references(step) if ref.step in owners]
        except BadReference as error:
            self.wrong(f"{where}.payload", str(error))
        return [name for name in dict.fromkeys(result) if name in named and name != part.name]

    def _sorted(self, waits: Mapping[str, Sequence[str]], where: str) -> list[str]:
        done: dict[str, bool] = {}
        order: list[str] = []
        for start in waits:
            stack = [(start, iter(waits[start]))]
            path = [start]
            if start in done:
                continue
            done[start] = False
            while stack:
                name, rest = stack[-1]
                for item in rest:
                    if item not in done:
                        done[item] = False
                        stack.append((item, iter(waits[item])))
                        path.append(item)
                        break
                    if not done[item]:
                        circle = " → ".join([*path[path.index(item) :], item])
                        self.wrong(where, "steps that come one after the other", f"a circle: {circle}")
                        return []
                else:
                    done[name] = True
                    order.append(name)
                    stack.pop()
                    path.pop()
        return order


def _is_reference(value: Mapping[str, Any]) -> bool:
    try:
        reference = read_reference(dict(value))
    except BadReference:
        return True  # reported where it is read
    return reference is not None and reference.of != "item"


def _names_in(part: Part) -> Iterator[str]:
    """Yield the names of all parts inside a part."""
    inner = (part.step,) if isinstance(part, Map) else () if isinstance(part, Step) else part.parts
    then = (part.then,) if isinstance(part, Group | Map) and part.then is not None else ()
    for item in (*inner, *then):
        if item.name is not None:
            yield item.name
        yield from _names_in(item)


def _together(*lists: Sequence[PlannedStep]) -> list[PlannedStep]:
    return list({item.id: item for some in lists for item in some}.values())


def _steps_of(part: Part) -> Iterator[Any]:
    """Yield everything in a part that may have references."""
    if isinstance(part, Step):
        yield part.payload
    elif isinstance(part, Map):
        yield part.over if isinstance(part.over, Mapping) else None
        yield from _steps_of(part.step)
    else:
        for inner in part.parts:
            yield from _steps_of(inner)
    if isinstance(part, Group | Map) and part.then is not None:
        yield from _steps_of(part.then)
