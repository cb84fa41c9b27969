"""Reads: single jobs, pages, tenant isolation, queues; the cost of each is bounded."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from jobplatform.dispatch.gauges import QueueGauges
from jobplatform.errors import JobNotFound
from jobplatform.ledger import jobs, keys
from jobplatform.ledger.ids import new_id
from jobplatform.usecases import read_jobs
from jobplatform.usecases.list_queues import list_queues
from jobplatform.usecases.read_jobs import JobFilter
from tests.support.ledger_harness import LedgerHarness

ANY = JobFilter()


def pages(harness: LedgerHarness, wanted: JobFilter = ANY, limit: int = 3) -> list[list]:
    rows, cursor = [], None
    while True:
        page, cursor = read_jobs.list_jobs(harness.ledger, harness.tenant_id, wanted, cursor=cursor, limit=limit)
        rows.append([job.id for job in page])
        if cursor is None:
            return rows


def test_pages_list_live_and_finished_jobs_newest_first(harness: LedgerHarness) -> None:
    ids = []
    for number in range(8):
        if number % 2:
            job_id, lease_id = harness.running()
            harness.settle(job_id, lease_id)
        else:
            job_id = harness.submit()
        ids.append(job_id)
    result = pages(harness)
    assert [job_id for page in result for job_id in page] == ids[::-1]
    assert all(len(page) <= 3 for page in result)


def test_jobs_are_filtered_by_tag_kind_queue_state_and_time(harness: LedgerHarness) -> None:
    tagged = harness.submit(tags=("vip",))
    video = harness.submit(kind="test.video")
    done, lease_id = harness.running()
    harness.settle(done, lease_id)
    dead, lease_id = harness.running()
    harness.settle(dead, lease_id, "failed", "dead", error={"code": "x", "message": "x"})
    flat = lambda wanted: [job_id for page in pages(harness, wanted) for job_id in page]  # noqa: E731
    assert flat(JobFilter(tag="vip")) == [tagged]
    assert flat(JobFilter(kind="test.video")) == [video] == flat(JobFilter(queue="video"))
    assert flat(JobFilter(state="succeeded")) == [done]
    assert flat(JobFilter(state="dead")) == [dead]
    assert flat(JobFilter(state="available")) == [video, tagged]
    moment = harness.row(video).created_at
    assert tagged not in flat(JobFilter(created_after=moment)) or harness.row(tagged).created_at >= moment


def test_a_filter_with_few_matches_reads_a_bounded_number_of_rows_per_page(harness: LedgerHarness, monkeypatch) -> None:
    monkeypatch.setattr(jobs, "MAX_EXAMINED", 4)
    first = harness.submit(tags=("rare",))
    for _ in range(10):
        harness.submit()
    result = pages(harness, JobFilter(tag="rare"))
    assert len(result) > 1 and not result[0], "a page may be empty and still have a next one"
    assert [job_id for page in result for job_id in page] == [first]


def test_a_rare_tag_of_finished_jobs_is_one_page_whatever_the_size_of_the_ledger(
    harness: LedgerHarness, monkeypatch
) -> None:
    """Most jobs of a ledger have finished: their tags are indexed (`jobs list --tag` took 14.7 s on a large ledger)."""
    monkeypatch.setattr(jobs, "MAX_EXAMINED", 4)
    first, lease_id = harness.running(tags=("rare", "other"))
    harness.settle(first, lease_id)
    for _ in range(10):
        harness.settle(*harness.running(tags=("other",)))
    assert pages(harness, JobFilter(tag="rare")) == [[first]]
    assert pages(harness, JobFilter(tag="nowhere")) == [[]]


def test_another_tenants_jobs_do_not_exist(harness: LedgerHarness) -> None:
    job_id = harness.submit()
    with harness.ledger.transaction() as connection:
        other = keys.create_tenant(connection, "other")
    for read in (read_jobs.list_runs, read_jobs.list_artifacts, read_jobs.get_job):
        with pytest.raises(JobNotFound):
            read(harness.ledger, other, job_id)
    assert read_jobs.list_jobs(harness.ledger, other, JobFilter(), cursor=None, limit=10) == ([], None)
    with harness.ledger.transaction() as connection:
        assert jobs.cancel_job(connection, other, job_id, None) == ("gone", None)
    assert harness.row(job_id).state == "available"


def test_unknown_ids_are_not_found(harness: LedgerHarness) -> None:
    from uuid import UUID, uuid4

    for strange in (uuid4(), UUID(int=0), UUID(int=2**128 - 1), new_id()):
        with pytest.raises(JobNotFound):
            read_jobs.get_job(harness.ledger, harness.tenant_id, strange)


def test_a_running_job_has_an_unfinished_run(harness: LedgerHarness) -> None:
    job_id, lease_id = harness.running()
    (run,) = read_jobs.list_runs(harness.ledger, harness.tenant_id, job_id)
    assert (run["outcome"], run["finished_at"]) == ("running", None)
    harness.settle(job_id, lease_id)
    (run,) = read_jobs.list_runs(harness.ledger, harness.tenant_id, job_id)
    assert run["outcome"] == "succeeded" and run["finished_at"] is not None


def test_queues_report_their_counters(harness: LedgerHarness) -> None:
    harness.submit()
    harness.running()
    done, lease_id = harness.running()
    harness.settle(done, lease_id)
    email = next(queue for queue in list_queues(harness.ledger, harness.tenant_id, 20) if queue["name"] == "email")
    assert (email["accepted"], email["finished"], email["live"]) == (3, 1, 2)
    assert (email["waiting"], email["running"], email["dead"]) == (1, 1, 0)
    assert (email["workers"], email["slots"]) == (1, 4)


def test_find_settled_returns_ended_and_dead_jobs(harness: LedgerHarness) -> None:
    waiting = harness.submit()
    done, lease_id = harness.running()
    harness.settle(done, lease_id)
    dead, lease_id = harness.running()
    harness.settle(dead, lease_id, "failed", "dead", error={"code": "x", "message": "x"})
    assert read_jobs.find_settled(harness.ledger, [waiting, done, dead]) == {done, dead}


def test_celery_results_match_the_ledger(harness: LedgerHarness, monkeypatch) -> None:
    from celery.result import AsyncResult

    from workers.app import app
    from workers.celery import backend

    monkeypatch.setattr(backend, "ledger", lambda *_, **__: harness.ledger)
    waiting, (running, _), (done, lease_id) = harness.submit(), harness.running(), harness.running()
    harness.settle(done, lease_id, result={"n": 1})
    dead, lease_id = harness.running()
    harness.settle(dead, lease_id, "failed", "dead", error={"code": "boom", "message": "it broke"})
    retried, lease_id = harness.running()
    harness.settle(retried, lease_id, "failed", error={"code": "x", "message": "again"}, delay_seconds=60)
    states = [AsyncResult(str(job), app=app).state for job in (waiting, running, done, dead, retried, new_id())]
    assert states == ["PENDING", "PENDING", "SUCCESS", "FAILURE", "RETRY", "PENDING"]
    monkeypatch.setitem(app.conf, "task_track_started", True)
    assert AsyncResult(str(running), app=app).state == "STARTED"
    assert AsyncResult(str(done), app=app).get(timeout=5) == {"n": 1}
    assert "it broke" in str(AsyncResult(str(dead), app=app).result)


def test_the_gauges_report_dead_letters_and_overdue_jobs(harness: LedgerHarness) -> None:
    def metrics() -> dict[str, float]:
        families = QueueGauges(harness.ledger, 20.0).collect()
        return {family.name: sample.value for family in families for sample in family.samples if not sample.labels}

    assert metrics() == {"jobplatform_ledger_up": 1, "jobplatform_dead_letters": 0, "jobplatform_overdue_seconds": 0}
    harness.submit(run_at=datetime.now(UTC) + timedelta(hours=1))
    assert metrics()["jobplatform_overdue_seconds"] == 0
    harness.do("UPDATE jobs SET run_at = clock_timestamp() - interval '100 s'")
    job_id, lease_id = harness.running()
    harness.settle(job_id, lease_id, "failed", "dead", error={"code": "x", "message": "x", "retryable": False})
    result = metrics()
    assert result["jobplatform_dead_letters"] == 1 and 100 <= result["jobplatform_overdue_seconds"] < 200
