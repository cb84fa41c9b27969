"""The feed of a tenant: no event is lost or repeated, in whatever order transactions end."""

from __future__ import annotations

import random
import threading
from uuid import UUID

import pytest
from sqlalchemy import Connection, text

from jobplatform.domain.feeds import FeedEvent, FeedPosition, Wanted, read_position
from jobplatform.domain.states import Event
from jobplatform.ledger import keys, runs
from jobplatform.ledger.ids import new_id
from jobplatform.usecases import read_feed
from jobplatform.usecases.read_feed import BEHIND_ALL
from tests.support.ledger_harness import LedgerHarness
from tests.support.waiting import eventually

EVERYTHING = Wanted(frozenset(Event))


def note(connection: Connection, harness: LedgerHarness, number: int, tenant: UUID | None = None) -> None:
    connection.execute(
        text(
            "INSERT INTO job_events (job_id, tenant_id, event, state, run_no) "
            "VALUES (:job, :tenant, 'succeeded', 'succeeded', :number)"
        ),
        {"job": new_id(), "tenant": tenant or harness.tenant_id, "number": number},
    )


class Reader:
    """A client that polls the feed."""

    def __init__(self, harness: LedgerHarness, limit: int = 1000) -> None:
        self.harness, self.limit, self.behind = harness, limit, FeedPosition()
        self.numbers: list[int] = []

    def read_until(self, count: int) -> list[int]:
        """Read until `count` events have arrived: transactions in other databases of the server delay them."""
        eventually(lambda: len(self.read()) >= count, what=f"{count} events")
        return self.numbers

    def read(self) -> list[int]:
        more = True
        while more:
            page, self.behind, more = read_feed.read_page(
                self.harness.ledger, self.harness.tenant_id, self.behind, EVERYTHING, self.limit
            )
            self.numbers += [item.run_no for item in page]
        return self.numbers


def test_the_feed_waits_for_a_transaction_that_ends_late(harness: LedgerHarness) -> None:
    """The later id becomes visible first: a feed ordered by ids alone would continue after it and miss the other."""
    reader = Reader(harness)
    with harness.ledger.transaction() as slow:
        note(slow, harness, 1)
        with harness.ledger.transaction() as fast:
            note(fast, harness, 2)
        assert reader.read() == [], "the first event may still appear"
    assert reader.read_until(2) == [1, 2]


def test_events_have_the_order_of_their_transactions_even_if_their_ids_do_not(harness: LedgerHarness) -> None:
    reader = Reader(harness)
    with harness.ledger.transaction() as first:
        first.execute(text("SELECT pg_current_xact_id()"))
        with harness.ledger.transaction() as second:
            note(second, harness, 2)
        note(first, harness, 1)
        assert reader.read() == []
    assert reader.read_until(2) == [1, 2], "the order of the transactions, not of the ids"


def test_rolled_back_events_never_appear(harness: LedgerHarness) -> None:
    reader = Reader(harness)
    with pytest.raises(ZeroDivisionError), harness.ledger.transaction() as connection:
        note(connection, harness, 1)
        raise ZeroDivisionError
    with harness.ledger.transaction() as connection:
        note(connection, harness, 2)
    assert reader.read_until(1) == [2]


@pytest.mark.parametrize("seed", range(3))
def test_readers_of_any_page_size_see_all_events_of_concurrent_writers_in_one_order(
    harness: LedgerHarness, seed: int
) -> None:
    with harness.ledger.transaction() as connection:
        other = keys.create_tenant(connection, "other")
    numbers = iter(range(10_000))
    lock = threading.Lock()
    done = threading.Event()
    written: list[int] = []
    readers = [Reader(harness, limit) for limit in (1, 3, 1000)]

    def write(mine: random.Random) -> None:
        for _ in range(25):
            try:
                with harness.ledger.transaction() as connection:
                    some = []
                    for _ in range(mine.randint(1, 4)):
                        with lock:
                            some.append(next(numbers))
                        note(connection, harness, some[-1])
                        note(connection, harness, -1, other)
                        connection.execute(text("SELECT pg_sleep(:s)"), {"s": mine.random() * 0.004})
                    if mine.random() < 0.2:
                        raise ZeroDivisionError
                with lock:
                    written.extend(some)
            except ZeroDivisionError:
                pass

    def read(reader: Reader) -> None:
        while not done.is_set():
            reader.read()
        reader.read_until(len(written))

    writers = [threading.Thread(target=write, args=(random.Random(seed * 100 + n),)) for n in range(3)]
    reading = [threading.Thread(target=read, args=(reader,)) for reader in readers]
    for item in (*writers, *reading):
        item.start()
    for writer in writers:
        writer.join()
    done.set()
    for item in reading:
        item.join()
    for reader in readers:
        assert sorted(reader.numbers) == sorted(written)
    assert readers[0].numbers == readers[1].numbers == readers[2].numbers, "all readers see the same order"


