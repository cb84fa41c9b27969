"""`GET /v1/webhooks/{id}`."""

from __future__ import annotations

from uuid import UUID

from flask import Response

from api.answers import answer
from api.auth import tenant_id
from api.operations import Operation
from api.services import services
from api.v1.webhook_models import Webhook
from jobplatform.domain.access import Scope
from jobplatform.usecases import manage_webhooks as usecase


def get_webhook(webhook_id: UUID) -> Response:
    """Return a webhook: whether it is enabled, and whether it takes what it is told."""
    return answer(usecase.get_endpoint(services().ledger, tenant_id(), webhook_id))


OPERATION = Operation(
    "GET",
    "/webhooks/<uuid:webhook_id>",
    get_webhook,
    "Read a webhook",
    "webhooks",
    Scope.ADMIN,
    answer=Webhook,
    problems=(404,),
)
