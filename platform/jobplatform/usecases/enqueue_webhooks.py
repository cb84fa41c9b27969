"""Create webhook messages from the feeds of tenants with endpoints: one message per event."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from jobplatform.domain.access import allows
from jobplatform.domain.feeds import FeedEvent, FeedPosition
from jobplatform.domain.kinds import Kind
from jobplatform.domain.webhooks import DELIVER, body_of, type_of
from jobplatform.ledger import feed, webhooks
from jobplatform.ledger.ids import new_id
from jobplatform.ledger.session import Ledger
from jobplatform.ledger.webhooks import Follower
from jobplatform.usecases.manage_webhooks import job_of
from jobplatform.usecases.read_feed import with_kinds

#: clock skew and long transactions: an event may be older than its predecessor in the feed by this much
LATE = timedelta(days=1)
#: messages per pass, over all endpoints
MOST_MESSAGES = 5000


class Enqueued(NamedTuple):
    """Result of a pass: messages written, and whether there is more to do."""

    messages: int
    more: bool


def enqueue_webhooks(ledger: Ledger, kind: Kind, limit: int) -> Enqueued:
    """Read up to `limit` events of each endpoint's feed, and write the messages that it subscribes to.

    Safe for concurrent callers: an endpoint's cursor advances together with its messages, from the position this
    caller has read, or not at all.
    """
    with ledger.statement() as connection:
        endpoints = webhooks.followers(connection)
    count, more = 0, False
    for together in _groups(endpoints):
        page = _enqueue_page(ledger, kind, together, limit)
        count, more = count + page.messages, more or page.more
    return Enqueued(count, more)


def _groups(endpoints: list[Follower]) -> Iterable[list[Follower]]:
    """Group endpoints that read about the same part of the feeds; an endpoint in replay does not delay the others."""
    if current := [endpoint for endpoint in endpoints if not endpoint.replaying]:
        yield current
    for endpoint in endpoints:
        if endpoint.replaying:
            yield [endpoint]


def _enqueue_page(ledger: Ledger, kind: Kind, endpoints: list[Follower], limit: int) -> Enqueued:
    behind: dict[UUID, FeedPosition] = {}
    for item in endpoints:
        behind[item.tenant_id] = min(item.position, behind.get(item.tenant_id, item.position))
    since = min(endpoint.at for endpoint in endpoints) - LATE
    # messages per transaction: jobs are dispatched in between
    limit = max(1, min(limit, MOST_MESSAGES // len(endpoints)))
    horizon, result = feed.read_feed(ledger, behind, limit, since=since)
    more = any(len(events) == limit and events[-1].position.tx < horizon for events in result.values())
    safe = {tenant: [event for event in events if event.position.tx < horizon] for tenant, events in result.items()}
    kinds_known = {tenant: with_kinds(ledger, events) for tenant, events in safe.items() if events}
    moved: list[dict[str, Any]] = []
    messages: list[dict[str, Any]] = []
    for endpoint in endpoints:
        events = [item for item in kinds_known.get(endpoint.tenant_id, []) if item.position > endpoint.position]
        position = events[-1].position if events else endpoint.position
        if len(result[endpoint.tenant_id]) < limit and endpoint.again.tx < horizon:
            position = max(position, endpoint.again)  # end of the feed: the replay is complete
        if position == endpoint.position:
            continue
        moved.append(_moved(endpoint, position, max((event.at for event in events), default=endpoint.at)))
        for event in events:
            event_type = type_of(event)
            if event_type is not None and _wants(endpoint, event, event_type):
                messages.append(_message(endpoint, event, event_type))
    if not moved:
        return Enqueued(0, more)
    return Enqueued(webhooks.enqueue_webhooks(ledger, moved, messages, job_of(kind)), more)


def _wants(endpoint: Follower, event: FeedEvent, event_type: str) -> bool:
    # deleted meanwhile; or a delivery job, which would report itself forever
    if event.kind is None or event.kind == DELIVER:
        return False
    # transactions were in progress when it was created, or a replay was requested
    since = endpoint.replay_from_at if endpoint.replaying else None
    if event.at < (since or endpoint.created_at):
        return False
    return event_type in endpoint.events and allows(endpoint.kinds, event.kind)


def _moved(endpoint: Follower, position: FeedPosition, at: datetime) -> dict[str, Any]:
    return {
        "endpoint": endpoint.id,
        "from_tx": endpoint.position.tx,
        "from_id": endpoint.position.id,
        "tx": position.tx,
        "id": position.id,
        "at": max(at, endpoint.at),
    }


def _message(endpoint: Follower, event: FeedEvent, event_type: str) -> dict[str, Any]:
    return {
        "endpoint": endpoint.id,
        "message": new_id(),
        "event_id": event.position.id,
        "type": event_type,
        "about": event.job_id,
        "job_id": new_id(),
        "body": body_of(event, event_type),
    }
