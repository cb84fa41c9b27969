"""`DELETE /v1/webhooks/{id}`."""

from __future__ import annotations

from uuid import UUID

from flask import Response

from api.auth import tenant_id
from api.operations import Operation
from api.services import services
from jobplatform.domain.access import Scope
from jobplatform.usecases import manage_webhooks as usecase


def delete_webhook(webhook_id: UUID) -> Response:
    """Take a webhook away. What is on its way to it is not delivered any more."""
    usecase.delete_endpoint(services().ledger, tenant_id(), webhook_id)
    return Response(status=204)


OPERATION = Operation(
    "DELETE",
    "/webhooks/<uuid:webhook_id>",
    delete_webhook,
    "Delete a webhook",
    "webhooks",
    Scope.ADMIN,
    status=204,
    problems=(404,),
)
