"""Publishes events to all followers in this process: one poll of the ledger per process instead of one per stream.

A poll reads new events of the followed tenants' feeds, one index range each, so its cost depends on the number of
events, not of followers. Followers of a feed get events in the feed's order, below the horizon (`ledger.feed`);
followers of one job get its events at once, as these are always in order.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any
from uuid import UUID

from api.threads import RequestThreads
from jobplatform.domain.feeds import FeedEvent, FeedPosition
from jobplatform.errors import JobPlatformError
from jobplatform.observe.logs import get_log
from jobplatform.usecases.read_feed import BEHIND_ALL

log = get_log(__name__)

POLL_SECONDS = 0.1
PROGRESS_SECONDS = 0.5
#: pause after a failed poll (s)
AWAY_SECONDS = 1.0
#: time after which a stream ends whose key was revoked (s)
KEYS_SECONDS = 5.0
#: maximum number of events of a tenant per poll
MOST_EVENTS = 2000
#: a follower with so many unread items is too slow: its stream ends, and resumes when the caller reconnects. More than
#: one poll can deliver, as followers can't read during the delivery
MOST_UNREAD = 2 * MOST_EVENTS


class Reread(Enum):
    """In a job follower's queue: read the job's history from the ledger."""

    HISTORY = "history"


#: an item of a follower's queue: an event, progress of the job, a request to read the ledger, or the end
Item = FeedEvent | Mapping[str, Any] | Reread | None
Follow = Callable[[Mapping[UUID, FeedPosition], set[UUID]], tuple[int, dict[UUID, list[FeedEvent]]]]


@dataclass(eq=False)
class Follower:
    """A subscriber to a tenant's feed, or to one of its jobs."""

    tenant_id: UUID
    key_id: UUID
    job_id: UUID | None = None
    #: received events: of a feed by position, of a job by id
    behind: FeedPosition = field(default_factory=FeedPosition)
    unread: asyncio.Queue[Item] = field(default_factory=lambda: asyncio.Queue(MOST_UNREAD + 1))
    progress: Any = None
    is_over: bool = False

    def has_had(self, event: FeedEvent) -> bool:
        """Return whether it has received this event."""
        return event.position.id <= self.behind.id if self.job_id is not None else event.position <= self.behind

    def offer(self, item: Item) -> None:
        """Put an item into the queue. A follower whose queue is full is disconnected, as it could not continue after
        a gap.
        """
        if self.is_over:
            return
        if self.unread.qsize() < MOST_UNREAD:
            self.unread.put_nowait(item)
        else:
            self.end()

    def end(self) -> None:
        """Disconnect it after it has read its queue."""
        if not self.is_over:
            self.is_over = True
            self.unread.put_nowait(None)


class Hub:
    """All followers in this process."""

    def __init__(
        self,
        follow: Follow,
        progress: Callable[[Sequence[UUID]], Mapping[UUID, Any]],
        valid_keys: Callable[[Sequence[UUID]], set[UUID]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._follow, self._progress, self._valid_keys, self._clock = follow, progress, valid_keys, clock
        self._followers: set[Follower] = set()
        self._positions: dict[UUID, FeedPosition] = {}
        # its own thread: polls must not queue behind requests, nor requests behind polls
        self._thread = RequestThreads(1)
        self._poll: asyncio.Task[None] | None = None
        self._progress_at = self._keys_at = 0.0

    def __len__(self) -> int:
        return len(self._followers)

    def add(self, follower: Follower, now: FeedPosition) -> None:
        """Publish to a follower all events from `now` on (`usecases.read_feed.now_in`)."""
        self._followers.add(follower)
        self._positions.setdefault(follower.tenant_id, now)
        if self._poll is None or self._poll.done():
            self._poll = asyncio.create_task(self._run())

    def remove(self, follower: Follower) -> None:
        """Remove a follower."""
        self._followers.discard(follower)
        if all(item.tenant_id != follower.tenant_id for item in self._followers):
            self._positions.pop(follower.tenant_id, None)

    def end_all(self) -> None:
        """Disconnect all followers: the process ends."""
        for follower in self._followers:
            follower.end()

    async def _run(self) -> None:
        while self._followers:
            await asyncio.sleep(POLL_SECONDS)
            try:
                await self._send_events()
                await self._send_progress()
                await self._check_keys()
            except JobPlatformError as error:  # the ledger is not reachable: the positions stay
                log.warning("feeds_not_read", error=str(error))
                await asyncio.sleep(AWAY_SECONDS)

    async def _send_events(self) -> None:
        behind = dict(self._positions)
        with_kinds = {follower.tenant_id for follower in self._followers if follower.job_id is None}
        horizon, events_by_tenant = await self._thread.run(self._follow, behind, with_kinds)
        of_feeds: dict[UUID, list[Follower]] = {}
        of_jobs: dict[UUID | None, list[Follower]] = {}
        for follower in self._followers:
            if follower.job_id is None:
                of_feeds.setdefault(follower.tenant_id, []).append(follower)
            else:
                of_jobs.setdefault(follower.job_id, []).append(follower)
        for tenant_id, events in events_by_tenant.items():
            _send_to_jobs(tenant_id, events, of_jobs)
            feeds = of_feeds.get(tenant_id, ())
            if feeds and tenant_id not in with_kinds:
                continue  # the first one was added during this poll: the next poll reads kinds, too
            for event in events:
                if event.position.tx < horizon:
                    for feed in feeds:
                        _offer(feed, event)
            if tenant_id in self._positions:
                self._positions[tenant_id] = next_position(behind[tenant_id], events, horizon)

    async def _send_progress(self) -> None:
        if self._clock() < self._progress_at:
            return
        self._progress_at = self._clock() + PROGRESS_SECONDS
        followers = [follower for follower in self._followers if follower.job_id is not None]
        if followers:
            result = await self._thread.run(
                self._progress, list({follower.job_id for follower in followers if follower.job_id})
            )
            for follower in followers:
                progress = result.get(follower.job_id) if follower.job_id is not None else None
                if progress is not None and progress != follower.progress:
                    follower.progress = progress
                    follower.offer(progress)

    async def _check_keys(self) -> None:
        if self._clock() < self._keys_at:
            return
        self._keys_at = self._clock() + KEYS_SECONDS
        valid = await self._thread.run(self._valid_keys, list({follower.key_id for follower in self._followers}))
        for follower in list(self._followers):
            if follower.key_id not in valid:
                follower.end()


def _send_to_jobs(
    tenant_id: UUID, events: Sequence[FeedEvent], of_jobs: Mapping[UUID | None, Sequence[Follower]]
) -> None:
    """Publish to followers of jobs in the order of ids, in which events of one job become visible.

    After a full page there may be more events with lower ids: then the followers read the ledger.
    """
    if len(events) >= MOST_EVENTS:
        for followers in of_jobs.values():
            for follower in followers:
                if follower.tenant_id == tenant_id:
                    follower.offer(Reread.HISTORY)
        return
    for event in sorted(events, key=lambda event: event.position.id):
        for item in of_jobs.get(event.job_id, ()):
            _offer(item, event)


def _offer(follower: Follower, event: FeedEvent) -> None:
    if not follower.has_had(event):
        follower.behind = event.position
        follower.offer(event)


def next_position(behind: FeedPosition, events: Sequence[FeedEvent], horizon: int) -> FeedPosition:
    """Return where the next poll begins: events above the horizon are read again, as others may precede them."""
    if len(events) >= MOST_EVENTS and events[-1].position.tx < horizon:
        return events[-1].position
    return max(behind, FeedPosition(horizon - 1, BEHIND_ALL))
