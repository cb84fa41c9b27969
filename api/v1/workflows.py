"""Submit, read, cancel and replay workflows: `/v1/workflows`."""

from __future__ import annotations

from uuid import UUID

from flask import Response, request

from api.auth import caller, tenant_id
from api.long_poll import when_ended
from api.operations import operation
from api.responses import answer, read_body, read_optional, read_query
from api.services import services
from api.v1.jobs import checked_key
from api.v1.schemas.jobs import CancelBody, WaitQuery
from api.v1.schemas.workflows import (
    Accepted,
    GraphQuery,
    Workflow,
    WorkflowBody,
    WorkflowGraph,
    WorkflowPage,
    WorkflowsQuery,
)
from jobplatform.domain.access import Scope
from jobplatform.domain.workflows import WORKFLOW_ENDED
from jobplatform.observe.graph_svg import draw
from jobplatform.usecases import read_workflows
from jobplatform.usecases.cancel_workflow import cancel_workflow as cancel
from jobplatform.usecases.read_workflows import read_graph
from jobplatform.usecases.replay_workflow import replay_workflow as replay
from jobplatform.usecases.submit_workflow import submit_workflow as submit


@operation(
    "POST",
    "/workflows",
    "Submit a workflow",
    "workflows",
    Scope.SUBMIT,
    status=202,
    answer=Accepted,
    body=WorkflowBody,
    headers=(("Idempotency-Key", "repeating the request with the same key returns the same workflow (24 h)"),),
    problems=(409,),
    logged=False,
)
def submit_workflow() -> Response:
    """Accept a workflow: its jobs are committed together, or none of them.

    Steps refer to results of other steps with `{"$from": "step.result.path"}`; references are checked against the
    types that the kinds declare. Repeating the request with the same `Idempotency-Key` returns the same workflow.
    """
    has = services()
    body = read_body(WorkflowBody, has.settings.max_body_bytes)
    accepted = submit(
        has.ledger,
        has.hints,
        has.kinds,
        tenant_id(),
        body.command(),
        idempotency_key=checked_key(request.headers.get("Idempotency-Key")),
        idempotency_seconds=has.settings.idempotency_seconds,
        field_name="flow" if body.flow else "steps",
        caller=caller(),
    )
    headers = {"Location": f"/v1/workflows/{accepted.id}"}
    if not accepted.created:
        headers["Idempotent-Replayed"] = "true"
    return answer({"id": accepted.id, "steps": accepted.steps}, 202, headers)


@operation(
    "GET",
    "/workflows",
    "List workflows",
    "workflows",
    Scope.READ,
    answer=WorkflowPage,
    query=WorkflowsQuery,
)
def list_workflows() -> Response:
    """List workflows, newest first, by state. Continue with `next_cursor`."""
    query = read_query(WorkflowsQuery)
    workflows, cursor = read_workflows.list_workflows(
        services().ledger, tenant_id(), state=query.state, cursor=query.cursor, limit=query.limit
    )
    return answer({"workflows": workflows, "next_cursor": cursor})


@operation(
    "GET",
    "/workflows/<uuid:workflow_id>",
    "Read a workflow",
    "workflows",
    Scope.READ,
    answer=Workflow,
    query=WaitQuery,
    problems=(404,),
)
def get_workflow(workflow_id: UUID) -> Response:
    """Read a workflow: its state, and its jobs counted by state. With `?wait=SECONDS` the response is sent when it
    has ended."""
    query = read_query(WaitQuery)
    ledger, tenant = services().ledger, tenant_id()
    result = when_ended(
        workflow_id,
        query.wait,
        lambda: read_workflows.get_workflow(ledger, tenant, workflow_id),
        lambda item: item.state in WORKFLOW_ENDED,
    )
    return answer(result.as_dict())


SVG = "image/svg+xml"


@operation(
    "GET",
    "/workflows/<uuid:workflow_id>/graph",
    "Read the graph of a workflow",
    "workflows",
    Scope.READ,
    answer=WorkflowGraph,
    query=GraphQuery,
    problems=(404,),
)
def get_graph(workflow_id: UUID) -> Response:
    """Read the steps of a workflow with states, times and dependencies. `?format=svg` draws the graph."""
    query = read_query(GraphQuery)
    graph = read_graph(services().ledger, tenant_id(), workflow_id)
    wants_picture = request.accept_mimetypes.best_match(["application/json", SVG]) == SVG
    if query.format == "svg" or (query.format is None and wants_picture):
        headers = {
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
        }
        return Response(draw(graph.as_dict()), 200, headers, mimetype=SVG)
    return answer(graph.as_dict())


@operation(
    "POST",
    "/workflows/<uuid:workflow_id>/cancel",
    "Cancel a workflow",
    "workflows",
    Scope.CONTROL,
    status=202,
    answer=Workflow,
    body=CancelBody,
    body_required=False,
    problems=(404, 409),
)
def cancel_workflow(workflow_id: UUID) -> Response:
    """Cancel a workflow: waiting jobs at once, running ones after a grace period. Idempotent.

    `state` is `stopping` until none of its jobs runs. A workflow that has ended in another state answers 409.
    """
    has = services()
    body = read_optional(CancelBody, has.settings.max_body_bytes)
    result = cancel(has.ledger, tenant_id(), workflow_id, reason=body.reason, by=caller().key_name)
    return answer(result.as_dict(), 202)


@operation(
    "POST",
    "/workflows/<uuid:workflow_id>/replay",
    "Replay a workflow",
    "workflows",
    Scope.CONTROL,
    status=202,
    answer=Workflow,
    body=CancelBody,
    body_required=False,
    problems=(404, 409),
)
def replay_workflow(workflow_id: UUID) -> Response:
    """Replay a failed or cancelled workflow from the steps that failed. Completed steps are not repeated."""
    has = services()
    body = read_optional(CancelBody, has.settings.max_body_bytes)
    result = replay(has.ledger, has.hints, tenant_id(), workflow_id, by=caller().key_name, reason=body.reason)
    return answer(result.as_dict(), 202)
