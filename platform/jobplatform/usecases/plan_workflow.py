"""Check a flow against its kinds, and return its steps in the ledger's form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from jobplatform.domain.jobs import DEFAULT_PRIORITY, MAX_PRIORITY
from jobplatform.domain.kinds import KindRegistry
from jobplatform.domain.planning import Plan, plan_flow
from jobplatform.domain.references import Reference, is_marked, read_reference
from jobplatform.domain.result_types import ANY, Schema, check_payload, result_schema
from jobplatform.domain.texts import ESCAPED, null_error
from jobplatform.domain.workflows import MAX_STEPS, ON_FAILURE, Part, PlannedStep, Step
from jobplatform.errors import FieldError, InvalidRequest, UnknownKind
from jobplatform.ledger.ids import new_id

#: maximum size of one submission with every map unfolded
MAX_BYTES = 64 * 1024 * 1024
MAX_DEPTH = 250


@dataclass(frozen=True)
class Written:
    """Steps as JSON for the ledger, and the number of steps without successors."""

    plan: Plan
    steps: bytes
    pending: int


@dataclass(frozen=True)
class Defaults:
    """Defaults of every step."""

    priority: int = DEFAULT_PRIORITY
    tags: tuple[str, ...] = ()


def plan_workflow(
    kinds: KindRegistry,
    flow: Part,
    defaults: Defaults,
    *,
    field_name: str = "flow",
    prefix: str = "",
    name: str = "1",
    waits: str | None = None,
    first_position: int = 0,
) -> Written:
    """Plan a flow and check every step. If a run adds the flow, `waits` is the step that waits for its end, and
    `first_position` is the position after the steps that the run has added before.

    Raises `InvalidRequest`, which names every error, or `UnknownKind` if the flow has a single kind, which is unknown.
    """
    try:
        plan = plan_flow(flow, lambda: str(new_id()), prefix, field_name, name)
    except RecursionError:
        wrong = FieldError(field_name, f"JSON of at most {MAX_DEPTH} levels", "more")
        raise InvalidRequest("the workflow is nested too deeply", (wrong,)) from None
    errors: list[FieldError] = []
    checked: set[int] = set()  # the elements of a map share their step
    for entry in plan.steps:
        if entry.step is not None and id(entry.step) not in checked:
            checked.add(id(entry.step))
            errors += _check(kinds, plan, entry)
    if errors:
        if len(plan.steps) == 1 and errors[0].field.endswith(".kind"):
            kinds.get(str(plan.steps[0].step and plan.steps[0].step.kind))
        raise InvalidRequest(f"not as expected: {', '.join(item.field for item in errors[:5])}", tuple(errors[:100]))
    _check_size(plan, field_name)
    pending = len(plan.sinks)
    for entry in plan.sinks if waits is not None else ():
        entry.children.append(str(waits))
    try:
        encoded = orjson.dumps([_row(kinds, step, defaults, first_position) for step in plan.steps])
    except TypeError as error:  # orjson stops at 254 levels
        wrong = FieldError(field_name, "JSON of at most 250 levels", str(error))
        raise InvalidRequest("the workflow is nested too deeply", (wrong,)) from None
    if ESCAPED in encoded and (wrong_text := null_error(orjson.loads(encoded))):
        raise InvalidRequest("the workflow has a NUL character", (wrong_text,))
    return Written(plan, encoded, pending)


def _check_size(plan: Plan, field_name: str) -> None:
    """Refuse a flow that is too large when unfolded: every element of a map has its step's payload."""
    sizes: dict[int, int] = {}
    total = 0
    for item in plan.steps:
        if item.step is not None:
            payload = item.step.payload
            if id(payload) not in sizes:
                try:
                    sizes[id(payload)] = len(orjson.dumps(payload))
                except TypeError:
                    continue  # reported below
            total += sizes[id(payload)]
        total += 40 * len(item.children)
        if total > MAX_BYTES:
            wrong = FieldError(field_name, f"at most {MAX_BYTES:,} bytes with every map unfolded", f"{total:,} or more")
            raise InvalidRequest("the workflow is too large: give large input as an upload", (wrong,))


