"""The audit reports changes made behind the ledger's back, and reports nothing in an untouched ledger."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import pairwise
from uuid import UUID

import pytest

from jobplatform.broker.connection import connected
from jobplatform.broker.publisher import Publisher
from jobplatform.dispatch.audit import audit_broker, audit_ledger
from jobplatform.dispatch.guard import guard_epoch
from jobplatform.dispatch.policy import Policy
from jobplatform.dispatch.queue_round import run_round
from jobplatform.dispatch.waiting import Waiting
from jobplatform.ledger.ids import lowest_id_at, time_of
from jobplatform.usecases.cancel_job import cancel_job
from jobplatform.usecases.change_job import change_job
from jobplatform.usecases.discard_job import discard_job
from jobplatform.usecases.replay_job import replay_job
from tests.support.ledger_harness import LedgerHarness

ERROR = {"code": "x", "message": "x", "retryable": False}


@pytest.fixture
def full(harness: LedgerHarness) -> dict[str, UUID]:
    """A ledger with jobs in most states, reached through every use case."""
    result = {
        "available": harness.submit(),
        "scheduled": harness.submit(run_at=datetime.fromisoformat("2099-01-01T00:00Z")),
    }
    result["running"], _ = harness.running()
    result["dispatched"] = harness.submit()
    harness.dispatch(result["dispatched"])
    for name, outcome, state in (
        ("succeeded", "succeeded", None),
        ("dead", "failed", "dead"),
        ("retried", "failed", "scheduled"),
        ("crashed", "crashed", None),
    ):
        job_id, lease_id = harness.running()
        harness.settle(job_id, lease_id, outcome, state, error=None if outcome == "succeeded" else ERROR)
        result[name] = job_id
    result["cancelled"] = harness.submit()
    cancel_job(harness.ledger, harness.tenant_id, result["cancelled"])
    result["asked"], _ = harness.running()
    cancel_job(harness.ledger, harness.tenant_id, result["asked"])
    for name in ("replayed", "discarded"):
        job_id, lease_id = harness.running()
        harness.settle(job_id, lease_id, "failed", "dead", error=ERROR)
        result[name] = job_id
    replay_job(harness.ledger, None, harness.tenant_id, result["replayed"], by="ops")
    discard_job(harness.ledger, harness.tenant_id, result["discarded"], "x", by="ops")
    result["changed"] = harness.submit()
    change_job(harness.ledger, None, harness.tenant_id, result["changed"], priority=9, by="ops")
    return result


def codes(harness: LedgerHarness) -> dict[str, tuple[int, list[str]]]:
    report = audit_ledger(harness.ledger, hours=1, budget_seconds=60, patience_seconds=60)
    return {finding.code: (finding.count, finding.examples) for finding in report.findings}


def test_an_untouched_ledger_passes_the_audit(harness: LedgerHarness, full: dict[str, UUID]) -> None:
    report = audit_ledger(harness.ledger, hours=1, budget_seconds=60, patience_seconds=60)
    assert report.findings == []
    assert (report.checked_jobs, report.complete) == (len(full), True)


MUTATIONS = [
    ("a live row is deleted", "available", "DELETE FROM jobs WHERE id = :i", {"not_conserved", "row_missing"}),
    ("a final row is deleted", "succeeded", "DELETE FROM job_history WHERE id = :i", {"row_missing"}),
    ("a row and its history are deleted", "available",
     "WITH gone AS (DELETE FROM jobs WHERE id = :i) DELETE FROM job_events WHERE job_id = :i", {"not_conserved"}),
    ("a state is edited", "available", "UPDATE jobs SET state = 'blocked' WHERE id = :i", {"state_differs"}),
    ("a final state is edited", "cancelled", "UPDATE job_history SET state = 'expired' WHERE id = :i",
     {"state_differs"}),
    ("the first line is dropped", "running", "DELETE FROM job_events WHERE job_id = :i AND event = 'submitted'",
     {"history_broken"}),
    ("a line in the middle is dropped", "succeeded",
     "DELETE FROM job_events WHERE job_id = :i AND event = 'dispatched'", {"history_broken"}),
    ("the last line is dropped", "dead", "DELETE FROM job_events WHERE job_id = :i AND event = 'failed'",
     {"state_differs"}),
    ("a request to cancel is dropped", "asked",
     "DELETE FROM job_events WHERE job_id = :i AND event = 'cancel_requested'", {"cancel_missing"}),
    ("all its lines are dropped", "dispatched", "DELETE FROM job_events WHERE job_id = :i", {"history_missing"}),
    ("a run is deleted", "retried", "DELETE FROM job_runs WHERE job_id = :i", {"runs_differ"}),
    ("a run is invented", "available", "UPDATE jobs SET run_no = 5 WHERE id = :i", {"starts_differ"}),
    ("a dispatch is forgotten", "dispatched", "UPDATE jobs SET dispatch_no = 9 WHERE id = :i", {"dispatches_differ"}),
    ("a row stands twice", "succeeded",
     "INSERT INTO jobs (id, tenant_id, queue, kind, state, priority, payload, max_attempts, crash_limit, lost_limit, "
     "run_at) SELECT id, tenant_id, queue, kind, 'available', priority, payload, max_attempts, crash_limit, "
     "lost_limit, run_at FROM job_history WHERE id = :i", {"not_conserved", "row_twice"}),
    ("a counter is edited", "available", "UPDATE queue_counters SET accepted = accepted + 1 WHERE :i IS NOT NULL",
     {"not_conserved"}),
    ("a due job is not made due", "retried",
     "UPDATE jobs SET run_at = clock_timestamp() - interval '1 hour' WHERE id = :i", {"overdue"}),
    ("a lost run is not taken back", "running",
     "WITH w AS (UPDATE workers SET heartbeat_at = clock_timestamp() - interval '1 hour') "
     "UPDATE jobs SET run_started_at = clock_timestamp() - interval '1 hour' WHERE id = :i", {"worker_gone"}),
    ("a lock outlives its job", "succeeded",
     "INSERT INTO unique_locks (tenant_id, key, job_id) SELECT tenant_id, 'k', id FROM job_history WHERE id = :i",
     {"lock_without_job"}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "which", "mutation", "result"), MUTATIONS, ids=[item[0] for item in MUTATIONS])
def test_each_mutation_is_reported(
    harness: LedgerHarness, full, name: str, which: str, mutation: str, result: set[str]
) -> None:
    harness.do(mutation.replace(":i IS", "CAST(:i AS uuid) IS"), i=full[which])
    report = codes(harness)
    assert set(report) == result
    for code in result - {"not_conserved"}:
        assert str(full[which]) in report[code][1]


def test_a_job_older_than_the_requested_period_is_not_checked(harness: LedgerHarness, full) -> None:
    old = lowest_id_at(datetime.fromisoformat("2026-01-01T00:00Z"))
    for table, column in (("jobs", "id"), ("job_events", "job_id")):
        harness.do(f"UPDATE {table} SET {column} = :o WHERE {column} = :i", o=old, i=full["available"])
    harness.do("UPDATE jobs SET state = 'blocked' WHERE id = :o", o=old)
    assert codes(harness) == {}


def test_an_audit_that_runs_out_of_time_reports_its_progress(harness: LedgerHarness, full) -> None:
    report = audit_ledger(harness.ledger, hours=1, budget_seconds=0, patience_seconds=60)
    assert (report.complete, report.checked_jobs) == (False, 0)


def test_a_day_is_checked_in_slices_and_a_slice_that_is_too_large_is_made_smaller(
    harness: LedgerHarness, full, monkeypatch
) -> None:
    from jobplatform.dispatch import audit
    from jobplatform.errors import LedgerBusy

    slices, check = [], audit.auditing.check_slice

    def busy_at_first(connection, lowest, beyond):
        slices.append(time_of(beyond) - time_of(lowest))
        if len(slices) == 1:
            raise LedgerBusy
        return check(connection, lowest, beyond)

    monkeypatch.setattr(audit.auditing, "check_slice", busy_at_first)
    report = audit_ledger(harness.ledger, hours=24, budget_seconds=60, patience_seconds=60)
    assert (report.is_clean, report.checked_jobs, report.complete) == (True, len(full), True)
    assert slices[1] < slices[0] and max(slices[2:]) < timedelta(days=1)
    steps = [after / before for before, after in pairwise(slices[2:-1])]
    assert max(steps) <= 4.1, "slices grow gradually"


# --- against the broker


@pytest.fixture
def publisher(broker_url: str) -> Iterator[Publisher]:
    result = Publisher(broker_url)
    yield result
    result.close()


def broker_codes(harness: LedgerHarness, broker_url: str) -> dict[str, int]:
    with connected(broker_url, name="test") as connection:
        result = audit_broker(harness.ledger, connection, ["email"], lease_seconds=60, settle_seconds=0.1)
    return {item.code: item.count for item in result}


def test_lost_messages_are_reported(harness: LedgerHarness, publisher: Publisher, broker_url: str) -> None:
    guard_epoch(harness.ledger, publisher)
    ids = [harness.submit() for _ in range(3)]
    run_round(harness.ledger, publisher, Waiting(Policy().weight), Policy(), "email", 100, 100)
    assert broker_codes(harness, broker_url) == {}
    with connected(broker_url, name="test") as connection:
        assert connection.channel().basic_get("email", no_ack=True) is not None
    assert broker_codes(harness, broker_url) == {"message_lost": 1}
    harness.do("UPDATE workers SET waiting = CAST(:w AS uuid[])", w=[ids[0]])
    assert broker_codes(harness, broker_url) == {}, "a worker has received the message"


def test_a_deleted_queue_and_a_wiped_broker_are_reported(harness: LedgerHarness, broker_url: str) -> None:
    with connected(broker_url, name="test") as connection:
        connection.channel().queue_delete("email")
    assert set(broker_codes(harness, broker_url)) == {"queue_missing", "no_epoch"}
