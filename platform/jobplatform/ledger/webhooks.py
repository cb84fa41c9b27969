"""Endpoints of webhooks, and their messages; see `sql/98_webhooks.sql`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import Connection, Row, text

from jobplatform.domain.feeds import FeedPosition
from jobplatform.ledger.session import Ledger

_ENDPOINT = (
    "id, tenant_id, url, description, events, kinds, contact, created_at, created_by, delivered_at, failing_since, "
    "last_error, disabled_at, disabled_reason, (cursor_tx, cursor_id) < (replay_tx, replay_event_id) AS replaying"
)


def add_endpoint(connection: Connection, values: Mapping[str, Any], position: FeedPosition) -> None:
    """Create an endpoint; it gets the events after a position in the tenant's feed."""
    connection.execute(
        text(
            "INSERT INTO webhook_endpoints (id, tenant_id, url, description, events, kinds, contact, secret, "
            "created_by, cursor_tx, cursor_id, cursor_at) VALUES (:id, :tenant_id, :url, :description, :events, "
            ":kinds, :contact, :secret, :by, :cursor_tx, :cursor_id, clock_timestamp())"
        ),
        {**values, "cursor_tx": position.tx, "cursor_id": position.id},
    )


def count_endpoints(connection: Connection, tenant_id: UUID) -> int:
    """Return how many endpoints a tenant has."""
    return int(
        connection.execute(
            text("SELECT count(*) FROM webhook_endpoints WHERE tenant_id = :t"), {"t": tenant_id}
        ).scalar_one()
    )


def get_endpoint(connection: Connection, tenant_id: UUID, endpoint_id: UUID, *, lock: bool = False) -> Row[Any] | None:
    """Return an endpoint of a tenant, without its secrets."""
    statement = f"SELECT {_ENDPOINT} FROM webhook_endpoints WHERE id = :id AND tenant_id = :tenant"
    return connection.execute(
        text(statement + (" FOR UPDATE" if lock else "")), {"id": endpoint_id, "tenant": tenant_id}
    ).one_or_none()


def list_endpoints(connection: Connection, tenant_id: UUID) -> Sequence[Row[Any]]:
    """Return a tenant's endpoints, oldest first."""
    statement = f"SELECT {_ENDPOINT} FROM webhook_endpoints WHERE tenant_id = :tenant ORDER BY id"
    return connection.execute(text(statement), {"tenant": tenant_id}).all()


def change_endpoint(connection: Connection, endpoint_id: UUID, changes: Mapping[str, Any]) -> None:
    """Change some of url, description, events, kinds, contact."""
    settings = ", ".join(f"{name} = :{name}" for name in changes)
    connection.execute(text(f"UPDATE webhook_endpoints SET {settings} WHERE id = :id"), {**changes, "id": endpoint_id})


def enable_endpoint(connection: Connection, endpoint_id: UUID, position: FeedPosition) -> None:
    """Enable an endpoint, for events after a position in the feed: missed events need a replay."""
    connection.execute(
        text(
            "UPDATE webhook_endpoints SET disabled_at = NULL, disabled_reason = NULL, failing_since = NULL, "
            "cursor_tx = :tx, cursor_id = :event_id, cursor_at = clock_timestamp(), replay_tx = 0, "
            "replay_event_id = 0, replay_everything = false WHERE id = :id AND disabled_at IS NOT NULL"
        ),
        {"id": endpoint_id, "tx": position.tx, "event_id": position.id},
    )


def disable_endpoint(connection: Connection, endpoint_id: UUID, reason: str) -> None:
    """Disable an endpoint."""
    connection.execute(
        text(
            "UPDATE webhook_endpoints SET disabled_at = clock_timestamp(), disabled_reason = :reason "
            "WHERE id = :id AND disabled_at IS NULL"
        ),
        {"id": endpoint_id, "reason": reason},
    )


def delete_endpoint(connection: Connection, endpoint_id: UUID) -> None:
    """Delete an endpoint; its messages are deleted when their retention ends."""
    connection.execute(text("DELETE FROM webhook_endpoints WHERE id = :id"), {"id": endpoint_id})


