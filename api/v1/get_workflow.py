"""`GET /v1/workflows/{id}`, with `?wait=SECONDS`."""

from __future__ import annotations

from uuid import UUID

from flask import Response

from api.answers import answer, read_query
from api.auth import tenant_id
from api.ends import when_ended
from api.operations import Operation
from api.services import services
from api.v1.models import WaitQuery
from api.v1.workflow_models import Workflow
from jobplatform.domain.access import Scope
from jobplatform.domain.workflows import WORKFLOW_ENDED
from jobplatform.usecases import read_workflows


def get_workflow(workflow_id: UUID) -> Response:
    """Read a workflow: its state, and how many of its jobs are where. With `?wait=SECONDS`, when it has ended."""
    query = read_query(WaitQuery)
    ledger, tenant = services().ledger, tenant_id()
    found = when_ended(
        workflow_id,
        query.wait,
        lambda: read_workflows.get_workflow(ledger, tenant, workflow_id),
        lambda one: one.state in WORKFLOW_ENDED,
    )
    return answer(found.as_dict())


OPERATION = Operation(
    "GET",
    "/workflows/<uuid:workflow_id>",
    get_workflow,
    "Read a workflow",
    "workflows",
    Scope.READ,
    answer=Workflow,
    query=WaitQuery,
    problems=(404, 422),
)
