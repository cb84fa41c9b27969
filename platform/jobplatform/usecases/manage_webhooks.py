"""Manage webhooks: endpoints, secrets, messages, and replays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
from email_validator import EmailNotValidError, validate_email
from sqlalchemy import Connection, Row

from jobplatform.config import Settings
from jobplatform.domain.kinds import Kind, runs_in_workers
from jobplatform.domain.webhooks import TEST_TYPE, TYPES, USUAL_TYPES, deliver_kind, new_secret, wrong_with
from jobplatform.errors import FieldError, InvalidRequest, MessageGone, WebhookNotFound
from jobplatform.ledger import webhooks
from jobplatform.ledger.ids import new_id
from jobplatform.ledger.session import Ledger
from jobplatform.usecases.manage_keys import wrong_kinds
from jobplatform.usecases.read_feed import now_in

MOST_ENDPOINTS = 50
MOST_URL_CHARACTERS = 2000
#: transactions that started this long before a time may have written events after it (s)
REPLAY_MARGIN = timedelta(hours=1)
DISABLED_BY_HAND = "disabled by hand"


@dataclass(frozen=True)
class NewEndpoint:
    """Settings of a new endpoint."""

    url: str
    events: tuple[str, ...] = USUAL_TYPES
    #: kinds, or patterns of kinds, whose events it receives; None: all
    kinds: tuple[str, ...] | None = None
    description: str = ""
    #: e-mail address to notify when it is disabled
    contact: str | None = None


def create_endpoint(
    ledger: Ledger, settings: Settings, tenant_id: UUID, endpoint: NewEndpoint, *, by: str
) -> dict[str, Any]:
    """Create an endpoint. Returns its view with the secret, which is shown only once. Raises `InvalidRequest`."""
    values = {
        "url": endpoint.url,
        "events": list(dict.fromkeys(endpoint.events)),
        "kinds": list(endpoint.kinds) if endpoint.kinds is not None else None,
        "description": endpoint.description,
        "contact": endpoint.contact,
    }
    _check(settings, values)
    endpoint_id, secret = new_id(), new_secret()
    position = now_in(ledger, tenant_id)
    with ledger.transaction() as connection:
        if webhooks.count_endpoints(connection, tenant_id) >= MOST_ENDPOINTS:
            raise InvalidRequest(f"a tenant has at most {MOST_ENDPOINTS} webhooks: delete one that is not needed")
        row = {**values, "id": endpoint_id, "tenant_id": tenant_id, "secret": secret, "by": by}
        webhooks.add_endpoint(connection, row, position)
        return view_of(_endpoint(connection, tenant_id, endpoint_id)) | {"secret": secret}


def list_endpoints(ledger: Ledger, tenant_id: UUID) -> list[dict[str, Any]]:
    """Return a tenant's endpoints, oldest first, without their secrets."""
    with ledger.statement() as connection:
        return [view_of(row) for row in webhooks.list_endpoints(connection, tenant_id)]


def get_endpoint(ledger: Ledger, tenant_id: UUID, endpoint_id: UUID) -> dict[str, Any]:
    """Return an endpoint. Raises `WebhookNotFound`."""
    with ledger.statement() as connection:
        return view_of(_endpoint(connection, tenant_id, endpoint_id))


def change_endpoint(
    ledger: Ledger, settings: Settings, tenant_id: UUID, endpoint_id: UUID, changes: Mapping[str, Any]
) -> dict[str, Any]:
    """Change url, events, kinds, description, contact or `enabled`; the secret stays.

    A re-enabled endpoint receives new events; `replay_since` delivers those that it missed. Raises
    `WebhookNotFound` or `InvalidRequest`.
    """
    wanted = dict(changes)
    enabled = wanted.pop("enabled", None)
    _check(settings, wanted)
    position = now_in(ledger, tenant_id)
    with ledger.transaction() as connection:
        _endpoint(connection, tenant_id, endpoint_id, lock=True)
        if wanted:
            webhooks.change_endpoint(connection, endpoint_id, wanted)
        if enabled:
            webhooks.enable_endpoint(connection, endpoint_id, position)
        elif enabled is not None:
            webhooks.disable_endpoint(connection, endpoint_id, DISABLED_BY_HAND)
        return view_of(_endpoint(connection, tenant_id, endpoint_id))


