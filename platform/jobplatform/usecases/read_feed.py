"""A tenant's feed of events: pages of it, and new events, without gaps or duplicates."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from jobplatform.domain.feeds import FeedEvent, FeedPosition, Wanted
from jobplatform.ledger import feed
from jobplatform.ledger.session import Ledger

#: events that one page reads: it may be short, or empty, and still have a next one (I7)
MOST_EXAMINED = 2000
#: greater than all transaction ids and event ids
BEHIND_ALL = 10**17


def read_page(
    ledger: Ledger, tenant_id: UUID, behind: FeedPosition, wanted: Wanted, limit: int
) -> tuple[list[FeedEvent], FeedPosition, bool]:
    """Return the events after a position, oldest first, the position of the next page, and whether there are more."""
    horizon, result = feed.read_feed(ledger, {tenant_id: behind}, MOST_EXAMINED)
    seen = with_kinds(ledger, [item for item in result[tenant_id] if item.position.tx < horizon])
    page: list[FeedEvent] = []
    for event in seen:
        if wanted.fits(event):
            page.append(event)
        behind = event.position
        if len(page) == limit:
            return page, behind, event is not seen[-1] or len(result[tenant_id]) == MOST_EXAMINED
    return page, behind, len(result[tenant_id]) == MOST_EXAMINED and bool(seen)


def now_in(ledger: Ledger, tenant_id: UUID) -> FeedPosition:
    """Return the current end of the feed: the position after all its events."""
    horizon, _ = feed.read_feed(ledger, {tenant_id: FeedPosition(BEHIND_ALL, 0)}, 1)
    return FeedPosition(horizon - 1, BEHIND_ALL)


def with_kinds(ledger: Ledger, events: Sequence[FeedEvent]) -> list[FeedEvent]:
    """Return events with the kind and queue of their jobs."""
    ids = list({event.job_id for event in events})
    with ledger.statement() as connection:
        known = feed.kinds_of(connection, ids)
    return [
        replace(event, kind=known[event.job_id][0], queue=known[event.job_id][1]) if event.job_id in known else event
        for event in events
    ]


def follow(
    ledger: Ledger, behind: Mapping[UUID, FeedPosition], limit: int, named: Container[UUID]
) -> tuple[int, dict[UUID, list[FeedEvent]]]:
    """Call `ledger.feed.read_feed` for recent events only; those of the tenants in `named` get kinds and queues."""
    horizon, result = feed.read_feed(ledger, behind, limit, since=datetime.now(UTC) - feed.FOLLOW_BACK)
    for tenant_id, events in result.items():
        if events and tenant_id in named:
            result[tenant_id] = with_kinds(ledger, events)
    return horizon, result


def progress_of(ledger: Ledger, job_ids: Sequence[UUID]) -> dict[UUID, Any]:
    """Return id → progress of the running jobs that have reported any."""
    with ledger.statement() as connection:
        return feed.progress_of(connection, job_ids)
