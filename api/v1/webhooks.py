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
    "Make a webhook",
    "webhooks",
    Scope.ADMIN,
    status=201,
    answer=WebhookWithSecret,
    body=WebhookBody,
    problems=(400, 413, 415, 422),
)
def create_webhook() -> Response:
    """Make a webhook: a URL that is told what happens to the tenant's jobs, from now on.

    Messages are signed by Standard Webhooks. The secret is shown this once.
    """
    has = services()
    order = read_body(WebhookBody, has.settings.max_body_bytes).order()
    made = manage_webhooks.create_endpoint(has.ledger, has.settings, tenant_id(), order, by=caller().key_name)
    return answer(made, 201, {"Location": f"/v1/webhooks/{made['id']}", "Cache-Control": "no-store"})


@operation("GET", "/webhooks", "List webhooks", "webhooks", Scope.ADMIN, answer=WebhookList)
def list_webhooks() -> Response:
    """List the tenant's webhooks, oldest first, without their secrets."""
    return answer({"webhooks": manage_webhooks.list_endpoints(services().ledger, tenant_id())})


@operation(
    "GET", "/webhooks/<uuid:webhook_id>", "Read a webhook", "webhooks", Scope.ADMIN, answer=Webhook, problems=(404,)
)
def get_webhook(webhook_id: UUID) -> Response:
    """Return a webhook: whether it is enabled, and whether it takes what it is told."""
    return answer(manage_webhooks.get_endpoint(services().ledger, tenant_id(), webhook_id))


@operation(
    "PATCH",
    "/webhooks/<uuid:webhook_id>",
    "Change a webhook",
    "webhooks",
    Scope.ADMIN,
    answer=Webhook,
    body=WebhookChange,
    problems=(400, 404, 413, 415, 422),
)
def change_webhook(webhook_id: UUID) -> Response:
    """Change what is named; enable or disable it.

    Enabled again it is told of what comes from now on. What it has missed comes by a replay.
    """
    has = services()
    changes = read_body(WebhookChange, has.settings.max_body_bytes).model_dump(exclude_unset=True)
    return answer(manage_webhooks.change_endpoint(has.ledger, has.settings, tenant_id(), webhook_id, changes))


@operation(
    "DELETE", "/webhooks/<uuid:webhook_id>", "Delete a webhook", "webhooks", Scope.ADMIN, status=204, problems=(404,)
)
def delete_webhook(webhook_id: UUID) -> Response:
    """Take a webhook away. What is on its way to it is not delivered any more."""
    manage_webhooks.delete_endpoint(services().ledger, tenant_id(), webhook_id)
    return Response(status=204)


@operation(
    "POST",
    "/webhooks/<uuid:webhook_id>/rotate",
    "Exchange a webhook's secret",
    "webhooks",
    Scope.ADMIN,
    answer=WebhookWithSecret,
    body=WebhookRotateBody,
    body_required=False,
    problems=(400, 404, 413, 415, 422),
)
def rotate_webhook(webhook_id: UUID) -> Response:
    """Sign with a new secret; the old one signs beside it for the overlap (a day, unless said otherwise)."""
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
    """Send a message of the type webhook.test, in one attempt, whether the webhook is enabled or not.

    How it went is in the list of messages, and in the job that delivers it.
    """
    has = services()
    return answer(manage_webhooks.send_test(has.ledger, has.settings, tenant_id(), webhook_id, caller().key_name), 202)


@operation(
    "GET",
    "/webhooks/<uuid:webhook_id>/messages",
    "List what a webhook was told",
    "webhooks",
    Scope.ADMIN,
    answer=MessagePage,
    query=MessagesQuery,
    problems=(404, 422),
)
def list_messages(webhook_id: UUID) -> Response:
    """List messages, newest first, each with how its delivery goes; the runs of its job are the attempts."""
    query = read_query(MessagesQuery)
    messages, cursor = manage_webhooks.list_messages(
        services().ledger, tenant_id(), webhook_id, before=query.cursor, limit=query.limit
    )
    return answer({"messages": messages, "next_cursor": cursor})


@operation(
    "POST",
    "/webhooks/<uuid:webhook_id>/messages/<uuid:message_id>/replay",
    "Deliver a message again",
    "webhooks",
    Scope.ADMIN,
    status=202,
    answer=Message,
    problems=(404, 409),
)
def replay_message(webhook_id: UUID, message_id: UUID) -> Response:
    """Deliver a message again, with the same webhook-id. One that is on its way stays as it is."""
    has = services()
    message = manage_webhooks.replay_message(has.ledger, has.settings, tenant_id(), webhook_id, message_id)
    return answer(message, 202)


@operation(
    "POST",
    "/webhooks/<uuid:webhook_id>/replay",
    "Tell a webhook again from a time on",
    "webhooks",
    Scope.ADMIN,
    status=202,
    answer=Webhook,
    body=WebhookReplayBody,
    problems=(400, 404, 413, 415, 422),
)
def replay_webhook(webhook_id: UUID) -> Response:
    """Tell a webhook of what has happened since a time and was not delivered to it, or of all of it.

    What it was not told because it was disabled is told now. This goes on in the background (`replaying`).
    """
    has = services()
    body = read_body(WebhookReplayBody, has.settings.max_body_bytes)
    result = manage_webhooks.replay_since(has.ledger, tenant_id(), webhook_id, body.since, everything=body.everything)
    return answer(result, 202)
