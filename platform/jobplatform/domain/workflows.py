"""Workflows as data: steps, and how they follow one another (docs/concepts/workflows.md).

chain(step("video.fetch", {...}, name="fetch"),
      group(step("video.transcode", {"file": {"$from": "fetch.result.file"}, "height": 720}),
            step("video.transcode", {"file": {"$from": "fetch.result.file"}, "height": 1080}), name="sizes"),
      step("email.send", {..., "variables": {"files": {"$from": "sizes.results"}}}))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

#: the effect of a step's failure on the other steps
OnFailure = Literal["fail", "skip", "ignore", "continue"]
ON_FAILURE = ("fail", "skip", "ignore", "continue")
STEP_TYPES = ("job", "gate", "map")
STEP_STATES = ("waiting", "open", "joining", "done", "failed", "cancelled", "skipped")

#: steps of one workflow when it is accepted, elements of one map, steps that one run adds
MAX_STEPS = 10_000


class WorkflowState(StrEnum):
    """State of a workflow."""

    #: steps run, or wait
    RUNNING = "running"
    #: steps that have not started are being cancelled
    STOPPING = "stopping"
    #: final: every step has ended as its policy allows
    SUCCEEDED = "succeeded"
    #: a step failed whose failure counts, or the time limit has passed; it can be replayed
    FAILED = "failed"
    #: cancelled on request; it can be replayed
    CANCELLED = "cancelled"


WORKFLOW_ENDED = frozenset({WorkflowState.SUCCEEDED, WorkflowState.FAILED, WorkflowState.CANCELLED})


@dataclass(frozen=True)
class Step:
    """One job of a workflow. `after`: names of steps that come first, in a graph; references add theirs."""

    kind: str
    payload: Mapping[str, Any]
    name: str | None = None
    after: tuple[str, ...] = ()
    on_failure: OnFailure = "fail"
    priority: int | None = None
    max_attempts: int | None = None
    tags: tuple[str, ...] = ()
    run_at: datetime | None = None
    start_by: datetime | None = None


@dataclass(frozen=True)
class Chain:
    """One part after the other."""

    parts: tuple[Part, ...]
    name: str | None = None
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Group:
    """Parts in parallel. With `then` it is a chord: `then` runs when all of them have ended."""

    parts: tuple[Part, ...]
    then: Part | None = None
    name: str | None = None
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Map:
    """One step for each element of a list: given here, or the result of a step (`{"$from": "list.result.files"}`).

    In the step's payload `{"$item": ""}` is the element, and `{"$item": "path.in.it"}` a part of it.
    """

    over: Sequence[Any] | Mapping[str, Any]
    step: Step
    then: Part | None = None
    name: str | None = None
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Graph:
    """Parts by name, each after the ones that it names."""

    parts: tuple[Part, ...]
    name: str | None = None
    after: tuple[str, ...] = ()


Part = Step | Chain | Group | Map | Graph


@dataclass(frozen=True)
class SubmitWorkflow:
    """A submission of a workflow. `time_limit_seconds` limits the whole workflow, from its acceptance."""

    flow: Part
    name: str = "workflow"
    priority: int | None = None
    tags: tuple[str, ...] = ()
    time_limit_seconds: float | None = None


@dataclass
class PlannedStep:
    """A step as the ledger stores it. Gates join the parts of a group; maps unfold, then join."""

    id: str
    name: str
    position: int
    type: str
    pending: int = 0
    children: list[str] = field(default_factory=list)
    on_failure: OnFailure = "fail"
    item: Any = None
    #: kind and settings of the job, or of the jobs that a map creates
    step: Step | None = None
    #: of a map: the reference to its list
    over: Any = None


def step(kind: str, payload: Mapping[str, Any] | None = None, **options: Any) -> Step:
    """Return a step; `options` are the fields of `Step`."""
    for name in ("after", "tags"):
        if name in options:
            options[name] = tuple(options[name])
    return Step(kind, payload or {}, **options)


def chain(*parts: Part, name: str | None = None) -> Chain:
    """Return parts that run one after the other."""
    return Chain(parts, name)


def group(*parts: Part, name: str | None = None) -> Group:
    """Return parts that run in parallel."""
    return Group(parts, name=name)


def chord(parts: Sequence[Part], then: Part, name: str | None = None) -> Group:
    """Return parts that run in parallel, and a part that runs when all of them have ended."""
    return Group(tuple(parts), then, name)


def map_over(over: Sequence[Any] | Mapping[str, Any], each: Step, name: str | None = None) -> Map:
    """Return one step for each element of a list, or of a step's result: `{"$from": "list.result.files"}`."""
    return Map(over, each, name=name)
