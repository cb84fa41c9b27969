"""What happens, told to all who follow it: one poll of the ledger for a whole process, not one per stream.

A poll reads what is new in the feeds of the tenants that somebody follows, by one range of an index each: what it
costs is what happens, not how many follow. Those who follow a feed get events in the feed's order, below the horizon
(`ledger.feed`); those who follow one job get its events at once, as these are in order by themselves.
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
#: after a ledger that was away
AWAY_SECONDS = 1.0
#: how soon a stream ends whose key was revoked
KEYS_SECONDS = 5.0
#: events of a tenant that one poll reads
MOST_EVENTS = 2000
#: who has so many unread is too slow: the stream ends, and goes on where it was when the caller comes again. More than
#: one poll can bring: nobody reads while it is told
MOST_UNREAD = 2 * MOST_EVENTS


class Look(Enum):
    """What a follower of a job finds in his queue when he has to look into its history by himself."""

    AGAIN = "again"


#: what a follower finds in his queue: an event, the progress of his job, that he has to look, or the end
Item = FeedEvent | Mapping[str, Any] | Look | None
Follow = Callable[[Mapping[UUID, FeedPosition], set[UUID]], tuple[int, dict[UUID, list[FeedEvent]]]]


@dataclass(eq=False)
class Follower:
    """Somebody who follows a tenant's feed, or one of its jobs."""

    tenant_id: UUID
    key_id: UUID
    job_id: UUID | None = None
    #: what he has had: of a feed by place, of a job by id alone
    behind: FeedPosition = field(default_factory=FeedPosition)
    unread: asyncio.Queue[Item] = field(default_factory=lambda: asyncio.Queue(MOST_UNREAD + 1))
    progress: Any = None
    is_over: bool = False

    def has_had(self, event: FeedEvent) -> bool:
        """Return whether he has had this event."""
        return event.place.id <= self.behind.id if self.job_id is not None else event.place <= self.behind

    def offer(self, item: Item) -> None:
        """Put something into the queue; who does not read it is sent away, and hears nothing more: behind a hole nobody
        could go on.
        """
        if self.is_over:
            return
        if self.unread.qsize() < MOST_UNREAD:
            self.unread.put_nowait(item)
        else:
            self.end()

    def end(self) -> None:
        """Send him away, once he has read what he has."""
        if not self.is_over:
            self.is_over = True
            self.unread.put_nowait(None)


class Hub:
    """All who follow something in this process."""

    def __init__(
        self,
        follow: Follow,
        progress: Callable[[Sequence[UUID]], Mapping[UUID, Any]],
        valid_keys: Callable[[Sequence[UUID]], set[UUID]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._follow, self._progress, self._valid_keys, self._clock = follow, progress, valid_keys, clock
        self._followers: set[Follower] = set()
        self._places: dict[UUID, FeedPosition] = {}
        # a thread of its own: polls must not queue behind requests, nor requests behind polls
        self._thread = RequestThreads(1)
        self._poll: asyncio.Task[None] | None = None
        self._progress_at = self._keys_at = 0.0

    def __len__(self) -> int:
        return len(self._followers)

    def add(self, follower: Follower, now: FeedPosition) -> None:
        """Tell a follower what happens from `now` on (`usecases.read_feed.now_in`)."""
        self._followers.add(follower)
        self._places.setdefault(follower.tenant_id, now)
        if self._poll is None or self._poll.done():
            self._poll = asyncio.create_task(self._run())

    def remove(self, follower: Follower) -> None:
        """Tell him nothing any more."""
        self._followers.discard(follower)
        if all(item.tenant_id != follower.tenant_id for item in self._followers):
            self._places.pop(follower.tenant_id, None)

    def end_all(self) -> None:
        """Send everybody away: the process ends."""
        for follower in self._followers:
            follower.end()

    async def _run(self) -> None:
        while self._followers:
            await asyncio.sleep(POLL_SECONDS)
            try:
                await self._tell_events()
                await self._tell_progress()
                await self._check_keys()
            except JobPlatformError as error:  # the ledger is away: the places stay where they are
                log.warning("feeds_not_read", error=str(error))
                await asyncio.sleep(AWAY_SECONDS)

    async def _tell_events(self) -> None:
        behind = dict(self._places)
        with_kinds = {follower.tenant_id for follower in self._followers if follower.job_id is None}
        horizon, rows = await self._thread.run(self._follow, behind, with_kinds)
        of_feeds: dict[UUID, list[Follower]] = {}
        of_jobs: dict[UUID | None, list[Follower]] = {}
        for follower in self._followers:
            if follower.job_id is None:
                of_feeds.setdefault(follower.tenant_id, []).append(follower)
            else:
                of_jobs.setdefault(follower.job_id, []).append(follower)
        for tenant_id, events in rows.items():
            _tell_jobs(tenant_id, events, of_jobs)
            feeds = of_feeds.get(tenant_id, ())
            if feeds and tenant_id not in with_kinds:
                continue  # the first one has come during this poll: the next one is asked for kinds, too
            for event in events:
                if event.place.tx < horizon:
                    for feed in feeds:
                        _tell(feed, event)
            if tenant_id in self._places:
                self._places[tenant_id] = next_place(behind[tenant_id], events, horizon)

    async def _tell_progress(self) -> None:
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


def _tell_jobs(tenant_id: UUID, events: Sequence[FeedEvent], of_jobs: Mapping[UUID | None, Sequence[Follower]]) -> None:
    """Tell those who follow jobs, in the order of ids: lines of one job become visible in that order.

    Of a page that is full there may be more with lower ids: then they look by themselves.
    """
    if len(events) >= MOST_EVENTS:
        for followers in of_jobs.values():
            for follower in followers:
                if follower.tenant_id == tenant_id:
                    follower.offer(Look.AGAIN)
        return
    for event in sorted(events, key=lambda event: event.place.id):
        for item in of_jobs.get(event.job_id, ()):
            _tell(item, event)


def _tell(follower: Follower, event: FeedEvent) -> None:
    if not follower.has_had(event):
        follower.behind = event.place
        follower.offer(event)


def next_place(behind: FeedPosition, events: Sequence[FeedEvent], horizon: int) -> FeedPosition:
    """Return where the next poll begins: above the horizon once more, as others may come before what is there."""
    if len(events) >= MOST_EVENTS and events[-1].place.tx < horizon:
        return events[-1].place
    return max(behind, FeedPosition(horizon - 1, BEHIND_ALL))
