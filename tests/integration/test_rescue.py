"""Rescue: jobs of lost workers run again, and live workers keep their runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Connection, Row, text

from jobplatform.config import Settings
from jobplatform.dispatch.rescue import Rescuer
from jobplatform.domain.kinds import REGISTRY
from jobplatform.errors import LedgerBusy
from jobplatform.ledger import workers
from jobplatform.ledger.ids import new_id
from jobplatform.ledger.session import Ledger, open_ledger
from jobplatform.usecases import end_runs, track_workers
from tests.support.ledger_harness import LedgerHarness, card, registry
from tests.support.waiting import eventually
from workers.liveness import heartbeat, stopping
from workers.runtime.deliveries import Deliveries, Held, Report


def rescue(harness: LedgerHarness, lease_seconds: float = 5.0) -> list[tuple[str, str]]:
    with harness.ledger.transaction() as connection:
        return [(run.outcome, run.state) for run in workers.rescue_runs(connection, lease_seconds)]


def test_a_worker_with_heartbeats_keeps_its_runs(harness: LedgerHarness) -> None:
    _, lease_id = harness.running()
    for _ in range(3):
        track_workers.beat(harness.ledger, harness.worker, [lease_id])
    assert rescue(harness) == []


def test_a_worker_without_a_heartbeat_for_the_lease_time_loses_its_runs(harness: LedgerHarness) -> None:
    job_id, lease_id = harness.running()
    track_workers.beat(harness.ledger, harness.worker, [lease_id])
    harness.do("UPDATE workers SET heartbeat_at = clock_timestamp() - interval '6 s'")
    assert rescue(harness) == [("lost", "scheduled")]
    assert harness.events(job_id)[-1] == "lost"


def test_a_worker_that_deregistered_loses_its_runs_at_once(harness: LedgerHarness) -> None:
    harness.running()
    track_workers.deregister(harness.ledger, harness.worker)
    assert rescue(harness) == [("lost", "scheduled")]


def test_a_run_missing_from_two_heartbeats_has_crashed_although_its_worker_is_alive(harness: LedgerHarness) -> None:
    harness.running()
    track_workers.beat(harness.ledger, harness.worker, [])
    assert rescue(harness) == [], "one heartbeat may have been under way when the run began"
    track_workers.beat(harness.ledger, harness.worker, [])
    track_workers.beat(harness.ledger, harness.worker, [])
    assert rescue(harness) == [("crashed", "scheduled")]


def test_a_run_of_an_unknown_worker_is_lost(harness: LedgerHarness) -> None:
    harness.running()
    harness.do("DELETE FROM workers")
    assert rescue(harness) == [("lost", "scheduled")]


def test_a_cancelled_run_of_a_lost_worker_never_runs_again(harness: LedgerHarness) -> None:
    from jobplatform.ledger import jobs

    job_id, _ = harness.running()
    with harness.ledger.transaction() as connection:
        jobs.cancel_job(connection, harness.tenant_id, job_id, None)
    track_workers.deregister(harness.ledger, harness.worker)
    assert rescue(harness) == [("lost", "cancelled")]
    assert harness.row(job_id).lost_count == 0
    harness.assert_conserved()


def test_nothing_is_rescued_before_the_rescuer_has_seen_the_ledger_for_a_full_lease(harness: LedgerHarness) -> None:
    """Every worker looks dead after an outage of Postgres, or after a suspension of this host."""
    harness.running()
    harness.do("UPDATE workers SET heartbeat_at = clock_timestamp() - interval '1 hour'")
    rescuer = Rescuer(harness.ledger, heartbeat_seconds=10, lease_seconds=0.2)
    assert rescuer.poll() == 0
    eventually(lambda: rescuer.poll() == 1, seconds=5)


def test_a_gap_between_polls_restarts_the_lease_time(harness: LedgerHarness) -> None:
    rescuer = Rescuer(harness.ledger, heartbeat_seconds=0.05, lease_seconds=0.3)
    rescuer.poll()
    harness.running()
    harness.do("UPDATE workers SET heartbeat_at = clock_timestamp() - interval '1 hour'")
    harness.do("SELECT pg_sleep(0.5)")  # longer than the lease and than two heartbeats: a suspended host
    assert rescuer.poll() == 0


def test_a_ledger_that_stalls_during_a_poll_costs_no_live_worker_its_runs(
    harness: LedgerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by a drill that froze Postgres between two statements of the rescuer: the workers were not silent."""
    lease_seconds, rescue = 0.4, workers.rescue_runs

    def stand_still_and_rescue(connection: Connection, *rest: Any, **more: Any) -> Sequence[Row[Any]]:
        connection.execute(text("SELECT pg_sleep(:seconds)"), {"seconds": 2 * lease_seconds})
        return rescue(connection, *rest, **more)

    _, lease_id = harness.running()
    rescuer = Rescuer(harness.ledger, heartbeat_seconds=10, lease_seconds=lease_seconds)
    rescuer.poll()
    harness.do("SELECT pg_sleep(:seconds)", seconds=lease_seconds)
    track_workers.beat(harness.ledger, harness.worker, [lease_id])
    monkeypatch.setattr(workers, "rescue_runs", stand_still_and_rescue)
    assert rescuer.poll() == 0
    assert rescuer.poll() == 1, "a lease later, and still no heartbeat"


