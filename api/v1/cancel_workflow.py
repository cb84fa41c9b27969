"""`POST /v1/workflows/{id}/cancel`."""

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
from jobplatform.usecases import cancel_workflow as usecase


def cancel_workflow(workflow_id: UUID) -> Response:
    """Call a workflow off: what waits at once; what runs is told, and killed after a grace. Repeating changes nothing.

    `state` is `stopping` until nothing of it runs any more. One that has ended otherwise answers 409.
    """
    has = services()
    body = read_optional(CancelBody, has.settings.max_body_bytes)
    found = usecase.cancel_workflow(has.ledger, tenant_id(), workflow_id, reason=body.reason, by=caller().key_name)
    return answer(found.as_dict(), 202)


OPERATION = Operation(
    "POST",
    "/workflows/<uuid:workflow_id>/cancel",
    cancel_workflow,
    "Cancel a workflow",
    "workflows",
    Scope.CONTROL,
    status=202,
    answer=Workflow,
    body=CancelBody,
    body_required=False,
    problems=(400, 404, 409, 413, 415, 422),
)
