"""The watchdog ends a worker that is connected and consumes nothing, and no other worker."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from jobplatform.ledger import markers
from jobplatform.ledger.ids import new_id
from tests.support.ledger_harness import LedgerHarness
from workers.liveness.watchdog import Watchdog, missing_consumers
from workers.runtime.deliveries import Deliveries, Held


class Dog:
    """A watchdog with fake clock, consumers and shutdown. Its worker has one slot and consumes `email`."""

    def __init__(self, harness: LedgerHarness) -> None:
        self.harness, self.now, self.missing, self.ended = harness, 1000.0, [], 0
        self.deliveries = Deliveries(clock=lambda: self.now)
        self.deliveries.received_at = self.now
        self.watchdog = Watchdog(
            self.deliveries, ["email"], 1, 60.0, lambda: self.missing, end=self._end, clock=lambda: self.now
        )

    def _end(self) -> None:
        self.ended += 1

    def check(self, later: float = 0.0) -> int:
        self.now += later
        self.watchdog.check(self.harness.ledger)
        return self.ended


@pytest.fixture
def dog(harness: LedgerHarness) -> Dog:
    return Dog(harness)


def unread_marker(harness: LedgerHarness, seconds: float = 300) -> None:
    """Dispatch a job; record two unread markers that were sent `seconds` ago."""
    job_id = harness.submit()
    harness.dispatch(job_id)
    harness.do("UPDATE jobs SET dispatched_at = clock_timestamp() - interval '1 hour'")
    for _ in range(2):
        with harness.ledger.transaction() as connection:
            markers.put_marker(connection, new_id(), "email", 4)
    harness.do("UPDATE queue_markers SET sent_at = clock_timestamp() - make_interval(secs => :s)", s=seconds)


def test_a_worker_that_knows_that_it_does_not_consume_ends_after_the_timeout(dog: Dog) -> None:
    dog.missing = ["email"]
    assert dog.check() == 0
    assert dog.check(59) == 0
    assert dog.check(2) == 1
    assert dog.check(100) == 1, "ended once"


def test_a_consumer_that_recovers_in_time_does_not_end_the_worker(dog: Dog) -> None:
    dog.missing = ["email"]
    dog.check(50)
    dog.missing = []
    dog.check(5)
    dog.missing = ["email"]
    assert dog.check(50) == 0


def test_an_unread_marker_ends_an_idle_worker(dog: Dog, harness: LedgerHarness) -> None:
    unread_marker(harness)
    assert dog.check(59) == 0
    assert dog.check(2) == 1


@pytest.mark.parametrize(
    "reason",
    [
        "it is young",
        "it was taken",
        "its slot is busy",
        "a message came",
        "only one",
        "job started",
        "it came back just now",
    ],
)
def test_a_marker_does_not_end_the_worker_when(dog: Dog, harness: LedgerHarness, reason: str) -> None:
    unread_marker(harness, seconds=10 if reason == "it is young" else 300)
    if reason == "it was taken":
        harness.do("UPDATE queue_markers SET seen_at = clock_timestamp()")
    if reason == "only one":
        harness.do("DELETE FROM queue_markers WHERE id = (SELECT id FROM queue_markers ORDER BY sent_at LIMIT 1)")
    if reason == "its slot is busy":
        dog.deliveries.add(Held(new_id(), 1, new_id(), "test.echo"))
    if reason == "job started":
        harness.do("UPDATE jobs SET state = 'available'")
    dog.now += 61
    if reason == "it came back just now":
        dog.missing = None
        dog.check()
        dog.missing = []
    if reason == "a message came":
        dog.deliveries.received_at = dog.now - 5
    assert dog.check() == 0


def test_missing_consumers_are_reported_only_while_the_client_is_connected() -> None:
    tasks = SimpleNamespace(consuming_from=lambda name: name == "email")
    consumer = SimpleNamespace(connection=SimpleNamespace(connected=True), task_consumer=tasks)
    worker = SimpleNamespace(consumer=consumer)
    assert missing_consumers(worker, ["email", "video"]) == ["video"]
    consumer.task_consumer = None
    assert missing_consumers(worker, ["email"]) == ["email"]
    consumer.connection.connected = False
    assert missing_consumers(worker, ["email"]) is None
    assert missing_consumers(SimpleNamespace(consumer=None), ["email"]) is None


def lose_connections(dog: Dog, seconds: int, every: int = 1) -> int:
    """Lose a connection every `every` seconds, and check each time; return how often the worker ended."""
    ended = dog.ended
    for _ in range(0, seconds, every):
        dog.deliveries.note_lost_connection()
        ended = dog.check(every)
    return ended


def test_a_worker_that_keeps_losing_its_connection_ends(dog: Dog) -> None:
    assert lose_connections(dog, 60) == 0, "a missing queue is declared again within seconds"
    assert lose_connections(dog, 2) == 1


def test_a_quiet_period_between_losses_ends_a_reconnect_loop(dog: Dog) -> None:
    assert lose_connections(dog, 60) == 0
    assert dog.check(61) == 0
    assert lose_connections(dog, 59) == 0


def test_occasional_losses_are_not_a_reconnect_loop(dog: Dog) -> None:
    assert lose_connections(dog, 600, every=10) == 0


def test_losses_with_messages_in_between_are_not_a_reconnect_loop(dog: Dog) -> None:
    for _ in range(100):
        dog.deliveries.note_lost_connection()
        dog.deliveries.receive(new_id(), new_id())
        dog.now += 1
    dog.deliveries.note_lost_connection()
    assert dog.check() == 0