def test_the_next_page_continues_within_a_transaction_of_many_events(harness: LedgerHarness) -> None:
    with harness.ledger.transaction() as connection:
        for number in range(10):
            note(connection, harness, number)
    Reader(harness).read_until(10)
    pages, behind, more = [], FeedPosition(), True
    while more:
        page, behind, more = read_feed.read_page(harness.ledger, harness.tenant_id, behind, EVERYTHING, 4)
        pages.append([item.run_no for item in page])
    assert [number for page in pages for number in page] == list(range(10))
    assert [len(page) for page in pages] == [4, 4, 2]


def test_a_feed_that_starts_now_has_no_earlier_events_and_all_later_ones(harness: LedgerHarness) -> None:
    note_one = harness.submit()
    Reader(harness).read_until(1)
    with harness.ledger.transaction() as slow:
        note(slow, harness, 7)
        position = read_feed.now_in(harness.ledger, harness.tenant_id)
    assert read_position(str(position)) == position and position.id == BEHIND_ALL
    reader = Reader(harness)
    reader.behind = position
    assert reader.read_until(1) == [7], "the event was not visible yet"
    assert harness.events(note_one) == ["submitted"]


def test_a_feed_is_filtered_by_event_kind_state_queue_and_tenant(harness: LedgerHarness) -> None:
    job_id, lease_id = harness.running()
    with harness.ledger.statement() as connection:
        runs.write_remark(connection, job_id, lease_id, Event.LOG, {"message": "x"})
        runs.write_remark(connection, job_id, lease_id, Event.OUTPUT, {"text": "y"})
    harness.settle(job_id, lease_id)
    harness.submit()
    Reader(harness).read_until(7)

    def events(wanted: Wanted) -> list[FeedEvent]:
        return read_feed.read_page(harness.ledger, harness.tenant_id, FeedPosition(), wanted, 100)[0]

    assert "log" not in {item.event for item in events(Wanted())}, "only on request"
    (end,) = events(Wanted(events=frozenset({"succeeded"})))
    assert (end.job_id, end.kind, end.queue) == (job_id, "test.echo", "email"), "also for a job in history"
    assert [item.event for item in events(Wanted(events=frozenset({"log", "output"})))] == ["log", "output"]
    assert events(Wanted(kinds=frozenset({"none"}))) == []
    assert [item.event for item in events(Wanted(states=frozenset({"running", "succeeded"})))] == [
        "started",
        "succeeded",
    ]
    assert len(events(Wanted(queues=frozenset({"email"})))) == len(events(Wanted()))
    with harness.ledger.transaction() as connection:
        stranger = keys.create_tenant(connection, "other")
    assert read_feed.read_page(harness.ledger, stranger, FeedPosition(), EVERYTHING, 10)[0] == []


def test_events_of_one_job_become_visible_in_the_order_of_their_ids(harness: LedgerHarness) -> None:
    """Several threads of a handler write at once; readers of one job's events rely on ids alone."""
    job_id, lease_id = harness.running()
    seen: list[int] = []
    done = threading.Event()

    def write() -> None:
        for _ in range(40):
            with harness.ledger.transaction() as connection:
                runs.write_remark(connection, job_id, lease_id, Event.LOG, {"message": "x"})
                connection.execute(text("SELECT pg_sleep(0.001)"))

    def read() -> None:
        while True:
            last = done.is_set()
            with harness.ledger.statement() as connection:
                seen.extend(
                    row.id for row in runs.events_of(connection, harness.tenant_id, job_id, seen[-1] if seen else 0)
                )
            if last:
                return

    writers = [threading.Thread(target=write) for _ in range(4)]
    reader = threading.Thread(target=read)
    for item in (*writers, reader):
        item.start()
    for writer in writers:
        writer.join()
    done.set()
    reader.join()
    assert seen == harness.all("SELECT id FROM job_events WHERE job_id = :id ORDER BY id", id=job_id)
