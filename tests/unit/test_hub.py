"""The hub: followers get each event once and in order; slow and revoked followers are disconnected."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from api import hub as hub_module
from api.hub import MOST_EVENTS, MOST_UNREAD, Follower, Hub, Item, Reread, next_position
from jobplatform.domain.feeds import FeedEvent, FeedPosition
from jobplatform.domain.states import State
from jobplatform.errors import LedgerUnavailable

TENANT, KEY = uuid4(), uuid4()


def event(tx: int, number: int, job_id: UUID | None = None) -> FeedEvent:
    return FeedEvent(FeedPosition(tx, number), job_id or uuid4(), datetime.now(UTC), "due", State.AVAILABLE, 0, None)


class Ledger:
    """What the hub reads: events that become visible in any order, and a horizon."""

    def __init__(self) -> None:
        self.lines: list[FeedEvent] = []
        self.horizon = 1
        self.progress: dict[UUID, Any] = {}
        self.valid = {KEY}
        self.is_away = False
        self.polls = 0

    def follow(self, behind: Mapping[UUID, FeedPosition], named: set[UUID]) -> tuple[int, dict[UUID, list[FeedEvent]]]:
        self.polls += 1
        if self.is_away:
            raise LedgerUnavailable()
        lines = sorted(self.lines, key=lambda item: item.position)
        return self.horizon, {
            tenant: [line for line in lines if line.position > position][:MOST_EVENTS]
            for tenant, position in behind.items()
        }


def play(scene: Callable[[Hub, Ledger], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "POLL_SECONDS", 0.001)
    monkeypatch.setattr(hub_module, "PROGRESS_SECONDS", 0.0)
    monkeypatch.setattr(hub_module, "KEYS_SECONDS", 0.0)
    ledger = Ledger()
    hub = Hub(ledger.follow, lambda ids: ledger.progress, lambda ids: ledger.valid)

    async def whole() -> None:
        try:
            await scene(hub, ledger)
        finally:
            for follower in list(hub._followers):
                hub.remove(follower)
            if hub._poll is not None:
                await hub._poll  # a thread that reports to a closed loop would disturb the next test

    asyncio.run(whole())


async def polled(ledger: Ledger, times: int = 2) -> None:
    until = ledger.polls + times
    while ledger.polls < until:
        await asyncio.sleep(0.001)


def unread(follower: Follower) -> list[Item]:
    result = []
    while not follower.unread.empty():
        result.append(follower.unread.get_nowait())
    return result


def numbers(follower: Follower) -> list[int]:
    return [item.position.id for item in unread(follower) if isinstance(item, FeedEvent)]


def test_a_feed_waits_for_possible_earlier_events_and_a_job_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(hub: Hub, ledger: Ledger) -> None:
        job = uuid4()
        feed, of_job, other = Follower(TENANT, KEY), Follower(TENANT, KEY, job), Follower(TENANT, KEY, uuid4())
        for item in (feed, of_job, other):
            hub.add(item, FeedPosition(0, 0))
        ledger.horizon = 5
        ledger.lines.append(event(6, 2, job))
        await polled(ledger)
        assert (numbers(feed), numbers(of_job)) == ([], [2])
        ledger.lines.append(event(5, 1))
        ledger.horizon = 7
        await polled(ledger)
        assert numbers(feed) == [1, 2]
        ledger.lines.append(event(7, 3, job))
        ledger.horizon = 8
        await polled(ledger, 4)
        assert (numbers(feed), numbers(of_job), numbers(other)) == ([3], [3], []), "each once, however often it is read"

    play(scene, monkeypatch)


def test_a_follower_that_resumes_gets_only_events_it_has_not_received(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(hub: Hub, ledger: Ledger) -> None:
        hub.add(Follower(TENANT, KEY), FeedPosition(0, 0))
        ledger.lines += [event(1, 1), event(2, 2), event(3, 3)]
        late = Follower(TENANT, KEY, behind=FeedPosition(2, 2))
        hub.add(late, FeedPosition(3, 0))
        ledger.horizon = 4
        await polled(ledger)
        assert numbers(late) == [3]

    play(scene, monkeypatch)


def test_a_follower_that_does_not_read_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(hub: Hub, ledger: Ledger) -> None:
        slow = Follower(TENANT, KEY)
        hub.add(slow, FeedPosition(0, 0))
        ledger.horizon = 10_000
        ledger.lines = [event(n, n) for n in range(1, MOST_UNREAD + 500)]
        await polled(ledger, 4)
        items = unread(slow)
        had = [item.position.id for item in items if isinstance(item, FeedEvent)]
        assert had == list(range(1, len(had) + 1)), "no gap: it resumes after the last event"
        assert len(had) == MOST_UNREAD and items[MOST_UNREAD:] == [None]

    play(scene, monkeypatch)


def test_a_follower_that_reads_gets_all_of_a_burst(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(hub: Hub, ledger: Ledger) -> None:
        quick = Follower(TENANT, KEY)
        hub.add(quick, FeedPosition(0, 0))
        ledger.horizon = 100_000
        ledger.lines = [event(n, n) for n in range(1, 3 * MOST_EVENTS)]
        had: list[int] = []
        while len(had) < len(ledger.lines):
            item = await quick.unread.get()
            assert isinstance(item, FeedEvent)
            had.append(item.position.id)
        assert had == [line.position.id for line in ledger.lines]

    play(scene, monkeypatch)


def test_events_of_a_job_are_published_by_id_whatever_their_transactions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction may have begun before another, and written its event of this job after it."""

    async def scene(hub: Hub, ledger: Ledger) -> None:
        job = uuid4()
        follower = Follower(TENANT, KEY, job)
        hub.add(follower, FeedPosition(0, 0))
        ledger.lines, ledger.horizon = [event(100, 60, job), event(101, 50, job)], 102
        await polled(ledger)
        assert numbers(follower) == [50, 60]

    play(scene, monkeypatch)


