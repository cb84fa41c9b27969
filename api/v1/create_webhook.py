"""`POST /v1/webhooks`."""

from __future__ import annotations

from flask import Response

from api.answers import answer, read_body
from api.auth import caller, tenant_id
from api.operations import Operation
from api.services import services
from api.v1.webhook_models import WebhookBody, WebhookWithSecret
from jobplatform.domain.access import Scope
from jobplatform.usecases import manage_webhooks as usecase


def create_webhook() -> Response:
    """Make a webhook: a URL that is told what happens to the tenant's jobs, from now on.

    Messages are signed by Standard Webhooks. The secret is shown this once.
    """
    has = services()
    order = read_body(WebhookBody, has.settings.max_body_bytes).order()
    made = usecase.create_endpoint(has.ledger, has.settings, tenant_id(), order, by=caller().key_name)
    return answer(made, 201, {"Location": f"/v1/webhooks/{made['id']}", "Cache-Control": "no-store"})


OPERATION = Operation(
    "POST",
    "/webhooks",
    create_webhook,
    "Make a webhook",
    "webhooks",
    Scope.ADMIN,
    status=201,
    answer=WebhookWithSecret,
    body=WebhookBody,
    problems=(400, 413, 415, 422),
)
