"""`POST /v1/workflows`."""

from __future__ import annotations

from flask import Response, request

from api.answers import answer, read_body
from api.auth import caller, tenant_id
from api.operations import Operation
from api.services import services
from api.v1.submit_job import checked_key
from api.v1.workflow_models import Accepted, WorkflowBody
from jobplatform.domain.access import Scope
from jobplatform.usecases.submit_workflow import submit_workflow as submit


def submit_workflow() -> Response:
    """Accept a workflow: all its jobs are committed together, or none.

    Steps refer to the results of others with `{"$from": "step.result.path"}`; what they name is checked against the
    types that the kinds declare. With an `Idempotency-Key`, a repetition of the same request gives the same workflow.
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


OPERATION = Operation(
    "POST",
    "/workflows",
    submit_workflow,
    "Submit a workflow",
    "workflows",
    Scope.SUBMIT,
    status=202,
    answer=Accepted,
    body=WorkflowBody,
    headers=(("Idempotency-Key", "a repetition of the request with the same key gives the same workflow (24 h)"),),
    problems=(400, 403, 409, 413, 415, 422, 429),
    logged=False,
)
