"""Settle: run, state, event, counter and move to history in one transaction, fenced by the lease."""

from __future__ import annotations

import pytest

from jobplatform.domain.states import LIVE, Event, State
from jobplatform.ledger import jobs
from jobplatform.ledger.ids import new_id
from jobplatform.usecases.cancel_job import cancel_job
from tests.support.ledger_harness import LedgerHarness

ERROR = {"code": "x", "message": "it broke", "retryable": True}


def test_success_moves_the_job_to_history_with_run_event_and_counter(harness: LedgerHarness) -> None:
    job_id, lease_id = harness.running()
    assert harness.settle(job_id, lease_id, result={"n": 1}, usage={"total_tokens": 3}) == ("settled", "succeeded")
    row = harness.row(job_id)
    assert (row.state, row.result, row.lease_id) == ("succeeded", {"n": 1}, None)
    assert row.finished_at is not None
    assert harness.all("SELECT count(*)::int FROM jobs") == [0]
    assert harness.all("SELECT outcome, usage FROM job_runs") == [("succeeded", {"total_tokens": 3})]
    assert harness.events(job_id) == ["submitted", "dispatched", "started", "succeeded"]
    harness.assert_conserved()


def test_a_settle_repeated_after_a_lost_response_returns_already(harness: LedgerHarness) -> None:
    job_id, lease_id = harness.running()
    harness.settle(job_id, lease_id)
    assert harness.settle(job_id, lease_id) == ("already", "succeeded")
    assert harness.all("SELECT count(*)::int FROM job_runs") == [1]
    harness.assert_conserved()


def test_a_failure_settled_again_after_a_lost_response_returns_already(harness: LedgerHarness) -> None:
    job_id, lease_id = harness.running()
    assert harness.settle(job_id, lease_id, "failed", error=ERROR) == ("settled", "scheduled")
    assert harness.settle(job_id, lease_id, "failed", error=ERROR) == ("already", "scheduled")
    assert harness.row(job_id).attempt == 1


def test_another_lease_settles_nothing(harness: LedgerHarness) -> None:
    job_id, _ = harness.running()
    assert harness.settle(job_id, new_id()) == ("lost", None)
    assert harness.row(job_id).state == "running"


def test_a_retryable_failure_is_scheduled_and_counts_as_an_attempt(harness: LedgerHarness) -> None:
    job_id, lease_id = harness.running()
    harness.settle(job_id, lease_id, "failed", delay_seconds=60, error=ERROR)
    row = harness.row(job_id)
    assert (row.state, row.attempt, row.error) == ("scheduled", 1, ERROR)
    assert 55 < (row.run_at - row.state_at).total_seconds() <= 60


def test_a_dead_letter_stays_live_with_its_reason(harness: LedgerHarness) -> None:
    job_id, lease_id = harness.running()
    assert harness.settle(job_id, lease_id, "failed", "dead", error=ERROR) == ("settled", "dead")
    row = harness.row(job_id)
    assert (row.state, row.error) == ("dead", ERROR)
    harness.assert_conserved()


def test_snooze_and_release_do_not_count_as_attempts(harness: LedgerHarness) -> None:
    for outcome, state in (("snoozed", "scheduled"), ("released", "available")):
        job_id, lease_id = harness.running()
        harness.settle(job_id, lease_id, outcome, state)
        row = harness.row(job_id)
        assert (row.state, row.attempt, row.run_no) == (state, 0, 1)


def test_crashes_have_their_own_limit(harness: LedgerHarness) -> None:
    job_id, lease_id = harness.running()
    assert harness.settle(job_id, lease_id, "crashed", error=ERROR) == ("settled", "scheduled")
    row = harness.row(job_id)
    assert (row.crash_count, row.attempt, row.run_no) == (1, 0, 1)
    harness.do("UPDATE jobs SET state = 'available'")
    harness.dispatch(job_id)
    harness.claim(job_id, lease_id := new_id())
    assert harness.settle(job_id, lease_id, "crashed", error=ERROR) == ("settled", "dead")
    assert harness.row(job_id).error["code"] == "crashed_limit"


def test_lost_workers_dead_letter_a_job_only_at_their_own_limit(harness: LedgerHarness) -> None:
    job_id, lease_id = harness.running()
    for number in (1, 2, 3):
        state = "dead" if number == 3 else "scheduled"
        assert harness.settle(job_id, lease_id, "lost", error=ERROR) == ("settled", state)
        assert (harness.row(job_id).lost_count, harness.row(job_id).crash_count) == (number, 0)
        if number < 3:
            harness.do("UPDATE jobs SET state = 'available'")
            harness.dispatch(job_id)
            harness.claim(job_id, lease_id := new_id())


def test_a_run_never_ends_before_it_started_whatever_the_clock_does(harness: LedgerHarness) -> None:
    job_id, lease_id = harness.running()
    harness.do("UPDATE jobs SET run_started_at = clock_timestamp() + interval '1 hour'")
    assert harness.settle(job_id, lease_id) == ("settled", "succeeded")


