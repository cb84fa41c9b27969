"""Claim: one round trip that locks the row, then checks it."""

from __future__ import annotations

import pytest

from jobplatform.ledger import queues
from jobplatform.ledger.ids import new_id
from tests.support.ledger_harness import LedgerHarness


def test_a_claim_starts_a_run_with_its_lease(harness: LedgerHarness) -> None:
    job_id, lease_id = harness.submit(payload={"n": 1}), new_id()
    harness.dispatch(job_id)
    claimed = harness.claim(job_id, lease_id)
    assert (claimed.verdict, claimed.run_no, claimed.attempt, claimed.payload) == ("claimed", 1, 1, {"n": 1})
    row = harness.row(job_id)
    assert (row.state, row.lease_id, row.worker_id) == ("running", lease_id, harness.worker.id)


def test_a_claim_whose_response_was_lost_returns_mine_when_repeated(harness: LedgerHarness) -> None:
    job_id, lease_id = harness.running()
    again = harness.claim(job_id, lease_id, dispatch_no=1)
    assert (again.verdict, again.run_no) == ("mine", 1)
    assert harness.events(job_id).count("started") == 1


@pytest.mark.parametrize(
    ("dispatch_no", "kind"),
    [(0, "test.echo"), (2, "test.echo"), (1, "email.send")],
    ids=["an older dispatch", "a dispatch to come", "another kind"],
)
def test_a_claim_with_another_dispatch_or_kind_changes_nothing(
    harness: LedgerHarness, dispatch_no: int, kind: str
) -> None:
    job_id = harness.submit()
    harness.dispatch(job_id)
    before = harness.row(job_id)
    assert harness.claim(job_id, dispatch_no=dispatch_no, kind=kind).verdict == "stale"
    assert harness.row(job_id) == before


def test_an_unknown_job_is_gone(harness: LedgerHarness) -> None:
    assert harness.claim(new_id(), dispatch_no=1).verdict == "gone"


def test_a_finished_job_is_gone(harness: LedgerHarness) -> None:
    job_id, lease_id = harness.running()
    harness.settle(job_id, lease_id)
    assert harness.claim(job_id, dispatch_no=1).verdict == "gone"


def test_a_claim_from_a_paused_queue_returns_the_job(harness: LedgerHarness) -> None:
    job_id = harness.submit()
    harness.dispatch(job_id)
    with harness.ledger.transaction() as connection:
        queues.set_paused(connection, "email", True)
    assert harness.claim(job_id).verdict == "paused"
    assert (harness.row(job_id).state, harness.events(job_id)[-1]) == ("available", "returned")


def test_a_job_past_its_start_by_expires_at_the_claim(harness: LedgerHarness) -> None:
    job_id = harness.submit()
    harness.dispatch(job_id)
    harness.do("UPDATE jobs SET start_by = clock_timestamp() - interval '1 s'")
    assert harness.claim(job_id).verdict == "expired"
    row = harness.row(job_id)
    assert (row.state, row.error["code"]) == ("expired", "expired")
    harness.assert_conserved()


def test_a_started_job_does_not_expire_between_its_attempts(harness: LedgerHarness) -> None:
    job_id, lease_id = harness.running()
    harness.settle(job_id, lease_id, "failed", error={"code": "x", "message": "x"})
    harness.do("UPDATE jobs SET state = 'available', start_by = clock_timestamp() - interval '1 s'")
    harness.dispatch(job_id)
    assert harness.claim(job_id).verdict == "claimed"
