"""`POST /v1/webhooks/{id}/rotate`."""

from __future__ import annotations

from uuid import UUID

from flask import Response

from api.answers import answer, read_optional
from api.auth import tenant_id
from api.operations import Operation
from api.services import services
from api.v1.webhook_models import WebhookRotateBody, WebhookWithSecret
from jobplatform.domain.access import Scope
from jobplatform.usecases import manage_webhooks as usecase


def rotate_webhook(webhook_id: UUID) -> Response:
    """Sign with a new secret; the old one signs beside it for the overlap (a day, unless said otherwise)."""
    has = services()
    body = read_optional(WebhookRotateBody, has.settings.max_body_bytes)
    found = usecase.rotate_secret(has.ledger, tenant_id(), webhook_id, body.overlap_seconds)
    return answer(found, headers={"Cache-Control": "no-store"})


OPERATION = Operation(
    "POST",
    "/webhooks/<uuid:webhook_id>/rotate",
    rotate_webhook,
    "Exchange a webhook's secret",
    "webhooks",
    Scope.ADMIN,
    answer=WebhookWithSecret,
    body=WebhookRotateBody,
    body_required=False,
    problems=(400, 404, 413, 415, 422),
)
