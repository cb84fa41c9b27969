"""`POST /v1/webhooks/{id}/messages/{message_id}/replay`."""

from __future__ import annotations

from uuid import UUID

from flask import Response

from api.answers import answer
from api.auth import tenant_id
from api.operations import Operation
from api.services import services
from api.v1.webhook_models import Message
from jobplatform.domain.access import Scope
from jobplatform.usecases import manage_webhooks as usecase


def replay_message(webhook_id: UUID, message_id: UUID) -> Response:
    """Deliver a message again, with the same webhook-id. One that is on its way stays as it is."""
    has = services()
    found = usecase.replay_message(has.ledger, has.settings, tenant_id(), webhook_id, message_id)
    return answer(found, 202)


OPERATION = Operation(
    "POST",
    "/webhooks/<uuid:webhook_id>/messages/<uuid:message_id>/replay",
    replay_message,
    "Deliver a message again",
    "webhooks",
    Scope.ADMIN,
    status=202,
    answer=Message,
    problems=(404, 409),
)
