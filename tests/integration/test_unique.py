"""Unique jobs: one per key, while the job is live or for a period."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from jobplatform.domain.jobs import SubmitJob, Unique
from jobplatform.errors import DuplicateJob
from jobplatform.usecases.cancel_job import cancel_job
from jobplatform.usecases.submit_job import Accepted, submit_job
from tests.support.ledger_harness import LedgerHarness, registry


def submit(harness: LedgerHarness, unique: Unique, **more) -> Accepted:
    return submit_job(
        harness.ledger, None, registry(), harness.tenant_id, SubmitJob("test.echo", {}, unique=unique), **more
    )


def test_one_of_many_concurrent_submissions_is_accepted_and_the_others_get_its_job(harness: LedgerHarness) -> None:
    with ThreadPoolExecutor(8) as pool:
        result = list(pool.map(lambda _: submit(harness, Unique("report")), range(16)))
    assert len({item.job.id for item in result}) == 1
    assert sorted(item.created for item in result) == [False] * 15 + [True]
    assert harness.all("SELECT count(*)::int FROM jobs") == [1]
    harness.assert_conserved()


def test_a_duplicate_is_refused_on_request(harness: LedgerHarness) -> None:
    first = submit(harness, Unique("k")).job.id
    with pytest.raises(DuplicateJob) as refused:
        submit(harness, Unique("k", refuse=True))
    assert str(refused.value.job_id) == str(first)


@pytest.mark.parametrize("end", ["succeeded", "cancelled", "expired"])
def test_the_end_of_a_job_releases_its_key(harness: LedgerHarness, end: str) -> None:
    first = submit(harness, Unique("k")).job.id
    if end == "cancelled":
        cancel_job(harness.ledger, harness.tenant_id, first)
    elif end == "expired":
        harness.do("UPDATE jobs SET start_by = clock_timestamp() - interval '1 s'")
        harness.all("SELECT * FROM wake_jobs(10, NULL)")
    else:
        harness.dispatch(first)
        lease_id = first
        harness.claim(first, lease_id)
        harness.settle(first, lease_id)
    assert harness.row(first).state == end
    assert submit(harness, Unique("k")).job.id != first


def test_a_dead_letter_keeps_its_key(harness: LedgerHarness) -> None:
    first = submit(harness, Unique("k")).job.id
    harness.dispatch(first)
    harness.claim(first, first)
    harness.settle(first, first, "failed", "dead", error={"code": "x", "message": "x", "retryable": False})
    assert submit(harness, Unique("k")).job.id == first


def test_a_uniqueness_period_outlives_its_job_and_ends(harness: LedgerHarness) -> None:
    first = submit(harness, Unique("k", seconds=3600)).job.id
    cancel_job(harness.ledger, harness.tenant_id, first)
    assert submit(harness, Unique("k", seconds=3600)).job.id == first
    harness.do("UPDATE unique_locks SET expires_at = clock_timestamp() - interval '1 s'")
    assert submit(harness, Unique("k", seconds=3600)).job.id != first


def test_keys_belong_to_a_tenant(harness: LedgerHarness) -> None:
    from jobplatform.ledger.keys import create_tenant

    first = submit(harness, Unique("k")).job.id
    with harness.ledger.transaction() as connection:
        other = create_tenant(connection, "other")
    result = submit_job(harness.ledger, None, registry(), other, SubmitJob("test.echo", {}, unique=Unique("k")))
    assert result.created and result.job.id != first


def test_a_repetition_with_its_idempotency_key_gets_the_job_that_holds_the_lock(harness: LedgerHarness) -> None:
    first = submit(harness, Unique("k")).job.id
    second = submit(harness, Unique("k"), idempotency_key="once")
    cancel_job(harness.ledger, harness.tenant_id, first)
    again = submit(harness, Unique("k"), idempotency_key="once")
    assert (second.job.id, again.job.id, again.created) == (first, first, False)


def test_a_refused_submission_uses_up_no_idempotency_key(harness: LedgerHarness) -> None:
    first = submit(harness, Unique("k")).job.id
    with pytest.raises(DuplicateJob):
        submit(harness, Unique("k", refuse=True), idempotency_key="once")
    cancel_job(harness.ledger, harness.tenant_id, first)
    again = submit(harness, Unique("k", refuse=True), idempotency_key="once")
    assert again.created and again.job.id != first


def test_the_fingerprint_of_a_plain_submission_is_the_same_as_before_unique_jobs_existed() -> None:
    from jobplatform.usecases.submit_job import _fingerprint

    result = _fingerprint(SubmitJob("email.send", {"to": ["a@b.c"]}))
    assert result.hex() == "a6c4eddbf9878036d3f256c658c08d900d1fed1dce06a38fb6fe808129714992"
    assert result != _fingerprint(SubmitJob("email.send", {"to": ["a@b.c"]}, unique=Unique("k")))