def test_a_follower_of_a_job_rereads_its_history_after_a_full_page(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(hub: Hub, ledger: Ledger) -> None:
        job = uuid4()
        follower, stranger = Follower(TENANT, KEY, job), Follower(uuid4(), KEY, uuid4())
        hub.add(follower, FeedPosition(0, 0))
        hub.add(stranger, FeedPosition(10**9, 0))
        ledger.horizon = 100_000
        ledger.lines = [event(1, 10**6, job), *(event(n, n) for n in range(2, MOST_EVENTS + 5))]
        await polled(ledger)
        assert Reread.HISTORY in unread(follower) and unread(stranger) == []

    play(scene, monkeypatch)


def test_a_feed_that_is_added_during_a_poll_without_kinds_waits_for_the_next_poll(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scene(hub: Hub, ledger: Ledger) -> None:
        asked: list[set[UUID]] = []
        feed = Follower(TENANT, KEY)
        plain = ledger.follow

        def follow(behind: Mapping[UUID, FeedPosition], named: set[UUID]) -> tuple[int, dict[UUID, list[FeedEvent]]]:
            asked.append(set(named))
            if len(asked) == 1:
                loop.call_soon_threadsafe(hub.add, feed, FeedPosition(0, 0))
            return plain(behind, named)

        loop = asyncio.get_running_loop()
        hub._follow = follow
        hub.add(Follower(TENANT, KEY, uuid4()), FeedPosition(0, 0))
        ledger.lines, ledger.horizon = [event(1, 1)], 2
        await polled(ledger, 3)
        assert asked[0] == set() and asked[-1] == {TENANT}
        assert numbers(feed) == [1]

    play(scene, monkeypatch)


def test_progress_is_published_when_it_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(hub: Hub, ledger: Ledger) -> None:
        job = uuid4()
        follower = Follower(TENANT, KEY, job)
        hub.add(follower, FeedPosition(0, 0))
        for current in (1, 1, 2):
            ledger.progress = {job: {"current": current}}
            await polled(ledger, 3)
        assert unread(follower) == [{"current": 1}, {"current": 2}]

    play(scene, monkeypatch)


def test_a_key_that_is_no_longer_valid_ends_its_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(hub: Hub, ledger: Ledger) -> None:
        mine, others = Follower(TENANT, KEY), Follower(TENANT, uuid4())
        ledger.valid |= {others.key_id}
        hub.add(mine, FeedPosition(0, 0))
        hub.add(others, FeedPosition(0, 0))
        ledger.valid.discard(KEY)
        await polled(ledger)
        assert None in unread(mine) and unread(others) == []

    play(scene, monkeypatch)


def test_an_outage_of_the_ledger_delays_events_but_loses_none(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(hub: Hub, ledger: Ledger) -> None:
        monkeypatch.setattr(hub_module, "AWAY_SECONDS", 0.001)
        follower = Follower(TENANT, KEY)
        hub.add(follower, FeedPosition(0, 0))
        ledger.is_away = True
        ledger.lines, ledger.horizon = [event(1, 1)], 2
        await polled(ledger)
        ledger.is_away = False
        await polled(ledger)
        assert numbers(follower) == [1]

    play(scene, monkeypatch)


def test_the_poll_ends_with_the_last_follower_and_begins_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(hub: Hub, ledger: Ledger) -> None:
        first = Follower(TENANT, KEY)
        hub.add(first, FeedPosition(0, 0))
        await polled(ledger)
        hub.remove(first)
        await asyncio.sleep(0.02)
        polls = ledger.polls
        await asyncio.sleep(0.02)
        assert ledger.polls == polls and len(hub) == 0
        again = Follower(TENANT, KEY)
        ledger.lines, ledger.horizon = [event(1, 1), event(5, 5)], 6
        hub.add(again, FeedPosition(4, 0))
        await polled(ledger)
        assert numbers(again) == [5]

    play(scene, monkeypatch)


@pytest.mark.parametrize(
    ("behind", "events", "horizon", "result"),
    [
        (FeedPosition(1, 1), [], 9, FeedPosition(8, 10**17)),
        (FeedPosition(8, 10**17), [], 9, FeedPosition(8, 10**17)),
        (FeedPosition(1, 1), [event(3, 3)], 9, FeedPosition(8, 10**17)),
        (FeedPosition(1, 1), [event(3, 3)] * MOST_EVENTS, 9, FeedPosition(3, 3)),
        (FeedPosition(1, 1), [event(9, 3)] * MOST_EVENTS, 9, FeedPosition(8, 10**17)),
    ],
)
def test_where_the_next_poll_begins(
    behind: FeedPosition, events: Sequence[FeedEvent], horizon: int, result: FeedPosition
) -> None:
    assert next_position(behind, events, horizon) == result