def test_progress_and_log_are_refused_once_the_lease_is_lost(harness: LedgerHarness) -> None:
    from jobplatform.ledger import runs

    job_id, lease_id = harness.running()
    with harness.ledger.statement() as connection:
        assert runs.write_progress(connection, job_id, lease_id, {"current": 1}) is False
        assert runs.write_remark(connection, job_id, lease_id, Event.LOG, {"message": "hello"})
        assert runs.write_progress(connection, job_id, new_id(), {"current": 2}) is None
        assert not runs.write_remark(connection, job_id, new_id(), Event.LOG, {"message": "ghost"})
    assert harness.row(job_id).progress == {"current": 1}
    assert harness.events(job_id).count("log") == 1


def test_an_artifact_of_a_lost_run_is_refused(harness: LedgerHarness, tmp_path) -> None:
    import pytest

    from jobplatform.errors import LeaseLost
    from jobplatform.usecases.execute_run import Delivery
    from jobplatform.usecases.store_artifacts import ArtifactStore, keep_output

    job_id, lease_id = harness.running()
    store = ArtifactStore(tmp_path.as_uri())
    mine = Delivery(job_id, 1, "test.echo", lease_id, harness.worker.id, "n")
    ghost = Delivery(job_id, 1, "test.echo", new_id(), harness.worker.id, "n")
    kept = keep_output(harness.ledger, store, mine, "a.txt", b"hello", "text/plain")
    assert kept["size"] == 5
    with pytest.raises(LeaseLost):
        keep_output(harness.ledger, store, ghost, "b.txt", b"hello", "text/plain")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 1, "the refused file is removed again"


def test_a_cancel_of_a_waiting_job_is_immediate_and_final(harness: LedgerHarness) -> None:
    job_id = harness.submit()
    with harness.ledger.transaction() as connection:
        assert jobs.cancel_job(connection, harness.tenant_id, job_id, "no") == ("cancelled", "cancelled")
    row = harness.row(job_id)
    assert (row.state, row.error["message"]) == ("cancelled", "no")
    with harness.ledger.transaction() as connection:
        assert jobs.cancel_job(connection, harness.tenant_id, job_id, "no") == ("ended", "cancelled")
    harness.assert_conserved()


@pytest.mark.parametrize(
    ("outcome", "delay", "state"), [("failed", 5, "scheduled"), ("failed", 50, "dead"), ("snoozed", 50, "scheduled")]
)
def test_a_retry_that_would_come_too_late_is_dead_lettered(
    harness: LedgerHarness, outcome: str, delay: float, state: str
) -> None:
    job_id, lease_id = harness.running()
    error = {"code": "busy", "message": "busy", "retryable": True}
    settled = harness.settle(
        job_id, lease_id, outcome, "scheduled", delay_seconds=delay, max_age_seconds=30, error=error
    )
    assert settled == ("settled", state)
    if state == "dead":
        result = harness.row(job_id).error
        assert (result["code"], result["last"]) == ("too_old", "busy")


@pytest.mark.parametrize("outcome", ["crashed", "lost"])
def test_crashed_and_lost_runs_back_off_by_their_own_count(harness: LedgerHarness, outcome: str) -> None:
    """0, 1, 3, 7 s …, at most 5 minutes: a bad host is not hammered, and a single failure causes no delay."""
    job_id = harness.submit()
    harness.do("UPDATE jobs SET crash_limit = 100, lost_limit = 100")
    waits = []
    for _ in range(12):
        harness.do("UPDATE jobs SET run_at = clock_timestamp() WHERE state = 'scheduled'")
        harness.all("SELECT * FROM wake_jobs(10, NULL)")
        harness.dispatch(job_id)
        lease_id = new_id()
        harness.claim(job_id, lease_id)
        harness.settle(job_id, lease_id, outcome, None, error={"code": outcome, "message": "x", "retryable": True})
        row = harness.row(job_id)
        waits.append(round((row.run_at - row.state_at).total_seconds()))
    assert waits == [0, 1, 3, 7, 15, 31, 63, 127, 255, 300, 300, 300]
    assert row.attempt == 0, "they use up no attempt"


@pytest.mark.parametrize("state", sorted(item.value for item in LIVE - {State.RUNNING}))
def test_a_cancel_ends_a_job_at_once_in_every_state_but_running(harness: LedgerHarness, state: str) -> None:
    job_id, lease_id = harness.running()
    error = {"code": "x", "message": "x", "retryable": False}
    ends = {"dead": "failed", "held": "held", "scheduled": "snoozed", "available": "released"}
    if state in ends:
        harness.settle(job_id, lease_id, ends[state], state, error=error)
    else:
        harness.settle(job_id, lease_id, "released", "available")
        if state == "dispatched":
            harness.dispatch(job_id)
        else:  # workflows create blocked jobs
            harness.do("UPDATE jobs SET state = :s WHERE id = :id", s=state, id=job_id)
    assert harness.row(job_id).state == state
    assert cancel_job(harness.ledger, harness.tenant_id, job_id, "enough", "me").state is State.CANCELLED
    row = harness.row(job_id)
    assert (row.state, row.error["message"]) == ("cancelled", "enough")
    number = row.dispatch_no
    assert harness.claim(job_id, dispatch_no=number).verdict == "gone"
    harness.assert_conserved()