def _check(kinds: KindRegistry, plan: Plan, planned: PlannedStep) -> list[FieldError]:
    step, where = _step_of(planned), plan.fields[planned.name]
    if planned.type == "map":
        where = f"{where}.step"
    try:
        kind = kinds.get(step.kind)
    except UnknownKind as error:
        expected = f"{error.suggestion!r}?" if error.suggestion else f"one of {', '.join(error.known)}"
        return [FieldError(f"{where}.kind", expected, step.kind)]
    wrong = []
    for name, value, low, high in (
        ("priority", step.priority, 0, MAX_PRIORITY),
        ("max_attempts", step.max_attempts, 1, 100),
    ):
        if value is not None and not (type(value) is int and low <= value <= high):
            wrong.append(FieldError(f"{where}.{name}", f"a number from {low} to {high}", repr(value)))
    if step.on_failure not in ON_FAILURE:
        wrong.append(FieldError(f"{where}.on_failure", f"one of {', '.join(ON_FAILURE)}", repr(step.on_failure)))
    for name, moment in (("run_at", step.run_at), ("start_by", step.start_by)):
        if moment is not None and moment.tzinfo is None:
            wrong.append(FieldError(f"{where}.{name}", "a time with a zone", moment.isoformat()))
    if wrong:
        return wrong
    if step.run_at and step.start_by and step.start_by <= step.run_at:
        wrong.append(FieldError(f"{where}.start_by", "a time after run_at", step.start_by.isoformat()))

    def schema_of(result: Reference) -> Schema | None:
        if result.of == "item":
            return ANY
        target = plan.by_name.get(result.step)
        if target is None or target.step is None or result.of == "results" or target.step.kind not in kinds:
            return ANY
        return result_schema(kinds.get(target.step.kind).returns)

    return wrong + check_payload(kind, step.payload, f"{where}.payload", schema_of)


def _row(kinds: KindRegistry, planned: PlannedStep, defaults: Defaults, first_position: int) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": planned.id,
        "name": planned.name,
        "position": first_position + planned.position,
        "type": planned.type,
        "pending": planned.pending,
        "children": planned.children,
        "on_failure": planned.on_failure,
        "item": planned.item,
    }
    if planned.step is None:
        return row
    job = _planned_job(kinds, planned.step, defaults)
    if planned.type == "job":
        return row | job
    over = read_reference(planned.over)
    assert over is not None, "planned as a reference"
    row["template"] = {
        "over": over.as_dict(),
        "shown": ".".join((over.step, over.of, *over.path)),
        "limit": MAX_STEPS,
        "job": job | {"on_failure": planned.step.on_failure},
    }
    return row


def _planned_job(kinds: KindRegistry, step: Step, defaults: Defaults) -> dict[str, Any]:
    kind = kinds.get(step.kind)
    # a payload that refers to results is known only when its step starts, but its keys are needed earlier
    known = kind.parse(step.payload) if kind.limit_keys and not is_marked(step.payload) else None
    limit_keys, limit_units = kind.limits_of(known)
    return {
        "queue": kind.queue,
        "kind": kind.name,
        "priority": defaults.priority if step.priority is None else step.priority,
        "payload": dict(step.payload),
        "tags": list(dict.fromkeys((*defaults.tags, *step.tags))),
        "max_attempts": step.max_attempts or kind.max_attempts,
        "crash_limit": kind.crash_limit,
        "lost_limit": kind.lost_limit,
        "run_at": step.run_at,
        "start_by": step.start_by,
        "limit_keys": list(limit_keys),
        "limit_units": list(limit_units),
    }


def _step_of(planned: PlannedStep) -> Step:
    assert planned.step is not None
    return planned.step
