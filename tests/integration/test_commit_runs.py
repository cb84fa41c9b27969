"""Group commit: one statement settles and claims many plain runs; the single-run functions handle all others."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import text

from jobplatform.domain.jobs import Unique
from jobplatform.domain.workflows import chain, step
from jobplatform.ledger import queues, runs
from jobplatform.ledger.ids import new_id
from jobplatform.ledger.runs import ClaimedAhead, ClaimRequest, Success
from jobplatform.usecases.cancel_job import cancel_job
from tests.support.flows import job_of, submit
from tests.support.ledger_harness import LedgerHarness
from tests.support.waiting import wait_until_blocked


def request_for(harness: LedgerHarness, job_id: UUID, dispatch_no: int | None = None) -> ClaimRequest:
    number = harness.row(job_id).dispatch_no if dispatch_no is None else dispatch_no
    return ClaimRequest(job_id, number, "test.echo", new_id())


def claim_ahead(harness: LedgerHarness, *requests: ClaimRequest) -> dict[UUID, ClaimedAhead]:
    return runs.commit_runs(harness.ledger, (), requests, harness.worker.id, "worker@test")[1]


def settle_all(harness: LedgerHarness, *successes: Success) -> set[UUID]:
    return runs.commit_runs(harness.ledger, successes, (), harness.worker.id, "worker@test")[0]


def success(job_id: UUID, lease_id: UUID, result: bytes = b"null", seconds: float | None = None) -> Success:
    began_at = None if seconds is None else time.monotonic() - seconds
    return Success(job_id, lease_id, result, b'{"n": 1}', began_at)


def dispatched(harness: LedgerHarness, count: int = 1, **fields: object) -> list[UUID]:
    jobs = [harness.submit(payload={"n": n}, **fields) for n in range(count)]
    harness.dispatch(*jobs)
    return jobs


def limited(harness: LedgerHarness, job_id: UUID) -> UUID:
    harness.do("UPDATE jobs SET limit_keys = '{account:a}' WHERE id = :id", id=job_id)
    return job_id


def test_many_runs_are_claimed_in_one_statement_and_settled_in_another(harness: LedgerHarness) -> None:
    requests = [request_for(harness, job_id) for job_id in dispatched(harness, 3)]
    claimed = claim_ahead(harness, *requests)
    assert [claimed[request.lease_id].payload for request in requests] == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert {(row.run_no, row.attempt, row.max_attempts) for row in claimed.values()} == {(1, 1, 3)}
    for request in requests:
        row = harness.row(request.job_id)
        assert (row.state, row.lease_id, row.worker_id) == ("running", request.lease_id, harness.worker.id)
    successes = [success(request.job_id, request.lease_id, b'{"r": 1}') for request in requests]
    assert settle_all(harness, *successes) == {request.lease_id for request in requests}
    for request in requests:
        row = harness.row(request.job_id)
        assert (row.state, row.result, row.lease_id) == ("succeeded", {"r": 1}, None)
        assert harness.events(request.job_id) == ["submitted", "dispatched", "started", "succeeded"]
    assert harness.all("SELECT outcome, usage FROM job_runs") == [("succeeded", {"n": 1})] * 3
    harness.assert_conserved()


def test_settling_and_claiming_share_a_commit(harness: LedgerHarness) -> None:
    first, second = (request_for(harness, job_id) for job_id in dispatched(harness, 2))
    claim_ahead(harness, first)
    settled, claimed = runs.commit_runs(
        harness.ledger, [success(first.job_id, first.lease_id)], [second], harness.worker.id, "worker@test"
    )
    assert settled == {first.lease_id}
    assert set(claimed) == {second.lease_id}


def test_a_run_starts_when_its_handler_starts_and_not_when_it_was_claimed(harness: LedgerHarness) -> None:
    (job_id,) = dispatched(harness)
    request = request_for(harness, job_id)
    claim_ahead(harness, request)
    claimed_at = harness.row(job_id).run_started_at
    harness.do("SELECT pg_sleep(0.2)")
    settle_all(harness, success(job_id, request.lease_id, seconds=0.1))
    row = harness.row(job_id)
    assert row.started_at == row.run_started_at
    assert row.started_at - claimed_at >= timedelta(seconds=0.1)
    assert harness.all("SELECT started_at FROM job_runs") == [row.started_at]


def test_a_start_time_before_the_claim_is_ignored(harness: LedgerHarness) -> None:
    (job_id,) = dispatched(harness)
    request = request_for(harness, job_id)
    claim_ahead(harness, request)
    claimed_at = harness.row(job_id).run_started_at
    settle_all(harness, success(job_id, request.lease_id, seconds=3600))
    assert harness.row(job_id).started_at == claimed_at


def test_a_run_that_its_slot_has_claimed_starts_at_its_claim(harness: LedgerHarness) -> None:
    job_id, lease_id = harness.running()
    claimed_at = harness.row(job_id).run_started_at
    settle_all(harness, success(job_id, lease_id))
    assert (harness.row(job_id).started_at, harness.row(job_id).run_started_at) == (claimed_at, claimed_at)
    assert harness.all("SELECT started_at FROM job_runs") == [claimed_at]


def test_limited_deadline_step_and_large_jobs_are_left_to_the_single_claim(harness: LedgerHarness) -> None:
    deadline = datetime.now(UTC) + timedelta(hours=1)
    (plain,) = dispatched(harness)
    workflow = submit(harness, chain(step("test.echo", name="a"), step("test.echo", name="b")))
    step_job = job_of(harness, workflow, "a")
    harness.dispatch(step_job)
    special = [
        limited(harness, *dispatched(harness)),
        *dispatched(harness, start_by=deadline),
        step_job,
    ]
    big = harness.submit(payload={"text": "".join(str(new_id()) for _ in range(3000))})
    harness.dispatch(big)
    requests = [request_for(harness, job_id) for job_id in (plain, *special, big)]
    assert set(claim_ahead(harness, *requests)) == {requests[0].lease_id}
    assert {harness.row(job_id).state for job_id in (*special, big)} == {"dispatched"}


def test_other_dispatches_kinds_and_states_are_not_claimed(harness: LedgerHarness) -> None:
    (old,) = dispatched(harness)
    running, _ = harness.running()
    other = ClaimRequest(dispatched(harness)[0], 1, "test.video", new_id())
    missing = ClaimRequest(new_id(), 1, "test.echo", new_id())
    requests = [request_for(harness, old, dispatch_no=7), request_for(harness, running), other, missing]
    assert claim_ahead(harness, *requests) == {}


def test_a_delivery_with_an_uncommitted_dispatch_is_neither_claimed_nor_waited_for(
    harness: LedgerHarness,
) -> None:
    job_id = harness.submit()
    with harness.ledger.transaction() as connection:
        connection.execute(
            text(
                "UPDATE jobs SET state = 'dispatched', dispatch_no = 1, dispatched_at = clock_timestamp(), "
                "epoch = (SELECT epoch FROM broker_epochs WHERE current) WHERE id = :id"
            ),
            {"id": job_id},
        )
        assert claim_ahead(harness, request_for(harness, job_id, dispatch_no=1)) == {}


def test_jobs_of_a_paused_queue_stay_dispatched(harness: LedgerHarness) -> None:
    (job_id,) = dispatched(harness)
    with harness.ledger.transaction() as connection:
        queues.set_paused(connection, "email", True)
    assert claim_ahead(harness, request_for(harness, job_id)) == {}
    row = harness.row(job_id)
    assert (row.state, row.run_no, row.attempt, row.lease_id, row.started_at) == ("dispatched", 0, 0, None, None)
    assert harness.events(job_id) == ["submitted", "dispatched"]


def test_a_pause_that_commits_while_the_claim_waits_for_the_row_is_obeyed(harness: LedgerHarness) -> None:
    (job_id,) = dispatched(harness)
    request = request_for(harness, job_id)
    results: list[dict[UUID, ClaimedAhead]] = []
    with harness.ledger.transaction() as connection:
        connection.execute(text("SELECT 1 FROM jobs WHERE id = :id FOR UPDATE"), {"id": job_id})
        claimer = threading.Thread(target=lambda: results.append(claim_ahead(harness, request)))
        claimer.start()
        wait_until_blocked(harness)
        with harness.ledger.transaction() as other:
            queues.set_paused(other, "email", True)
    claimer.join()
    assert results == [{}]
    assert harness.row(job_id).state == "dispatched"


def test_a_repeated_claim_is_left_to_claim_run_which_returns_mine(harness: LedgerHarness) -> None:
    (job_id,) = dispatched(harness)
    request = request_for(harness, job_id)
    claim_ahead(harness, request)
    assert claim_ahead(harness, request) == {}
    assert harness.claim(job_id, request.lease_id).verdict == "mine"


def test_a_repeated_settlement_is_left_to_settle_run_which_returns_already(harness: LedgerHarness) -> None:
    (job_id,) = dispatched(harness)
    request = request_for(harness, job_id)
    claim_ahead(harness, request)
    assert settle_all(harness, success(job_id, request.lease_id)) == {request.lease_id}
    assert settle_all(harness, success(job_id, request.lease_id)) == set()
    assert harness.settle(job_id, request.lease_id) == ("already", "succeeded")


def test_only_the_holder_of_the_lease_can_settle(harness: LedgerHarness) -> None:
    job_id, _ = harness.running()
    assert settle_all(harness, success(job_id, new_id())) == set()
    assert harness.row(job_id).state == "running"


def test_success_wins_over_a_requested_cancel(harness: LedgerHarness) -> None:
    job_id, lease_id = harness.running()
    cancel_job(harness.ledger, harness.tenant_id, job_id, "changed my mind")
    assert settle_all(harness, success(job_id, lease_id)) == {lease_id}
    assert harness.row(job_id).state == "succeeded"


def test_runs_with_limit_keys_are_left_to_the_single_settlement(harness: LedgerHarness) -> None:
    job_id, lease_id = harness.running()
    limited(harness, job_id)
    assert settle_all(harness, success(job_id, lease_id)) == set()
    assert harness.row(job_id).state == "running"


def test_a_unique_lock_is_released(harness: LedgerHarness) -> None:
    job_id, lease_id = harness.running(unique=Unique("one"))
    assert harness.all("SELECT count(*)::int FROM unique_locks") == [1]
    settle_all(harness, success(job_id, lease_id))
    assert harness.all("SELECT count(*)::int FROM unique_locks") == [0]
