"""`GET /v1/webhooks/{id}/messages`."""

from __future__ import annotations

from uuid import UUID

from flask import Response

from api.answers import answer, read_query
from api.auth import tenant_id
from api.operations import Operation
from api.services import services
from api.v1.webhook_models import MessagePage, MessagesQuery
from jobplatform.domain.access import Scope
from jobplatform.usecases import manage_webhooks as usecase


def list_messages(webhook_id: UUID) -> Response:
    """List messages, newest first, each with how its delivery goes; the runs of its job are the attempts."""
    query = read_query(MessagesQuery)
    found, cursor = usecase.list_messages(
        services().ledger, tenant_id(), webhook_id, before=query.cursor, limit=query.limit
    )
    return answer({"messages": found, "next_cursor": cursor})


OPERATION = Operation(
    "GET",
    "/webhooks/<uuid:webhook_id>/messages",
    list_messages,
    "List what a webhook was told",
    "webhooks",
    Scope.ADMIN,
    answer=MessagePage,
    query=MessagesQuery,
    problems=(404, 422),
)
