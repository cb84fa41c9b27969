"""Webhook endpoints and their messages: `/v1/webhooks`."""

from __future__ import annotations

from uuid import UUID

from flask import Response

from api.auth import caller, tenant_id
from api.operations import operation
from api.responses import answer, read_body, read_optional, read_query
from api.services import services
from api.v1.schemas.webhooks import (
    Message,
    MessagePage,
    MessagesQuery,
    Webhook,
    WebhookBody,
    WebhookChange,
    WebhookList,
    WebhookReplayBody,
    WebhookRotateBody,
    WebhookWithSecret,
)
from jobplatform.domain.access import Scope
from jobplatform.usecases import manage_webhooks


@operation(
    "POST",
    "/webhooks",
    "Create a webhook",
    "webhooks",
    Scope.ADMIN,
    status=201,
    answer=WebhookWithSecret,
    body=WebhookBody,
)
def create_webhook() -> Response:
    """Create a webhook: a URL that receives the events of the tenant's jobs from now on.

    Messages are signed as specified by Standard Webhooks. The secret is shown only once.
    """
    has = services()
    endpoint = read_body(WebhookBody, has.settings.max_body_bytes).endpoint()
    made = manage_webhooks.create_endpoint(has.ledger, has.settings, tenant_id(), endpoint, by=caller().key_name)
    return answer(made, 201, {"Location": f"/v1/webhooks/{made['id']}", "Cache-Control": "no-store"})


@operation("GET", "/webhooks", "List webhooks", "webhooks", Scope.ADMIN, answer=WebhookList)
def list_webhooks() -> Response:
    """List the tenant's webhooks, oldest first, without their secrets."""
    return answer({"webhooks": manage_webhooks.list_endpoints(services().ledger, tenant_id())})


@operation(
    "GET", "/webhooks/<uuid:webhook_id>", "Read a webhook", "webhooks", Scope.ADMIN, answer=Webhook, problems=(404,)
)
def get_webhook(webhook_id: UUID) -> Response:
    """Read a webhook: whether it is enabled, and whether its deliveries succeed."""
    return answer(manage_webhooks.get_endpoint(services().ledger, tenant_id(), webhook_id))


@operation(
    "PATCH",
    "/webhooks/<uuid:webhook_id>",
    "Change a webhook",
    "webhooks",
    Scope.ADMIN,
    answer=Webhook,
    body=WebhookChange,
    problems=(404,),
)
def change_webhook(webhook_id: UUID) -> Response:
    """Change the given fields; enable or disable a webhook.

    A re-enabled webhook receives events from now on. Use a replay for those that it has missed.
    """
    has = services()
    changes = read_body(WebhookChange, has.settings.max_body_bytes).model_dump(exclude_unset=True)
    return answer(manage_webhooks.change_endpoint(has.ledger, has.settings, tenant_id(), webhook_id, changes))


@operation(
    "DELETE", "/webhooks/<uuid:webhook_id>", "Delete a webhook", "webhooks", Scope.ADMIN, status=204, problems=(404,)
)
def delete_webhook(webhook_id: UUID) -> Response:
    """Delete a webhook. Pending deliveries are dropped."""
    manage_webhooks.delete_endpoint(services().ledger, tenant_id(), webhook_id)
    return Response(status=204)


@operation(
    "POST",
    "/webhooks/<uuid:webhook_id>/rotate",
    "Rotate a webhook's secret",
    "webhooks",
    Scope.ADMIN,
    answer=WebhookWithSecret,
    body=WebhookRotateBody,
    body_required=False,
    problems=(404,),
)
def rotate_webhook(webhook_id: UUID) -> Response:
    """Rotate the secret. Both secrets sign for the overlap (one day by default)."""
    has = services()
    body = read_optional(WebhookRotateBody, has.settings.max_body_bytes)
    webhook = manage_webhooks.rotate_secret(has.ledger, tenant_id(), webhook_id, body.overlap_seconds)
    return answer(webhook, headers={"Cache-Control": "no-store"})


@operation(
    "POST",
    "/webhooks/<uuid:webhook_id>/test",
    "Send a test message",
    "webhooks",
    Scope.ADMIN,
    status=202,
    answer=Message,
    problems=(404,),
)
def test_webhook(webhook_id: UUID) -> Response:
    """Send a message of type webhook.test, with a single attempt, even to a disabled webhook.

    The result is in the list of messages, and in the job that delivers it.
    """
    has = services()
    return answer(manage_webhooks.send_test(has.ledger, has.settings, tenant_id(), webhook_id, caller().key_name), 202)


@operation(
    "GET",
    "/webhooks/<uuid:webhook_id>/messages",
    "List a webhook's messages",
    "webhooks",
    Scope.ADMIN,
    answer=MessagePage,
    query=MessagesQuery,
    problems=(404,),
)
def list_messages(webhook_id: UUID) -> Response:
    """List messages, newest first, with the state of their delivery. The runs of a message's job are its attempts."""
    query = read_query(MessagesQuery)
    messages, cursor = manage_webhooks.list_messages(
        services().ledger, tenant_id(), webhook_id, before=query.cursor, limit=query.limit
    )
    return answer({"messages": messages, "next_cursor": cursor})


@operation(
    "POST",
    "/webhooks/<uuid:webhook_id>/messages/<uuid:message_id>/replay",
    "Redeliver a message",
    "webhooks",
    Scope.ADMIN,
    status=202,
    answer=Message,
    problems=(404, 409),
)
def replay_message(webhook_id: UUID, message_id: UUID) -> Response:
    """Redeliver a message with the same webhook-id. A message that is still being delivered is left alone."""
    has = services()
    message = manage_webhooks.replay_message(has.ledger, has.settings, tenant_id(), webhook_id, message_id)
    return answer(message, 202)


@operation(
    "POST",
    "/webhooks/<uuid:webhook_id>/replay",
    "Replay events to a webhook",
    "webhooks",
    Scope.ADMIN,
    status=202,
    answer=Webhook,
    body=WebhookReplayBody,
    problems=(404,),
)
def replay_webhook(webhook_id: UUID) -> Response:
    """Replay events since a time: those that were not delivered to the webhook, or all of them.

    Includes events from times at which it was disabled. Runs in the background (`replaying`).
    """
    has = services()
    body = read_body(WebhookReplayBody, has.settings.max_body_bytes)
    result = manage_webhooks.replay_since(has.ledger, tenant_id(), webhook_id, body.since, everything=body.everything)
    return answer(result, 202)
