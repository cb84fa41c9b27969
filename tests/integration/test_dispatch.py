"""Dispatch: ledger → RabbitMQ, with the real broker."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import amqp
import pytest
from sqlalchemy import text

from jobplatform.broker.connection import close, connect, connected, server_version
from jobplatform.broker.declare import declare_epoch, epoch_queue, queue_exists
from jobplatform.broker.envelope import Envelope, read_headers
from jobplatform.broker.publisher import Publisher
from jobplatform.broker.topology import TRANSIENT, choose_queue_type
from jobplatform.devstack.proxy import proxied
from jobplatform.dispatch import guard
from jobplatform.dispatch.guard import guard_epoch
from jobplatform.dispatch.policy import Policy
from jobplatform.dispatch.queue_round import RoundReport, run_round
from jobplatform.dispatch.waiting import Waiting
from jobplatform.errors import BrokerUnavailable, LedgerUnavailable, OutcomeUnknown
from jobplatform.ledger import dispatching, queues, session
from jobplatform.ledger.ids import new_id
from tests.support.ledger_harness import LedgerHarness
from tests.support.waiting import eventually


@pytest.fixture
def publisher(broker_url: str):
    result = Publisher(broker_url)
    yield result
    result.close()


def play(
    harness: LedgerHarness,
    publisher: Publisher,
    window: int = 100,
    queue: str = "email",
    batch: int = 500,
    waiting: Waiting | None = None,
) -> RoundReport:
    """Run one round, by default as a dispatcher that has just started."""
    policy = Policy()
    policy.read(harness.ledger)
    known = waiting or Waiting(policy.weight)
    if waiting is not None:
        known.sweep(partial(dispatching.sweep_flows, harness.ledger, queue), 1000)
    return run_round(harness.ledger, publisher, known, policy, queue, window, batch)


def messages(broker_url: str, queue: str) -> list[amqp.Message]:
    """Take all messages of a queue."""
    result = []
    with connected(broker_url, name="test") as connection:
        channel = connection.channel()
        while message := channel.basic_get(queue, no_ack=True):
            result.append(message)
    return result


def test_a_round_publishes_jobs_and_marks_them_dispatched(
    harness: LedgerHarness, publisher: Publisher, broker_url: str
) -> None:
    ids = [harness.submit() for _ in range(3)]
    assert play(harness, publisher).sent == 3
    assert {harness.row(job_id).state for job_id in ids} == {"dispatched"}
    sent = messages(broker_url, "email")
    assert [read_headers(message.headers) for message in sent] == [(job_id, 1, "test.echo") for job_id in ids]
    assert {message.properties["delivery_mode"] for message in sent} == {TRANSIENT}
    assert harness.events(ids[0]) == ["submitted", "dispatched"]


def test_priorities_are_strict_in_the_ledger_and_in_the_broker(
    harness: LedgerHarness, publisher, broker_url: str
) -> None:
    low, high, middle = harness.submit(priority=0), harness.submit(priority=9), harness.submit(priority=5)
    play(harness, publisher)
    assert [read_headers(message.headers)[0] for message in messages(broker_url, "email")] == [high, middle, low]


def test_the_window_bounds_jobs_in_flight_and_an_urgent_job_passes_a_full_window(
    harness: LedgerHarness, publisher
) -> None:
    for _ in range(5):
        harness.submit(priority=1)
    report = play(harness, publisher, window=2)
    assert (report.sent, report.full, report.closed) == (2, True, 1)
    report = play(harness, publisher, window=2)
    assert (report.sent, report.full, report.active) == (0, True, 2)
    urgent = harness.submit(priority=9)
    assert play(harness, publisher, window=2).sent == 1
    assert harness.row(urgent).state == "dispatched"
    for _ in range(5):
        harness.submit(priority=9)
    assert play(harness, publisher, window=2).sent == 1, "never more than the window, in any priority class"


def test_a_paused_queue_is_not_dispatched(harness: LedgerHarness, publisher) -> None:
    job_id = harness.submit()
    with harness.ledger.transaction() as connection:
        queues.set_paused(connection, "email", True)
    assert play(harness, publisher).skipped == "paused"
    assert harness.row(job_id).state == "available"


def test_an_unroutable_message_leaves_its_job_available(harness: LedgerHarness, publisher, broker_url: str) -> None:
    with connected(broker_url, name="test") as connection:
        connection.channel().queue_delete("email")
    job_id = harness.submit()
    assert play(harness, publisher).unroutable == 1
    assert (harness.row(job_id).state, harness.row(job_id).dispatch_no) == ("available", 0)


def test_an_unavailable_broker_leaves_all_jobs_available(harness: LedgerHarness) -> None:
    ids = [harness.submit() for _ in range(3)]
    away = Publisher("amqp://x:x@127.0.0.1:1/x", confirm_seconds=0.5)
    with pytest.raises(BrokerUnavailable):
        play(harness, away)
    assert {harness.row(job_id).state for job_id in ids} == {"available"}


def test_a_publisher_whose_connection_dies_during_a_batch_counts_all_messages_as_unsent(
    harness: LedgerHarness, publisher
) -> None:
    ids = [harness.submit() for _ in range(50)]
    publisher.connection.transport.sock.close()
    with pytest.raises(BrokerUnavailable):
        play(harness, publisher)
    assert {harness.row(job_id).state for job_id in ids} == {"available"}
    assert play(harness, publisher).sent == 50, "the next round opens a new connection"


def test_a_batch_that_is_half_published_is_published_again_and_each_job_is_claimed_once(
    harness: LedgerHarness, broker_url: str
) -> None:
    ids = [harness.submit() for _ in range(300)]
    with proxied(broker_url) as (url, proxy):
        cut = Publisher(url)
        assert cut.connection.connected
        # the writes of a batch are large: all after the first are lost, and so are the confirms of the first
        proxy.stops = lambda data, before: len(before) > 10_000
        with pytest.raises(BrokerUnavailable):
            play(harness, cut, window=1000)
        proxy.stops = None
        assert {(harness.row(job_id).state, harness.row(job_id).dispatch_no) for job_id in ids} == {("available", 0)}
        assert play(harness, cut, window=1000).sent == 300
        cut.close()
    result = [read_headers(message.headers) for message in messages(broker_url, "email")]
    assert 300 < len(result) < 600 and {job_id for job_id, _, _ in result} == set(ids)
    verdicts = [harness.claim(job_id, dispatch_no=number).verdict for job_id, number, _ in result]
    assert (verdicts.count("claimed"), verdicts.count("stale")) == (300, len(result) - 300)


def test_a_dispatcher_whose_transaction_is_ended_by_the_server_loses_rows_and_lock_together(
    harness: LedgerHarness,
) -> None:
    from jobplatform.ledger.session import Limits, open_ledger

    job_id = harness.submit()
    frozen = open_ledger(harness.url, name="frozen", limits=Limits(idle_in_transaction_ms=200))

    def free() -> bool:
        with harness.round() as (jobs, opened):
            opened.take_back(jobs)
            return [job.id for job in jobs] == [str(job_id)]

    with pytest.raises(OutcomeUnknown), harness.round(ledger=frozen):
        assert not free()
        eventually(free, seconds=5)
    assert harness.row(job_id).state == "available"
    frozen.close()


def test_calls_of_a_round_after_its_connection_died_change_nothing(harness: LedgerHarness) -> None:
    """A round whose transaction has ended must not open another one."""
    from jobplatform.ledger.session import has_news, open_ledger

    job_id = harness.submit()
    ledger = open_ledger(harness.url, name="doomed")
    with pytest.raises((OutcomeUnknown, LedgerUnavailable)), harness.round(ledger=ledger) as (jobs, opened):
        harness.do(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'jobplatform doomed' "
            "AND datname = current_database()"
        )
        eventually(lambda: has_news(ledger._threads.prepared._connection), seconds=5)
        with harness.round() as (second, _):
            assert len(second) == 1, "another dispatcher has dispatched the job in the meantime"
        opened.take_back(jobs)
    assert harness.row(job_id).state == "dispatched"
    ledger.close()


def test_the_dispatchers_transactions_are_bounded_by_the_server(harness: LedgerHarness) -> None:
    from jobplatform.ledger.session import DISPATCHER, open_ledger

    ledger = open_ledger(harness.url, name="d", limits=DISPATCHER)
    with ledger.statement() as connection:
        version = connection.exec_driver_sql("SHOW server_version_num").scalar_one()
        limits = {"idle_in_transaction_session_timeout": "5s", "lock_timeout": "2s"}
        if int(version) >= 170000:
            limits["transaction_timeout"] = "10s"
        shown = {name: connection.execute(text(f"SHOW {name}")).scalar_one() for name in limits}
    assert shown == limits
    ledger.close()


def test_marks_skip_dispatched_jobs_and_jobs_that_commit_late_are_still_found(
    harness: LedgerHarness, publisher
) -> None:
    now = [0.0]
    waiting = Waiting(lambda tenant: 1.0, clock=lambda: now[0])
    harness.submit()
    assert play(harness, publisher, waiting=waiting).sent == 1
    for seconds, later in ((10, 6.0), (3600, 60.0)):  # the job commits late: by a moment, or by an hour
        late = harness.submit()
        harness.do("UPDATE jobs SET state_at = state_at - make_interval(secs => :s) WHERE id = :id", s=seconds, id=late)
        assert play(harness, publisher, waiting=waiting).sent == 0
        now[0] += later
        assert play(harness, publisher, waiting=waiting).sent == 1


def test_scheduled_jobs_become_due_and_expired_ones_end(harness: LedgerHarness) -> None:
    due, later, expired = harness.submit(), harness.submit(), harness.submit()
    harness.do("UPDATE jobs SET state = 'scheduled', run_at = clock_timestamp() - interval '1 s' WHERE id = :i", i=due)
    harness.do(
        "UPDATE jobs SET state = 'scheduled', run_at = clock_timestamp() + interval '1 h' WHERE id = :i", i=later
    )
    harness.do("UPDATE jobs SET start_by = clock_timestamp() - interval '1 s' WHERE id = :i", i=expired)
    woken = dispatching.wake_jobs(harness.ledger, 100, None)
    assert woken.queues == ["email"] and not woken.more and 3500 < (woken.seconds or 0) <= 3600
    states = [harness.row(job_id).state for job_id in (due, later, expired)]
    assert states == ["available", "scheduled", "expired"]
    assert harness.events(due)[-1] == "due"
    harness.assert_conserved()


@pytest.mark.parametrize("way", ["transaction", "statement", "call"])
def test_a_pool_whose_connections_are_all_dead_is_an_unavailable_ledger(harness, monkeypatch, way: str) -> None:
    """Connections that are killed faster than the pool replaces them: SQLAlchemy raises no error of the driver then."""
    ledger = session.open_ledger(harness.url, name="killed")
    monkeypatch.setattr(session, "has_news", lambda _connection: True)
    with pytest.raises(LedgerUnavailable):
        if way == "call":
            ledger.call("is_writable")
        else:
            with getattr(ledger, way)():
                pass


def test_the_epoch_is_declared_once_and_kept(harness: LedgerHarness, publisher, broker_url: str) -> None:
    first = guard_epoch(harness.ledger, publisher)
    assert first != harness.epoch, "the test's own epoch has no sentinel: it counts as wiped"
    assert guard_epoch(harness.ledger, publisher) == first
    with connected(broker_url, name="test") as connection:
        assert queue_exists(connection, epoch_queue(first))


def test_after_a_broker_wipe_dispatched_jobs_are_returned_even_from_a_batch_that_commits_later(
    harness, publisher, broker_url
) -> None:
    guard_epoch(harness.ledger, publisher)
    before, late = harness.submit(), harness.submit()
    assert play(harness, publisher, batch=1).sent == 1
    with connected(broker_url, name="test") as connection:
        with harness.ledger.transaction() as ledger:
            old = dispatching.current_epoch(ledger)
        connection.channel().queue_delete(epoch_queue(old))
    new = guard_epoch(harness.ledger, publisher)
    assert new != old and harness.row(before).state == "available"
    harness.dispatch(late)
    harness.do("UPDATE jobs SET epoch = :old WHERE id = :id", old=old, id=late)  # a batch that began before the wipe
    guard_epoch(harness.ledger, publisher)
    assert harness.row(late).state == "available"
    assert harness.events(late)[-1] == "returned"


def test_a_sentinel_without_its_message_ends_the_epoch_and_is_deleted(harness, publisher, broker_url) -> None:
    """A restart of RabbitMQ keeps durable queues, and loses the transient messages of classic ones."""
    old = guard_epoch(harness.ledger, publisher)
    job = harness.submit()
    assert play(harness, publisher, batch=1).sent == 1
    with connected(broker_url, name="test") as connection:
        quorum = choose_queue_type("auto", server_version(connection)) == "quorum"
        assert connection.channel().queue_purge(epoch_queue(old)) == 1
        new = guard_epoch(harness.ledger, publisher)
        if quorum:  # a quorum queue keeps its messages: an empty sentinel has no leader at the moment
            assert new == old
            return
        assert new != old and harness.row(job).state == "available"
        assert guard_epoch(harness.ledger, publisher) == new
        assert not queue_exists(connection, epoch_queue(old)), "each restart would leave a queue behind"


def test_a_dispatcher_that_was_slower_to_begin_an_epoch_leaves_no_sentinel(harness, publisher, monkeypatch) -> None:
    first = guard_epoch(harness.ledger, publisher)
    declared: list[Any] = []

    def remember(connection: Any, epoch: Any, queue_type: str) -> None:
        declared.append(epoch)
        declare_epoch(connection, epoch, queue_type)

    monkeypatch.setattr(guard, "declare_epoch", remember)
    assert guard._begin_epoch(harness.ledger, publisher, None, "auto") == first, "another dispatcher was faster"
    assert [queue_exists(publisher.connection, epoch_queue(epoch)) for epoch in declared] == [False]


def test_a_batch_is_confirmed_together_and_unroutable_messages_are_reported_separately(publisher: Publisher) -> None:
    batch = [Envelope(str(new_id()), 1, "test.echo", "email" if n % 2 else "nowhere", 4) for n in range(200)]
    receipt = publisher.publish(batch)
    assert len(receipt.confirmed) == 100 and len(receipt.unroutable) == 100
    assert {envelope.queue for envelope in receipt.unroutable} == {"nowhere"}


def test_messages_to_a_full_queue_are_refused_and_not_lost(publisher: Publisher, broker_url: str) -> None:
    with connected(broker_url, name="test") as connection:
        channel = connection.channel()
        channel.queue_delete("email")
        channel.queue_declare(
            "email", durable=True, auto_delete=False, arguments={"x-max-length": 1, "x-overflow": "reject-publish"}
        )
        channel.queue_bind("email", "jobs", "email")
    receipt = publisher.publish([Envelope(str(new_id()), 1, "test.echo", "email", 4) for _ in range(3)])
    assert (len(receipt.confirmed), len(receipt.refused)) == (1, 2)


def test_an_idle_publisher_keeps_its_connection_alive(broker_url: str) -> None:
    publisher = Publisher(broker_url)
    connection = publisher.connection
    for _ in range(3):
        publisher.keep_alive()
    assert publisher.connection is connection
    publisher.close()


def test_the_dispatcher_resumes_when_the_broker_is_back(harness: LedgerHarness, broker_url: str) -> None:
    """Jobs are accepted while the broker is down, and dispatched when it is back."""
    from jobplatform.config import Settings
    from jobplatform.dispatch.service import Dispatcher

    good = Settings(database_url=harness.url, broker_url=broker_url, heartbeat_seconds=0.2, lease_seconds=1.0)
    dispatcher = Dispatcher(good)
    dispatcher._publisher._url = "amqp://x:x@127.0.0.1:1/x"  # the broker is down
    job_id = harness.submit()
    dispatcher.step()
    assert harness.row(job_id).state == "available"
    dispatcher._publisher._url = broker_url

    def dispatched() -> bool:
        dispatcher.step()
        return harness.row(job_id).state == "dispatched"

    eventually(dispatched, seconds=20)
    dispatcher._publisher.close()
    dispatcher._ledger.close()


def test_a_hint_wakes_a_listener_and_a_disconnected_listener_reconnects(harness: LedgerHarness) -> None:
    from jobplatform.ledger.hints import HintListener, HintSender

    listener, sender = HintListener(harness.ledger.statements), HintSender(harness.ledger.statements)
    assert listener.wait(0) == {}
    began = time.monotonic()
    sender.send("email", 3)
    assert listener.wait(10) == {"email": 3}
    assert time.monotonic() - began < 5
    pid = listener._connection.info.backend_pid
    harness.do("SELECT pg_terminate_backend(:p)", p=pid)

    def heard() -> bool:
        sender.send("email", 3)
        return bool(listener.wait(0.2))

    assert eventually(heard, seconds=10)
    listener.close()


def test_a_failed_connection_raises_broker_unavailable() -> None:
    with pytest.raises(BrokerUnavailable, match="can't be reached"):
        close(connect("amqp://x:x@127.0.0.1:1/x", name="test", timeout_seconds=0.5))


def dispatcher_of(harness: LedgerHarness, broker_url: str):
    from jobplatform.config import Settings
    from jobplatform.dispatch.service import Dispatcher

    return Dispatcher(
        Settings(database_url=harness.url, broker_url=broker_url, heartbeat_seconds=0.2, lease_seconds=1.0)
    )


def test_a_backlog_of_due_jobs_is_woken_without_a_pause(harness: LedgerHarness, broker_url: str, monkeypatch) -> None:
    """After an outage, more jobs are due than one scan wakes, and they are older than those that quick scans read."""
    from jobplatform.dispatch import service

    monkeypatch.setattr(service, "WAKE_LIMIT", 3)
    dispatcher = dispatcher_of(harness, broker_url)
    for _ in range(10):
        harness.submit()
    harness.do("UPDATE jobs SET state = 'scheduled', run_at = clock_timestamp() - interval '5 minutes'")
    for _ in range(4):
        dispatcher.step()
    assert harness.all("SELECT count(*)::int FROM jobs WHERE state = 'scheduled'") == [0]
    dispatcher._publisher.close()
    dispatcher._ledger.close()


def test_a_queue_whose_round_fails_does_not_delay_other_queues(harness: LedgerHarness, broker_url: str) -> None:
    harness.do("CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$")
    harness.do(
        "CREATE TRIGGER broken BEFORE UPDATE ON jobs FOR EACH ROW "
        "WHEN (NEW.queue = 'email' AND NEW.state = 'dispatched') EXECUTE FUNCTION fail()"
    )
    failing, fine = harness.submit(), harness.submit(kind="test.video")
    dispatcher = dispatcher_of(harness, broker_url)
    dispatcher.step()
    assert (harness.row(failing).state, harness.row(fine).state) == ("available", "dispatched")
    dispatcher._publisher.close()
    dispatcher._ledger.close()


def test_blocked_housekeeping_does_not_delay_jobs(harness: LedgerHarness, broker_url: str) -> None:
    """A dump locks a table that a new partition needs."""

    def partitions() -> list[str]:
        return harness.all(
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'job_runs'::regclass "
            "AND inhrelid::regclass::text <> 'job_runs_default'"
        )

    for name in partitions():
        harness.do(f"DROP TABLE {name}")
    job_id = harness.submit()
    with harness.ledger.transaction() as dump:
        dump.execute(text("LOCK TABLE job_runs_default IN ACCESS SHARE MODE"))
        dispatcher = dispatcher_of(harness, broker_url)
        dispatcher.step()
        assert harness.row(job_id).state == "dispatched"
        assert partitions() == []
    dispatcher._periodic._tasks["retention"][0].again()  # a minute later
    dispatcher.step()
    assert partitions()
    dispatcher._publisher.close()
    dispatcher._ledger.close()


def test_a_periodic_task_that_fails_delays_neither_jobs_nor_other_tasks(
    harness: LedgerHarness, broker_url: str
) -> None:
    harness.do("DROP FUNCTION confirm_lost_messages")
    dispatcher, job_id = dispatcher_of(harness, broker_url), harness.submit()
    dispatcher.step()
    assert harness.row(job_id).state == "dispatched"
    assert harness.all("SELECT count(*)::int FROM dispatchers") == [1]
    dispatcher._periodic.close()
    assert harness.all("SELECT count(*)::int FROM dispatchers") == [0]
    dispatcher._publisher.close()
    dispatcher._ledger.close()
