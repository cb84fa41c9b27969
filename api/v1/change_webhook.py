"""`PATCH /v1/webhooks/{id}`."""

from __future__ import annotations

from uuid import UUID

from flask import Response

from api.answers import answer, read_body
from api.auth import tenant_id
from api.operations import Operation
from api.services import services
from api.v1.webhook_models import Webhook, WebhookChange
from jobplatform.domain.access import Scope
from jobplatform.usecases import manage_webhooks as usecase


def change_webhook(webhook_id: UUID) -> Response:
    """Change what is named; enable or disable it.

    Enabled again it is told of what comes from now on. What it has missed comes by a replay.
    """
    has = services()
    changes = read_body(WebhookChange, has.settings.max_body_bytes).model_dump(exclude_unset=True)
    return answer(usecase.change_endpoint(has.ledger, has.settings, tenant_id(), webhook_id, changes))


OPERATION = Operation(
    "PATCH",
    "/webhooks/<uuid:webhook_id>",
    change_webhook,
    "Change a webhook",
    "webhooks",
    Scope.ADMIN,
    answer=Webhook,
    body=WebhookChange,
    problems=(400, 404, 413, 415, 422),
)
