"""`POST /v1/webhooks/{id}/test`."""

from __future__ import annotations

from uuid import UUID

from flask import Response

from api.answers import answer
from api.auth import caller, tenant_id
from api.operations import Operation
from api.services import services
from api.v1.webhook_models import Message
from jobplatform.domain.access import Scope
from jobplatform.usecases import manage_webhooks as usecase


def test_webhook(webhook_id: UUID) -> Response:
    """Send a message of the type webhook.test, in one attempt, whether the webhook is enabled or not.

    How it went is in the list of messages, and in the job that delivers it.
    """
    has = services()
    return answer(usecase.send_test(has.ledger, has.settings, tenant_id(), webhook_id, caller().key_name), 202)


OPERATION = Operation(
    "POST",
    "/webhooks/<uuid:webhook_id>/test",
    test_webhook,
    "Send a test message",
    "webhooks",
    Scope.ADMIN,
    status=202,
    answer=Message,
    problems=(404,),
)
