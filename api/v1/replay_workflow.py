"""`POST /v1/workflows/{id}/replay`."""

from __future__ import annotations

from uuid import UUID

from flask import Response

from api.answers import answer, read_optional
from api.auth import caller, tenant_id
from api.operations import Operation
from api.services import services
from api.v1.models import CancelBody
from api.v1.workflow_models import Workflow
from jobplatform.domain.access import Scope
from jobplatform.usecases import replay_workflow as usecase


def replay_workflow(workflow_id: UUID) -> Response:
    """Run a workflow that has failed or was cancelled again, from the steps that failed: what is done stays done."""
    has = services()
    body = read_optional(CancelBody, has.settings.max_body_bytes)
    found = usecase.replay_workflow(
        has.ledger, has.hints, tenant_id(), workflow_id, by=caller().key_name, reason=body.reason
    )
    return answer(found.as_dict(), 202)


OPERATION = Operation(
    "POST",
    "/workflows/<uuid:workflow_id>/replay",
    replay_workflow,
    "Run a workflow again",
    "workflows",
    Scope.CONTROL,
    status=202,
    answer=Workflow,
    body=CancelBody,
    body_required=False,
    problems=(400, 404, 409, 413, 415, 422),
)
