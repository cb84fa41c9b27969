"""`POST /v1/webhooks/{id}/replay`."""

from __future__ import annotations

from uuid import UUID

from flask import Response

from api.answers import answer, read_body
from api.auth import tenant_id
from api.operations import Operation
from api.services import services
from api.v1.webhook_models import Webhook, WebhookReplayBody
from jobplatform.domain.access import Scope
from jobplatform.usecases import manage_webhooks as usecase


def replay_webhook(webhook_id: UUID) -> Response:
    """Tell a webhook of what has happened since a time and was not delivered to it, or of all of it.

    What it was not told because it was disabled is told now. This goes on in the background (`replaying`).
    """
    has = services()
    body = read_body(WebhookReplayBody, has.settings.max_body_bytes)
    found = usecase.replay_since(has.ledger, tenant_id(), webhook_id, body.since, everything=body.everything)
    return answer(found, 202)


OPERATION = Operation(
    "POST",
    "/webhooks/<uuid:webhook_id>/replay",
    replay_webhook,
    "Tell a webhook again from a time on",
    "webhooks",
    Scope.ADMIN,
    status=202,
    answer=Webhook,
    body=WebhookReplayBody,
    problems=(400, 404, 413, 415, 422),
)
