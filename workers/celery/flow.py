"""Turn the calls of a canvas into steps of a workflow."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from celery import Celery
from celery.result import GroupResult

from jobplatform.domain.workflows import MAX_STEPS
from jobplatform.errors import FieldError, InvalidRequest
from workers.celery.call import Call
from workers.celery.collect import Collector, leaves_of
from workers.celery.ids import job_id_of
from workers.celery.submissions import ERRBACKS, kind_of_call, submission_of
from workers.celery.values import to_json

_ODD = re.compile(r"[^A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Flow:
    """Steps as JSON values, the number of final ones, and the job or gate of each task or group id."""

    name: str
    steps: list[dict[str, Any]]
    pending: int
    ids: dict[str, UUID]


def plan_calls(
    app: Celery, collected: Collector, tenant_id: UUID, prefix: str = "", result: tuple[str, UUID] | None = None
) -> Flow:
    """Turn collected calls into steps: gates where groups end, then the calls in their order.

    `prefix` is put before the steps' names. `result`, when the calls replace a run: the task or group that its step
    waits for, and that step. The step does not wait for links of the calls.
    Raises `InvalidRequest` for more than `MAX_STEPS`.
    """
    calls, groups = collected.calls, collected.groups
    if len(calls) + len(groups) > MAX_STEPS:
        wrong = FieldError("canvas", f"at most {MAX_STEPS:,} tasks and groups", f"{len(calls) + len(groups):,}")
        raise InvalidRequest(
            f"the canvas has {len(calls) + len(groups):,} tasks and groups, at most {MAX_STEPS:,} are possible: submit "
            f"it in parts, or let a task add more when it runs",
            (wrong,),
        )
    ids = {item: job_id_of(item, tenant_id) for item in (*groups, *calls)}
    names = _names(calls, groups, prefix)
    parents = {task_id: list(dict.fromkeys(call.after)) for task_id, call in calls.items()}
    # a group's gate waits for its tasks, and for the gates of groups in it
    parents |= {group_id: list(dict.fromkeys(_members(results, groups))) for group_id, results in groups.items()}
    children: dict[str, list[str]] = {item: [] for item in ids}
    for child, predecessors in parents.items():
        for parent in predecessors:
            children[parent].append(str(ids[child]))
    if result is not None:
        children[result[0]].append(str(result[1]))
    # groups whose list of results the ledger can assemble by itself: plain results, in the order of their steps
    positions = {task_id: position for position, task_id in enumerate(calls)}
    in_order = {group_id for group_id, results in groups.items() if _is_in_order(results, positions)}
    known = {item: name for item, name in names.items() if item in calls or item in in_order}
    pending = sum(not successors for successors in children.values()) if result is None else 1
    steps = []
    for position, item in enumerate(ids):
        row: dict[str, Any] = {
            "id": str(ids[item]),
            "name": names[item],
            "position": position,
            "type": "gate" if item in groups else "job",
            "pending": len(parents[item]),
            "children": children[item],
            "on_failure": "skip",
            "item": None,
        }
        if item in calls:
            row |= _job(app, calls[item], known, ids)
        steps.append(row)
    first = next(iter(calls.values()))
    return Flow(first.name if len(calls) == 1 else f"{first.name}…", steps, pending, ids)


def _job(app: Celery, call: Call, names: dict[str, str], ids: dict[str, UUID]) -> dict[str, Any]:
    kind = kind_of_call(call)
    row = submission_of(call, kind, call.payload(names))
    if call.after:  # counted from the end of its predecessors
        row["template"] = {"delay_seconds": call.delay_seconds, "start_within_seconds": call.start_within_seconds}
    if call.errbacks:
        row["errbacks"] = [_errback_submission(app, call)]
        row["skip_calls_errbacks"] = call.is_body
        if call.header_after:  # when these fail its chord has not begun, and Celery calls no errback of its body
            row["template"]["header_after"] = [str(ids[item]) for item in call.header_after]
    return row


def _errback_submission(app: Celery, call: Call) -> dict[str, Any]:
    """Return the job that calls the errbacks of a call; on the call's queue, whose workers have their code."""
    headers = {"errbacks": to_json(call.errbacks), "root_id": call.headers.get("root_id")}
    return {
        "queue": call.queue,
        "kind": ERRBACKS,
        "priority": call.priority,
        "payload": {"args": [], "kwargs": {}, "headers": headers},
        "tags": [],
        "max_attempts": 3,
        "crash_limit": 3,
        "lost_limit": 50,
        "limit_keys": [],
        "limit_units": [],
    }


def _members(results: Iterable[Any], groups: dict[str, list[Any]]) -> Iterable[str]:
    for result in results:
        if isinstance(result, GroupResult) and result.id not in groups:
            yield from leaves_of(result.results)
        else:
            yield result.id


def _is_in_order(results: list[Any], positions: dict[str, int]) -> bool:
    if any(isinstance(result, GroupResult) or result.id not in positions for result in results):
        return False
    order = [positions[result.id] for result in results]
    return order == sorted(set(order))


def _names(calls: dict[str, Call], groups: dict[str, list[Any]], prefix: str) -> dict[str, str]:
    """Name every step after its task: `add`, `add-2`, …; gates `group`, `group-2`, …."""
    counts: dict[str, int] = {}
    taken: set[str] = set()
    names = {}
    for item in (*groups, *calls):
        base = name = "group" if item in groups else _ODD.sub("-", calls[item].name.rpartition(".")[2])[:80] or "task"
        while name in taken:
            counts[base] = counts.get(base, 1) + 1
            name = f"{base}-{counts[base]}"
        taken.add(name)
        names[item] = f"{prefix}{name}"
    return names
