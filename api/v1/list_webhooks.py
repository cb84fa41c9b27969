"""`GET /v1/webhooks`."""

from __future__ import annotations

from flask import Response

from api.answers import answer
from api.auth import tenant_id
from api.operations import Operation
from api.services import services
from api.v1.webhook_models import WebhookList
from jobplatform.domain.access import Scope
from jobplatform.usecases import manage_webhooks as usecase


def list_webhooks() -> Response:
    """List the tenant's webhooks, oldest first, without their secrets."""
    return answer({"webhooks": usecase.list_endpoints(services().ledger, tenant_id())})


OPERATION = Operation(
    "GET",
    "/webhooks",
    list_webhooks,
    "List webhooks",
    "webhooks",
    Scope.ADMIN,
    answer=WebhookList,
)