@pytest.mark.parametrize("table", ["jobs", "workers"])
def test_while_a_table_is_locked_heartbeats_cannot_be_written_and_no_run_is_rescued(
    harness: LedgerHarness, table: str
) -> None:
    lease_seconds = 0.4
    _, lease_id = harness.running()
    rescuer = Rescuer(harness.ledger, heartbeat_seconds=0.3, lease_seconds=lease_seconds)
    other = open_ledger(harness.url, name="worker parent", connections=1)
    with harness.ledger.transaction() as somebody:
        somebody.execute(text(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"))
        beat = ThreadPoolExecutor(1).submit(track_workers.beat, other, harness.worker, [lease_id])
        eventually(lambda: harness.all("SELECT count(*)::int FROM pg_locks WHERE NOT granted") == [1])
        for _ in range(4):
            with pytest.raises(LedgerBusy):
                rescuer.poll()
    beat.result()
    deadline = time.monotonic() + 2 * lease_seconds  # the time of the heartbeat may be as old as the lock
    while time.monotonic() < deadline:
        assert rescuer.poll() == 0
        track_workers.beat(other, harness.worker, [lease_id])
    other.close()


def test_heartbeats_return_the_runs_to_cancel(harness: LedgerHarness) -> None:
    from jobplatform.ledger import jobs

    job_id, lease_id = harness.running()
    assert track_workers.beat(harness.ledger, harness.worker, [lease_id]) == []
    with harness.ledger.transaction() as connection:
        jobs.cancel_job(connection, harness.tenant_id, job_id, None)
    (request,) = track_workers.beat(harness.ledger, harness.worker, [lease_id])
    assert (request.job_id, request.lease_id) == (job_id, lease_id) and request.seconds >= 0


def test_a_forgotten_worker_registers_itself_again(harness: LedgerHarness) -> None:
    harness.do("DELETE FROM workers")
    track_workers.beat(harness.ledger, harness.worker, [])
    assert harness.all("SELECT id FROM workers") == [harness.worker.id]


def test_a_child_that_died_with_its_run_is_a_crash(harness: LedgerHarness) -> None:
    kind = registry().get("test.echo")
    job_id, lease_id = harness.running()
    assert (
        end_runs.end_run(harness.ledger, kind, job_id, 1, lease_id, "crashed", "signal 9", {"worker": "n"})
        == "scheduled"
    )
    assert harness.row(job_id).crash_count == 1


def test_a_child_that_died_before_its_claim_returns_the_job(harness: LedgerHarness) -> None:
    kind = registry().get("test.echo")
    job_id = harness.submit()
    harness.dispatch(job_id)
    assert (
        end_runs.end_run(harness.ledger, kind, job_id, 1, new_id(), "crashed", "signal 9", {"worker": "n"})
        == "returned"
    )
    row = harness.row(job_id)
    assert (row.state, row.lost_count, row.crash_count) == ("available", 1, 0)


def test_a_late_report_changes_nothing(harness: LedgerHarness) -> None:
    kind = registry().get("test.echo")
    job_id, lease_id = harness.running()
    harness.settle(job_id, lease_id)
    assert (
        end_runs.end_run(harness.ledger, kind, job_id, 1, lease_id, "crashed", "signal 9", {"worker": "n"})
        == "moved on"
    )
    assert harness.row(job_id).state == "succeeded"


def beaten_by(harness: LedgerHarness, *, ends: bool) -> Ledger:
    """Write a heartbeat of the harness's worker on a session of its own."""
    session = open_ledger(harness.url, name="worker parent", connections=1)
    track_workers.beat(session, harness.worker, [])
    if ends:
        session.close()
        left = "SELECT count(*)::int FROM pg_stat_activity a JOIN workers w ON a.pid = w.session_pid"
        eventually(lambda: harness.all(left) == [0])
    return session


def test_a_killed_worker_is_detected_by_the_end_of_its_session_long_before_its_lease_expires(
    harness: LedgerHarness,
) -> None:
    job_id, _ = harness.running()
    beaten_by(harness, ends=True)
    with harness.ledger.transaction() as connection:
        assert workers.rescue_runs(connection, 3600.0, None) == []
        assert workers.rescue_runs(connection, 3600.0, 60.0) == [], "it may reconnect and send a heartbeat soon"
        (run,) = workers.rescue_runs(connection, 3600.0, 0.0)
    assert (run.outcome, harness.row(job_id).lost_count) == ("lost", 1)
    (error,) = harness.all("SELECT error ->> 'message' FROM job_runs WHERE job_id = :id", id=job_id)
    assert "session of its worker has ended" in error


@pytest.mark.parametrize("known", [True, False], ids=["its session stands", "its session is not known"])
def test_a_frozen_worker_or_one_behind_a_pooler_loses_its_runs_only_after_its_lease(
    harness: LedgerHarness, known: bool
) -> None:
    job_id, _ = harness.running()
    session = beaten_by(harness, ends=False)
    if not known:
        session.close()
        harness.do("UPDATE workers SET session_pid = NULL")
    with harness.ledger.transaction() as connection:
        assert workers.rescue_runs(connection, 3600.0, 0.0) == []
        assert len(workers.rescue_runs(connection, 0.0, 0.0)) == 1
    assert harness.row(job_id).lost_count == 1
    session.close()


def test_a_timed_out_run_counts_as_an_attempt(harness: LedgerHarness) -> None:
    kind = registry().get("test.echo")
    job_id, lease_id = harness.running(max_attempts=1)
    assert end_runs.end_run(harness.ledger, kind, job_id, 1, lease_id, "timed_out", "5 s", {"worker": "n"}) == "dead"
    assert harness.row(job_id).attempt == 1


def heartbeat_of(
    harness: LedgerHarness, deliveries: Deliveries, monkeypatch: pytest.MonkeyPatch, **settings: float
) -> heartbeat.Heartbeat:
    """Return the heartbeat of the harness's worker, on the harness's ledger; tests call its `beat`."""
    for module in (heartbeat, stopping):
        monkeypatch.setattr(module, "parent_ledger", lambda: harness.ledger)
    monkeypatch.setitem(REGISTRY._kinds, "test.echo", registry().get("test.echo"))
    return heartbeat.Heartbeat(card(harness.worker.id), deliveries, Settings(database_url=harness.url, **settings))


def test_a_crash_is_settled_only_after_a_heartbeat_and_acknowledged_after_the_commit(
    harness: LedgerHarness, monkeypatch
) -> None:
    job_id, lease_id = harness.running()
    deliveries, acked = Deliveries(), []
    mine = heartbeat_of(harness, deliveries, monkeypatch)
    held = Held(job_id, 1, lease_id, "test.echo")
    report = Report(held, "crashed", "signal 9", lambda: acked.append(harness.row(job_id).state))
    deliveries.report(report)
    assert harness.row(job_id).state == "running"
    mine.beat()
    assert acked == ["scheduled"]
    assert deliveries.reports() == []


def test_a_report_that_cannot_be_processed_blocks_no_other_report(harness: LedgerHarness, monkeypatch) -> None:
    job_id, lease_id = harness.running()
    deliveries = Deliveries()
    mine = heartbeat_of(harness, deliveries, monkeypatch)
    poison = Held(new_id(), 1, new_id(), "no.such.kind")
    deliveries.report(Report(poison, "crashed", "signal 9", lambda: None))
    deliveries.report(Report(Held(job_id, 1, lease_id, "test.echo"), "crashed", "signal 9", lambda: None))
    mine.beat()
    assert harness.row(job_id).state == "scheduled"
    assert deliveries.reports() == []


def test_orphaned_deliveries_are_named_in_heartbeats_until_no_child_runs_them(
    harness: LedgerHarness, monkeypatch
) -> None:
    job_id, lease_id = harness.running()
    idle = new_id()
    deliveries = Deliveries()
    deliveries.add(Held(job_id, 1, lease_id, "test.echo"))
    deliveries.add(Held(new_id(), 1, idle, "test.echo"))
    deliveries.orphan_unstarted()
    assert set(deliveries.leases()) == {lease_id, idle}
    mine = heartbeat_of(harness, deliveries, monkeypatch, heartbeat_seconds=0.001, lease_seconds=1)
    eventually(lambda: mine.beat() is None and deliveries.leases() == [lease_id], 5)
    harness.settle(job_id, lease_id)
    eventually(lambda: mine.beat() is None and deliveries.leases() == [], 5)


def test_a_claim_in_the_pipe_of_a_child_is_not_given_back(harness: LedgerHarness, monkeypatch) -> None:
    """The child will run it, however late: its job would run twice."""
    jobs = [harness.running() for _ in range(2)]
    deliveries = Deliveries()
    for job_id, lease_id in jobs:
        held = Held(job_id, 1, lease_id, "test.echo")
        deliveries.claim_ahead(held)
        assert deliveries.add_claimed(held)
    (written, lease_id), (unwritten, _) = jobs
    deliveries.note_written([str(written)])
    deliveries.orphan_unstarted()
    mine = heartbeat_of(harness, deliveries, monkeypatch, heartbeat_seconds=0.001, lease_seconds=1)
    eventually(lambda: mine.beat() is None and harness.row(unwritten).state == "available", 5)
    assert harness.row(written).state == "running"
    assert deliveries.leases() == [lease_id], "heartbeats name it until the child has it"


@pytest.mark.parametrize("forgotten", [False, True])
def test_an_orphaned_delivery_that_starts_after_all_is_tracked_again(forgotten: bool) -> None:
    """A thread pool's queue outlives the connection: a message that RabbitMQ has requeued may run from there first."""
    deliveries, held = Deliveries(), Held(new_id(), 1, new_id(), "test.echo")
    deliveries.add(held)
    deliveries.orphan_unstarted()
    assert deliveries.in_pool() == [held] and deliveries.get(held.lease_id) is None
    if forgotten:
        deliveries.forget_orphans([held.lease_id])
    deliveries.started(held, 7)
    assert deliveries.taken() == [held] and deliveries.leases() == [held.lease_id]
    assert deliveries.remove(held.lease_id) == held
    assert deliveries.leases() == [] and deliveries.remove(held.lease_id) is None


def test_an_orphaned_delivery_can_be_reported() -> None:
    deliveries, held = Deliveries(), Held(new_id(), 1, new_id(), "test.echo")
    deliveries.add(held)
    deliveries.orphan_unstarted()
    assert deliveries.remove(held.lease_id) == held, "its child died, or was killed at its hard limit"


def test_after_sigterm_a_dead_child_is_lost_not_crashed(harness: LedgerHarness, monkeypatch) -> None:
    job_id, lease_id = harness.running()
    deliveries = Deliveries()
    mine = heartbeat_of(harness, deliveries, monkeypatch)
    mine.shut_down()
    deliveries.report(Report(Held(job_id, 1, lease_id, "test.echo"), "crashed", "signal 9", lambda: None))
    mine.beat()
    row = harness.row(job_id)
    assert (row.crash_count, row.lost_count) == (0, 1)
