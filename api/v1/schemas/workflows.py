"""Requests and answers about workflows, as pydantic models."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StrictInt, model_validator

from api.v1.schemas.base import Page, PageQuery, StrictModel
from api.v1.schemas.jobs import Failure
from jobplatform.domain.jobs import MAX_PRIORITY
from jobplatform.domain.submissions import Moment, Tag
from jobplatform.domain.workflows import (
    MAX_STEPS,
    Chain,
    Graph,
    Group,
    Map,
    OnFailure,
    Part,
    Step,
    SubmitWorkflow,
    WorkflowState,
)

Name = Field(None, pattern=r"^[A-Za-z0-9_-]{1,100}$")
_FORMS = "kind (a step), chain, group, or map with step"


class PartBody(StrictModel):
    """A part of a workflow: a step (`kind` and `payload`), a `chain`, a `group`, or a `map` over a list.

    In payloads `{"$from": "step.result.path"}` is the result of a previous step, `{"$from": "group.results"}` the
    results of a group, `{"$item": ""}` the element in the step of a map; `{"$literal": …}` is the value unchanged.
    """

    name: str | None = Name
    after: list[str] = Field(
        default_factory=list, max_length=MAX_STEPS, description="of `steps`: parts that come first"
    )
    kind: str | None = Field(None, min_length=1, max_length=200)
    payload: dict[str, Any] = Field(default_factory=dict)
    on_failure: OnFailure = Field(
        "fail",
        description="what its failure means: fail the rest; ignore it (its result is null); continue with partial "
        "results (left out of lists, its dead letter is kept)",
    )
    priority: StrictInt | None = Field(None, ge=0, le=MAX_PRIORITY)
    max_attempts: StrictInt | None = Field(None, ge=1, le=100)
    tags: list[Tag] = Field(default_factory=list, max_length=20)
    run_at: Moment | None = None
    start_by: Moment | None = None
    chain: list[PartBody] | None = Field(None, max_length=MAX_STEPS)
    group: list[PartBody] | None = Field(None, max_length=MAX_STEPS)
    map: list[Any] | dict[str, Any] | None = Field(None, description="a list, or a reference to one")
    step: PartBody | None = Field(None, description="of a map: what is done with each element")
    then: PartBody | None = Field(None, description="of a group or map: what runs when all of it is over")

    @model_validator(mode="after")
    def _one_form(self) -> PartBody:
        forms = [name for name in ("kind", "chain", "group", "map") if getattr(self, name) is not None]
        if len(forms) != 1:
            raise ValueError(f"exactly one of {_FORMS}")
        (form,) = forms
        if (self.step is not None) != (form == "map"):
            raise ValueError("map and step together")
        if self.step is not None and self.step.kind is None:
            raise ValueError("a step with a kind: the step of a map is one job")
        if self.then is not None and form not in ("group", "map"):
            raise ValueError("then with a group or a map only")
        own = {
            "payload",
            "on_failure",
            "priority",
            "max_attempts",
            "tags",
            "run_at",
            "start_by",
        } & self.model_fields_set
        if form != "kind" and own:
            raise ValueError(f"{', '.join(sorted(own))} in the steps of the {form}")
        return self

    def part(self) -> Part:
        """Return the domain's part."""
        after = tuple(self.after)
        then = self.then.part() if self.then else None
        if self.kind is not None:
            return Step(
                self.kind,
                self.payload,
                self.name,
                after,
                self.on_failure,
                self.priority,
                self.max_attempts,
                tuple(self.tags),
                self.run_at,
                self.start_by,
            )
        if self.chain is not None:
            return Chain(tuple(item.part() for item in self.chain), self.name, after)
        if self.group is not None:
            return Group(tuple(item.part() for item in self.group), then, self.name, after)
        assert self.step is not None and self.map is not None, "checked above"
        each = self.step.part()
        assert isinstance(each, Step)
        return Map(self.map, each, then, self.name, after)


class WorkflowBody(StrictModel):
    """A submission of a workflow: `steps` (a graph of named parts) or one `flow` (chain, group, map, step)."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "name": "welcome",
                "steps": [
                    {
                        "name": "text",
                        "kind": "llm.chat",
                        "payload": {"messages": [{"role": "user", "content": "Welcome Ada in one line"}]},
                    },
                    {
                        "name": "mail",
                        "kind": "email.send",
                        "payload": {
                            "to": ["ada@example.com"],
                            "subject": "Welcome",
                            "text": {"$from": "text.result.content"},
                        },
                    },
                ],
            }
        },
    )

    name: str = Field("workflow", min_length=1, max_length=200)
    steps: list[PartBody] | None = Field(None, max_length=MAX_STEPS)
    flow: PartBody | None = None
    priority: StrictInt | None = Field(None, ge=0, le=MAX_PRIORITY, description="of its steps, where they have none")
    tags: list[Tag] = Field(default_factory=list, max_length=20, description="of all its steps")
    time_limit_seconds: float | None = Field(None, gt=0, le=366 * 86_400, description="for the whole, from acceptance")

    @model_validator(mode="after")
    def _one_form(self) -> WorkflowBody:
        if (self.steps is None) == (self.flow is None):
            raise ValueError("exactly one of steps and flow")
        return self

    def command(self) -> SubmitWorkflow:
        """Return the domain's command."""
        flow = self.flow.part() if self.flow else Graph(tuple(item.part() for item in self.steps or ()))
        return SubmitWorkflow(flow, self.name, self.priority, tuple(self.tags), self.time_limit_seconds)


class WorkflowRow(BaseModel):
    """A workflow, without its steps."""

    id: UUID
    name: str
    state: WorkflowState
    error: Failure | dict[str, Any] | None = Field(description="why it failed: code, message, step, job_id")
    time_limit_seconds: float | None
    deadline_at: datetime | None
    created_at: datetime
    completed_at: datetime | None


class Workflow(WorkflowRow):
    """A workflow."""

    steps: dict[str, int] = Field(
        description="its jobs by where they are: waiting, scheduled, available, dispatched, running, held, dead, done, "
        "cancelled"
    )
    progress: float = Field(description="the part of its jobs that is over, from 0 to 1")


class WorkflowPage(Page):
    """A page of workflows, newest first."""

    workflows: list[WorkflowRow]


class Accepted(BaseModel):
    """An accepted workflow, and its jobs by the names of their steps."""

    id: UUID
    steps: dict[str, UUID]


class GraphNode(BaseModel):
    """A step: a job, a gate (the end of a group), or a map that was not unfolded yet."""

    id: UUID
    name: str
    type: Literal["job", "gate", "map"]
    state: str = Field(description="its job's, where it has one")
    kind: str | None
    on_failure: OnFailure
    attempt: int | None
    progress: Any
    error: Any
    started_at: datetime | None
    completed_at: datetime | None


class GraphEdge(BaseModel):
    """`to` waits for `from`; steps that a step added or a map unfolded have an edge from it."""

    model_config = ConfigDict(populate_by_name=True)

    from_: UUID = Field(alias="from")
    to: UUID


class WorkflowGraph(BaseModel):
    """The steps of a workflow."""

    workflow: Workflow
    nodes: list[GraphNode]
    edges: list[GraphEdge]


class WorkflowsQuery(PageQuery):
    """Which workflows to list."""

    state: WorkflowState | None = None


class GraphQuery(StrictModel):
    """Format of the graph."""

    format: Literal["json", "svg"] | None = Field(None, description="default: as Accept asks, else json")