def exchange_secret(connection: Connection, endpoint_id: UUID, secret: str, overlap_seconds: float) -> None:
    """Sign with a new secret from now on, and with the previous one for so long."""
    connection.execute(
        text(
            "UPDATE webhook_endpoints SET old_secret = secret, secret = :secret, "
            "old_secret_until = clock_timestamp() + make_interval(secs => :seconds) WHERE id = :id"
        ),
        {"id": endpoint_id, "secret": secret, "seconds": overlap_seconds},
    )


def replay_from(
    connection: Connection, endpoint_id: UUID, position: FeedPosition, since: datetime, everything: bool
) -> None:
    """Move an endpoint back to an earlier position in the feed: events since a time are read again."""
    connection.execute(
        text(
            "UPDATE webhook_endpoints SET "
            "(replay_tx, replay_event_id) = (SELECT p.tx, p.id FROM (VALUES (replay_tx, replay_event_id), "
            "(cursor_tx, cursor_id)) AS p (tx, id) ORDER BY p.tx DESC, p.id DESC LIMIT 1), "
            "replay_everything = :everything, replay_from_at = :since, cursor_tx = :tx, cursor_id = :event_id, "
            "cursor_at = :since "
            "WHERE id = :id AND (cursor_tx, cursor_id) > (:tx, :event_id)"
        ),
        {"id": endpoint_id, "tx": position.tx, "event_id": position.id, "since": since, "everything": everything},
    )


_FIRST = text(
    "SELECT tx, at FROM job_events WHERE tenant_id = :tenant AND tx >= :tx ORDER BY tenant_id, tx, id LIMIT 1"
)
_LAST = text("SELECT max(tx) FROM job_events WHERE tenant_id = :tenant")


def position_before(connection: Connection, tenant_id: UUID, since: datetime) -> FeedPosition | None:
    """Return a position in a tenant's feed before all events since a time; None: there are none.

    By bisection: times rise with transaction ids, except for the duration of transactions, for which the caller must
    allow. An index by time would add a cost to every event.
    """
    last = connection.execute(_LAST, {"tenant": tenant_id}).scalar()
    if last is None:
        return None
    low, high = 0, int(last) + 1
    while low < high:
        middle = (low + high) // 2
        row = connection.execute(_FIRST, {"tenant": tenant_id, "tx": middle}).one_or_none()
        if row is None or row.at >= since:
            high = middle
        else:
            low = row.tx + 1
    return FeedPosition(low, 0) if low <= last else None


class Follower:
    """An enabled endpoint and its position in the feed."""

    def __init__(self, row: Row[Any]) -> None:
        self.id: UUID = row.id
        self.tenant_id: UUID = row.tenant_id
        self.events = frozenset(row.events)
        self.kinds: tuple[str, ...] | None = tuple(row.kinds) if row.kinds is not None else None
        self.position = FeedPosition(row.cursor_tx, row.cursor_id)
        self.at: datetime = row.cursor_at
        self.created_at: datetime = row.created_at
        #: end position of a replay, and the oldest time that it includes
        self.again = FeedPosition(row.replay_tx, row.replay_event_id)
        self.replay_from_at: datetime | None = row.replay_from_at

    @property
    def replaying(self) -> bool:
        """Whether a replay is in progress."""
        return self.position < self.again


def followers(connection: Connection) -> list[Follower]:
    """Return the endpoints of all tenants that are enabled, with their positions in the feed."""
    rows = connection.execute(
        text(
            "SELECT id, tenant_id, events, kinds, cursor_tx, cursor_id, cursor_at, created_at, replay_tx, "
            "replay_event_id, replay_from_at FROM webhook_endpoints WHERE disabled_at IS NULL ORDER BY id"
        )
    )
    return [Follower(row) for row in rows]