def delete_endpoint(ledger: Ledger, tenant_id: UUID, endpoint_id: UUID) -> None:
    """Delete an endpoint; pending deliveries are dropped. Raises `WebhookNotFound`."""
    with ledger.transaction() as connection:
        _endpoint(connection, tenant_id, endpoint_id, lock=True)
        webhooks.delete_endpoint(connection, endpoint_id)


def rotate_secret(ledger: Ledger, tenant_id: UUID, endpoint_id: UUID, overlap_seconds: float) -> dict[str, Any]:
    """Rotate the secret; both sign during the overlap. Returns the view with the new secret.

    Raises `WebhookNotFound`.
    """
    secret = new_secret()
    with ledger.transaction() as connection:
        result = _endpoint(connection, tenant_id, endpoint_id, lock=True)
        webhooks.exchange_secret(connection, endpoint_id, secret, overlap_seconds)
        return view_of(result) | {"secret": secret}


def send_test(ledger: Ledger, settings: Settings, tenant_id: UUID, endpoint_id: UUID, by: str) -> dict[str, Any]:
    """Send a test message with a single attempt, even to a disabled endpoint. Returns the message.

    Raises `WebhookNotFound`.
    """
    message_id, now = new_id(), datetime.now(UTC)
    body = {"type": TEST_TYPE, "timestamp": now, "data": {"endpoint_id": str(endpoint_id), "by": by}}
    with ledger.transaction() as connection:
        _endpoint(connection, tenant_id, endpoint_id)
        _send(connection, settings, tenant_id, endpoint_id, message_id, TEST_TYPE, body, attempts=1)
        return _message(connection, endpoint_id, message_id)


def list_messages(
    ledger: Ledger, tenant_id: UUID, endpoint_id: UUID, *, before: UUID | None, limit: int
) -> tuple[list[dict[str, Any]], UUID | None]:
    """Return a page of an endpoint's messages, newest first, and the id to continue below. Raises `WebhookNotFound`."""
    with ledger.statement() as connection:
        _endpoint(connection, tenant_id, endpoint_id)
        rows = webhooks.list_messages(connection, endpoint_id, before=before, limit=limit + 1)
    return [message_view(row) for row in rows[:limit]], rows[limit - 1].id if len(rows) > limit else None


def replay_message(
    ledger: Ledger, settings: Settings, tenant_id: UUID, endpoint_id: UUID, message_id: UUID
) -> dict[str, Any]:
    """Redeliver a message with the same id, unless it is still being delivered. Returns the message.

    Raises `WebhookNotFound` and `MessageGone`.
    """
    with ledger.transaction() as connection:
        _endpoint(connection, tenant_id, endpoint_id, lock=True)
        rows = webhooks.list_messages(connection, endpoint_id, message_id=message_id)
        if not rows:
            raise WebhookNotFound(f"webhook {endpoint_id} has no message {message_id}")
        (row,) = rows
        if row.state not in (None, "succeeded", "dead", "cancelled", "expired", "discarded"):
            return message_view(row)
        body = webhooks.body_of(connection, row.job_id, row.created_at - REPLAY_MARGIN)
        if body is None:
            raise MessageGone(message_id)
        _send(connection, settings, tenant_id, endpoint_id, message_id, row.type, body)
        return _message(connection, endpoint_id, message_id)


def replay_since(
    ledger: Ledger, tenant_id: UUID, endpoint_id: UUID, since: datetime, *, everything: bool
) -> dict[str, Any]:
    """Replay the events since a time that were not delivered to an endpoint (or all of them).

    Includes events from times at which it was disabled. Runs in the background (`replaying`). Raises
    `WebhookNotFound`, and `InvalidRequest` for an endpoint that is disabled.
    """
    with ledger.statement() as connection:
        _endpoint(connection, tenant_id, endpoint_id)
        position = webhooks.position_before(connection, tenant_id, since - REPLAY_MARGIN)
    with ledger.transaction() as connection:
        result = _endpoint(connection, tenant_id, endpoint_id, lock=True)
        if result.disabled_at is not None:
            raise InvalidRequest(f"webhook {endpoint_id} is disabled: enable it first ({result.disabled_reason})")
        if position is not None:
            webhooks.replay_from(connection, endpoint_id, position, since, everything)
        return view_of(_endpoint(connection, tenant_id, endpoint_id))


