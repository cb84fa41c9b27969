"""The races of the protocol, statement by statement, on two connections (docs/concepts/delivery.md)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text

from jobplatform.ledger import jobs, workers
from jobplatform.ledger.ids import new_id
from tests.support.ledger_harness import LedgerHarness, card
from tests.support.waiting import wait_until_blocked


@pytest.fixture
def pool():
    with ThreadPoolExecutor(4) as result:
        yield result


def test_claim_against_mark__a_claim_waits_for_the_dispatchers_commit(harness: LedgerHarness, pool) -> None:
    job_id = harness.submit()
    with harness.round():
        # the message is published but the mark is not committed: the old row version is still `available`
        claim = pool.submit(harness.claim, job_id, dispatch_no=1)
        wait_until_blocked(harness)
    assert claim.result().verdict == "claimed"
    assert harness.events(job_id) == ["submitted", "dispatched", "started"]


def test_claim_against_mark__a_rolled_back_mark_leaves_a_harmless_message(harness: LedgerHarness, pool) -> None:
    job_id = harness.submit()
    with pytest.raises(ZeroDivisionError), harness.round():
        claim = pool.submit(harness.claim, job_id, dispatch_no=1)
        wait_until_blocked(harness)
        raise ZeroDivisionError
    assert claim.result().verdict == "stale"
    assert harness.row(job_id).state == "available"


def test_two_claims__one_wins_and_the_other_changes_nothing(harness: LedgerHarness, pool) -> None:
    job_id = harness.submit()
    harness.dispatch(job_id)
    verdicts = [
        claim.result().verdict for claim in [pool.submit(harness.claim, job_id, dispatch_no=1) for _ in range(4)]
    ]
    assert sorted(verdicts) == ["claimed", "stale", "stale", "stale"]
    assert harness.row(job_id).run_no == 1
    assert harness.events(job_id).count("started") == 1


def test_claim_against_cancel__the_first_to_lock_the_row_wins(harness: LedgerHarness, pool) -> None:
    job_id = harness.submit()
    harness.dispatch(job_id)
    with harness.ledger.transaction() as caller:
        verdict, state = jobs.cancel_job(caller, harness.tenant_id, job_id, "not needed")
        assert (verdict, state) == ("cancelled", "cancelled")
        claim = pool.submit(harness.claim, job_id, dispatch_no=1)
        wait_until_blocked(harness)
    assert claim.result().verdict == "gone"
    assert harness.row(job_id).state == "cancelled"
    harness.assert_conserved()


def test_claim_against_cancel__a_claimed_job_is_requested_to_stop(harness: LedgerHarness, pool) -> None:
    job_id, lease_id = harness.submit(), new_id()
    harness.dispatch(job_id)
    with harness.ledger.transaction() as worker:
        worker.execute(
            text("SELECT verdict FROM claim_run(:j, 1, 'test.echo', :l, :w, 'w')"),
            {"j": job_id, "l": lease_id, "w": harness.worker.id},
        )

        def cancel() -> tuple[str, str | None]:
            with harness.ledger.transaction() as caller:
                return jobs.cancel_job(caller, harness.tenant_id, job_id, None)

        cancelled = pool.submit(cancel)
        wait_until_blocked(harness)
    assert cancelled.result() == ("requested", "running")
    assert harness.row(job_id).cancel_requested_at is not None


@pytest.mark.parametrize("first", ["settle", "cancel"])
def test_settle_against_cancel__the_first_commit_wins(harness: LedgerHarness, pool, first: str) -> None:
    job_id, lease_id = harness.running()

    def cancel() -> tuple[str, str | None]:
        with harness.ledger.transaction() as caller:
            return jobs.cancel_job(caller, harness.tenant_id, job_id, "stop")

    with harness.ledger.transaction() as connection:
        if first == "settle":
            connection.execute(
                text("SELECT verdict FROM settle_run(:j, :l, 'succeeded', 'succeeded')"), {"j": job_id, "l": lease_id}
            )
            other = pool.submit(cancel)
        else:
            jobs.cancel_job(connection, harness.tenant_id, job_id, "stop")
            other = pool.submit(harness.settle, job_id, lease_id)
        wait_until_blocked(harness)
    if first == "settle":
        assert other.result() == ("ended", "succeeded")
    else:
        # too late: a success stays a success
        assert other.result() == ("settled", "succeeded")
    assert harness.row(job_id).state == "succeeded"
    harness.assert_conserved()


def test_cancel_against_failure__every_outcome_but_success_becomes_cancelled(harness: LedgerHarness) -> None:
    job_id, lease_id = harness.running()
    with harness.ledger.transaction() as caller:
        jobs.cancel_job(caller, harness.tenant_id, job_id, "stop")
    assert harness.settle(job_id, lease_id, "failed", error={"code": "x", "message": "x"}) == ("settled", "cancelled")
    row = harness.row(job_id)
    assert (row.state, row.crash_count, row.lost_count) == ("cancelled", 0, 0)
    assert harness.claim(job_id, dispatch_no=row.dispatch_no).verdict == "gone"


def test_settle_against_rescue__a_settled_run_is_not_rescued(harness: LedgerHarness, pool) -> None:
    job_id, lease_id = harness.running()
    harness.do("UPDATE workers SET heartbeat_at = clock_timestamp() - interval '1 hour'")
    with harness.ledger.transaction() as worker:
        worker.execute(
            text("SELECT verdict FROM settle_run(:j, :l, 'succeeded', 'succeeded')"), {"j": job_id, "l": lease_id}
        )
        with harness.ledger.transaction() as rescuer:  # SKIP LOCKED: it does not even wait
            assert workers.rescue_runs(rescuer, 5.0) == []
    assert harness.row(job_id).state == "succeeded"
    assert harness.all("SELECT outcome FROM job_runs WHERE job_id = :id", id=job_id) == ["succeeded"]


def test_settle_against_rescue__a_rescued_run_can_no_longer_settle(harness: LedgerHarness) -> None:
    job_id, lease_id = harness.running()
    harness.do("UPDATE workers SET heartbeat_at = clock_timestamp() - interval '1 hour'")
    with harness.ledger.transaction() as rescuer:
        (run,) = workers.rescue_runs(rescuer, 5.0)
    assert (run.outcome, run.state) == ("lost", "scheduled")
    assert harness.settle(job_id, lease_id) == ("lost", None)
    assert harness.row(job_id).state == "scheduled"


def test_rescue__a_heartbeat_that_commits_before_the_scan_counts(harness: LedgerHarness) -> None:
    harness.running()
    harness.do("UPDATE workers SET heartbeat_at = clock_timestamp() - interval '1 hour'")
    with harness.ledger.transaction() as rescuer:
        rescuer.execute(text("SELECT 1"))  # its transaction is open before the heartbeat
        harness.do("UPDATE workers SET heartbeat_at = clock_timestamp()")
        assert workers.rescue_runs(rescuer, 5.0) == []


def test_two_rescuers__each_run_ends_once(harness: LedgerHarness, pool) -> None:
    running = [harness.running()[0] for _ in range(20)]
    harness.do("UPDATE workers SET heartbeat_at = clock_timestamp() - interval '1 hour'")

    def rescue() -> int:
        with harness.ledger.transaction() as connection:
            return len(workers.rescue_runs(connection, 5.0))

    assert sum(item.result() for item in [pool.submit(rescue) for _ in range(4)]) == len(running)
    assert harness.all("SELECT count(*)::int FROM job_runs") == [len(running)]
    assert set(harness.all("SELECT lost_count FROM jobs")) == {1}


def test_two_dispatchers__one_locks_the_queue_until_its_transaction_ends(harness: LedgerHarness) -> None:
    email, video = harness.submit(), harness.submit(kind="test.video")
    with harness.round(batch=1) as (first, _):
        assert [job.id for job in first] == [str(email)]
        harness.submit()
        with harness.round() as (second, opened):
            assert opened.queue_state.verdict == "elsewhere" and not second
        with harness.round("video") as (other, _):
            assert [job.id for job in other] == [str(video)]
    with harness.round() as (second, _):
        assert len(second) == 1, "the lock ended with the transaction; picked jobs are not picked again"


def test_a_pick_skips_a_job_that_is_being_cancelled(harness: LedgerHarness) -> None:
    taken, free = harness.submit(), harness.submit()
    with harness.ledger.transaction() as caller:
        jobs.cancel_job(caller, harness.tenant_id, taken, None)
        with harness.round() as (result, _):
            assert [job.id for job in result] == [str(free)]


def test_late_settle_after_a_forgotten_claim__the_lease_never_repeats(harness: LedgerHarness) -> None:
    """If Postgres lost the claim, the second worker gets the same run_no; the first worker's settle is refused."""
    job_id, forgotten = harness.running()
    harness.do(
        "UPDATE jobs SET state = 'dispatched', lease_id = NULL, worker_id = NULL, run_no = 0, attempt = 0 "
        "WHERE id = :j",
        j=job_id,
    )
    second = new_id()
    assert harness.claim(job_id, second, dispatch_no=1).verdict == "claimed"
    assert harness.row(job_id).run_no == 1
    assert harness.settle(job_id, forgotten) == ("lost", None)
    assert harness.row(job_id).state == "running"
    assert harness.settle(job_id, second) == ("settled", "succeeded")


def test_heartbeat_against_claim__a_lease_named_before_its_claim_does_no_harm(harness: LedgerHarness) -> None:
    other = card()
    workers_row = "SELECT leases FROM workers WHERE id = :id"
    from jobplatform.usecases import track_workers

    track_workers.register(harness.ledger, other)
    lease_id = new_id()
    assert track_workers.beat(harness.ledger, other, [lease_id]) == []
    assert harness.all(workers_row, id=other.id) == [[lease_id]]