def enqueue_webhooks(ledger: Ledger, moved: list[dict[str, Any]], messages: list[dict[str, Any]], job: bytes) -> int:
    """Call `enqueue_webhooks`: returns how many messages were written."""
    ((count,),) = ledger.call("enqueue_webhooks", _json(moved), _json(messages), job.decode())
    return int(count)


def send_webhooks(connection: Connection, messages: list[dict[str, Any]], job: bytes) -> None:
    """Call `send_webhooks`."""
    connection.execute(
        text("SELECT send_webhooks(CAST(:messages AS jsonb), CAST(:job AS jsonb))"),
        {"messages": _json(messages), "job": job.decode()},
    )


def record_webhook_response(
    ledger: Ledger, endpoint_id: UUID, error: str | None, gone: bool, patience: float
) -> str | None:
    """Call `record_webhook_response`: returns why the endpoint was disabled just now."""
    result = ledger.call("record_webhook_response", endpoint_id, error, gone, patience)
    return str(result[0][0]) if result else None


def target_of(connection: Connection, endpoint_id: UUID) -> Row[Any] | None:
    """Return the URL of an endpoint, and the secrets that sign its messages."""
    return connection.execute(
        text(
            "SELECT w.tenant_id, w.url, w.contact, w.disabled_reason, w.failing_since, clock_timestamp() AS now, "
            "CASE WHEN w.old_secret_until > clock_timestamp() THEN ARRAY[w.secret, w.old_secret] "
            "ELSE ARRAY[w.secret] END AS secrets FROM webhook_endpoints w WHERE w.id = :id"
        ),
        {"id": endpoint_id},
    ).one_or_none()


_MESSAGES = """
    SELECT m.id, m.type, m.about, m.job_id, m.replays, m.created_at, coalesce(j.state, h.state) AS state,
           coalesce(j.attempt, h.attempt) AS attempts, CASE WHEN j.state = 'scheduled' THEN j.run_at END AS next_at,
           h.result, coalesce(j.error, h.error) AS error
    FROM (SELECT * FROM webhook_messages
          WHERE endpoint_id = :endpoint AND (CAST(:before AS uuid) IS NULL OR id < :before)
              AND (CAST(:id AS uuid) IS NULL OR id = :id)
          ORDER BY id DESC LIMIT :limit) AS m
    LEFT JOIN jobs j ON j.id = m.job_id
    LEFT JOIN LATERAL (
        SELECT * FROM job_history k
        WHERE j.id IS NULL AND k.id = m.job_id AND k.finished_at >= m.created_at - interval '1 hour'
        LIMIT 1) AS h ON true
    ORDER BY m.id DESC
"""


def list_messages(
    connection: Connection,
    endpoint_id: UUID,
    *,
    before: UUID | None = None,
    message_id: UUID | None = None,
    limit: int = 1,
) -> Sequence[Row[Any]]:
    """Return messages of an endpoint, newest first, each with the state of its delivery; or `one` of them."""
    return connection.execute(
        text(_MESSAGES), {"endpoint": endpoint_id, "before": before, "id": message_id, "limit": limit}
    ).all()


def body_of(connection: Connection, job_id: UUID, since: datetime) -> Any | None:
    """Return the content of a message, from its delivery job; None if it is no longer stored."""
    return connection.execute(
        text(
            "SELECT payload -> 'body' FROM jobs WHERE id = :id UNION ALL "
            "SELECT payload -> 'body' FROM job_history WHERE id = :id AND finished_at >= :since"
        ),
        {"id": job_id, "since": since},
    ).scalar()


def forget_messages(connection: Connection, days: int, limit: int) -> int:
    """Delete up to `limit` messages that are older than this many days; returns how many."""
    return connection.execute(
        text(
            "DELETE FROM webhook_messages WHERE ctid IN (SELECT ctid FROM webhook_messages "
            "WHERE created_at < clock_timestamp() - make_interval(days => :days) ORDER BY created_at LIMIT :limit)"
        ),
        {"days": days, "limit": limit},
    ).rowcount


def _json(value: object) -> str:
    return orjson.dumps(value, option=orjson.OPT_UTC_Z).decode()