def view_of(row: Row[Any]) -> dict[str, Any]:
    """Return the JSON form of an endpoint."""
    result = {name: value for name, value in row._mapping.items() if name != "tenant_id"}
    return result | {"enabled": row.disabled_at is None}


def message_view(row: Row[Any]) -> dict[str, Any]:
    """Return the JSON form of a message with the state of its delivery."""
    return {
        "id": row.id,
        "type": row.type,
        "about": row.about,
        "job_id": row.job_id,
        "created_at": row.created_at,
        "replays": row.replays,
        "state": row.state,
        "attempts": row.attempts,
        "next_at": row.next_at,
        "answer": row.result,
        "error": row.error if row.state != "succeeded" else None,
    }


def job_of(kind: Kind, attempts: int | None = None) -> bytes:
    """Return the settings of delivery jobs in the ledger's form."""
    return orjson.dumps(
        {
            "queue": kind.queue,
            "kind": kind.name,
            "max_attempts": attempts or kind.max_attempts,
            "crash_limit": kind.crash_limit,
            "lost_limit": kind.lost_limit,
        }
    )


def delivering(settings: Settings) -> Kind:
    """Return the kind of delivery jobs, for processes that submit them and do not run them."""
    return deliver_kind(settings.webhook_jobs_queue, runs_in_workers)


def _send(
    connection: Connection,
    settings: Settings,
    tenant_id: UUID,
    endpoint_id: UUID,
    message_id: UUID,
    event_type: str,
    body: Any,
    attempts: int | None = None,
) -> None:
    message = {
        "tenant": tenant_id,
        "endpoint": endpoint_id,
        "message": message_id,
        "type": event_type,
        "job_id": new_id(),
        "body": body,
    }
    webhooks.send_webhooks(connection, [message], job_of(delivering(settings), attempts))


def _message(connection: Connection, endpoint_id: UUID, message_id: UUID) -> dict[str, Any]:
    (row,) = webhooks.list_messages(connection, endpoint_id, message_id=message_id)
    return message_view(row)


def _endpoint(connection: Connection, tenant_id: UUID, endpoint_id: UUID, *, lock: bool = False) -> Row[Any]:
    row = webhooks.get_endpoint(connection, tenant_id, endpoint_id, lock=lock)
    if row is None:
        raise WebhookNotFound(f"no webhook {endpoint_id}")
    return row


def _check(settings: Settings, values: Mapping[str, Any]) -> None:
    wrong: list[FieldError] = []
    if "url" in values:
        url = values["url"]
        expected = wrong_with(url, settings.webhook_networks)
        if len(url) > MOST_URL_CHARACTERS:
            expected = f"at most {MOST_URL_CHARACTERS} characters"
        if expected:
            wrong.append(FieldError("url", expected, repr(url)[:200]))
    events = values.get("events")
    if events is not None:
        wrong += [
            FieldError(f"events.{position}", f"one of {', '.join(TYPES)}", repr(item)[:200])
            for position, item in enumerate(events)
            if item not in TYPES
        ]
        if not events:
            wrong.append(FieldError("events", f"some of {', '.join(TYPES)}", "none"))
    wrong += wrong_kinds(values.get("kinds"))
    contact = values.get("contact")
    if contact is not None:
        try:
            validate_email(contact, check_deliverability=False, globally_deliverable=False, test_environment=True)
        except EmailNotValidError as error:
            wrong.append(FieldError("contact", f"an e-mail address: {error}", repr(contact)[:200]))
    if wrong:
        raise InvalidRequest("the webhook can't work", tuple(wrong))
