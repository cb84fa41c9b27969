"""`GET /v1/workflows`."""

from __future__ import annotations

from flask import Response

from api.answers import answer, read_query
from api.auth import tenant_id
from api.operations import Operation
from api.services import services
from api.v1.workflow_models import WorkflowPage, WorkflowsQuery
from jobplatform.domain.access import Scope
from jobplatform.usecases import read_workflows


def list_workflows() -> Response:
    """List workflows, newest first, by state. Go on with `next_cursor`."""
    query = read_query(WorkflowsQuery)
    found, cursor = read_workflows.list_workflows(
        services().ledger, tenant_id(), state=query.state, cursor=query.cursor, limit=query.limit
    )
    return answer({"workflows": found, "next_cursor": cursor})


OPERATION = Operation(
    "GET",
    "/workflows",
    list_workflows,
    "List workflows",
    "workflows",
    Scope.READ,
    answer=WorkflowPage,
    query=WorkflowsQuery,
    problems=(422,),
)
