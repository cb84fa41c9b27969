"""Make the messages of webhooks: what has come in the feeds of tenants that have endpoints, each event once."""

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

#: clocks and long transactions: an event may be so much older than one before it in the feed
LATE = timedelta(days=1)
#: that one look makes, of all endpoints together
MOST_MESSAGES = 5000


class Told(NamedTuple):
    """What a look did: messages written, and whether there is more to look at at once."""

    messages: int
    more: bool


def enqueue_webhooks(ledger: Ledger, kind: Kind, limit: int) -> Told:
    """Look at up to `limit` events of each endpoint's feed, and write the messages that it is to get.

    Any number of callers at once: an endpoint is moved on together with its messages, from where this caller has seen
    it, or not at all.
    """
    with ledger.statement() as connection:
        endpoints = webhooks.followers(connection)
    count, more = 0, False
    for together in _groups(endpoints):
        told = _tell(ledger, kind, together, limit)
        count, more = count + told.messages, more or told.more
    return Told(count, more)


def _groups(endpoints: list[Follower]) -> Iterable[list[Follower]]:
    """Those that look at about the same part of the feeds together; one that is being replayed keeps nobody back."""
    if current := [endpoint for endpoint in endpoints if not endpoint.replaying]:
        yield current
    for endpoint in endpoints:
        if endpoint.replaying:
            yield [endpoint]


def _tell(ledger: Ledger, kind: Kind, endpoints: list[Follower], limit: int) -> Told:
    behind: dict[UUID, FeedPosition] = {}
    for item in endpoints:
        behind[item.tenant_id] = min(item.place, behind.get(item.tenant_id, item.place))
    since = min(endpoint.at for endpoint in endpoints) - LATE
    # messages of one transaction: jobs go out in between
    limit = max(1, min(limit, MOST_MESSAGES // len(endpoints)))
    horizon, result = feed.read_feed(ledger, behind, limit, since=since)
    more = any(len(events) == limit and events[-1].place.tx < horizon for events in result.values())
    safe = {tenant: [event for event in events if event.place.tx < horizon] for tenant, events in result.items()}
    kinds_known = {tenant: with_kinds(ledger, events) for tenant, events in safe.items() if events}
    moved: list[dict[str, Any]] = []
    messages: list[dict[str, Any]] = []
    for endpoint in endpoints:
        events = [item for item in kinds_known.get(endpoint.tenant_id, []) if item.place > endpoint.place]
        place = events[-1].place if events else endpoint.place
        if len(result[endpoint.tenant_id]) < limit and endpoint.again.tx < horizon:
            place = max(place, endpoint.again)  # there is nothing more behind it: the replay is over
        if place == endpoint.place:
            continue
        moved.append(_moved(endpoint, place, max((event.at for event in events), default=endpoint.at)))
        for event in events:
            told = type_of(event)
            if told is not None and _wants(endpoint, event, told):
                messages.append(_message(endpoint, event, told))
    if not moved:
        return Told(0, more)
    return Told(webhooks.enqueue_webhooks(ledger, moved, messages, job_of(kind)), more)


def _wants(endpoint: Follower, event: FeedEvent, told: str) -> bool:
    if event.kind is None or event.kind == DELIVER:  # gone by now; or it would tell of its own messages for ever
        return False
    # transactions were under way when it was made, or a replay was asked for
    since = endpoint.replay_from_at if endpoint.replaying else None
    if event.at < (since or endpoint.created_at):
        return False
    return told in endpoint.events and allows(endpoint.kinds, event.kind)


def _moved(endpoint: Follower, place: FeedPosition, at: datetime) -> dict[str, Any]:
    return {
        "endpoint": endpoint.id,
        "from_tx": endpoint.place.tx,
        "from_id": endpoint.place.id,
        "tx": place.tx,
        "id": place.id,
        "at": max(at, endpoint.at),
    }


def _message(endpoint: Follower, event: FeedEvent, told: str) -> dict[str, Any]:
    return {
        "endpoint": endpoint.id,
        "message": new_id(),
        "event_id": event.place.id,
        "type": told,
        "about": event.job_id,
        "job_id": new_id(),
        "body": body_of(event, told),
    }
