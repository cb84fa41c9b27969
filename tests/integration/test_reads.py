"""Reading: one job, pages, tenants apart, queues; all bounded."""

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
from tests.support.ledgers import Book

ANY = JobFilter()


def pages(book: Book, wanted: JobFilter = ANY, limit: int = 3) -> list[list]:
    rows, cursor = [], None
    while True:
        page, cursor = read_jobs.list_jobs(book.ledger, book.tenant_id, wanted, cursor=cursor, limit=limit)
        rows.append([job.id for job in page])
        if cursor is None:
            return rows


def test_pages_go_through_live_and_finished_jobs_newest_first(book: Book) -> None:
    ids = []
    for number in range(8):
        if number % 2:
            job_id, lease_id = book.running()
            book.settle(job_id, lease_id)
        else:
            job_id = book.submit()
        ids.append(job_id)
    result = pages(book)
    assert [job_id for page in result for job_id in page] == ids[::-1]
    assert all(len(page) <= 3 for page in result)


def test_filters(book: Book) -> None:
    tagged = book.submit(tags=("vip",))
    video = book.submit(kind="test.video")
    done, lease_id = book.running()
    book.settle(done, lease_id)
    dead, lease_id = book.running()
    book.settle(dead, lease_id, "failed", "dead", error={"code": "x", "message": "x"})
    flat = lambda wanted: [job_id for page in pages(book, wanted) for job_id in page]  # noqa: E731
    assert flat(JobFilter(tag="vip")) == [tagged]
    assert flat(JobFilter(kind="test.video")) == [video] == flat(JobFilter(queue="video"))
    assert flat(JobFilter(state="succeeded")) == [done]
    assert flat(JobFilter(state="dead")) == [dead]
    assert flat(JobFilter(state="available")) == [video, tagged]
    moment = book.row(video).created_at
    assert tagged not in flat(JobFilter(created_after=moment)) or book.row(tagged).created_at >= moment


def test_a_filter_that_fits_little_looks_at_a_bounded_number_of_rows_per_page(book: Book, monkeypatch) -> None:
    monkeypatch.setattr(jobs, "MAX_EXAMINED", 4)
    first = book.submit(tags=("rare",))
    for _ in range(10):
        book.submit()
    result = pages(book, JobFilter(tag="rare"))
    assert len(result) > 1 and not result[0], "a page may be empty and still have a next one"
    assert [job_id for page in result for job_id in page] == [first]


def test_a_rare_tag_of_finished_jobs_is_one_page_whatever_the_size(book: Book, monkeypatch) -> None:
    """What has ended is most of a ledger: its tags have an index (`jobs list --tag` took 14.7 s on a large one)."""
    monkeypatch.setattr(jobs, "MAX_EXAMINED", 4)
    first, lease_id = book.running(tags=("rare", "other"))
    book.settle(first, lease_id)
    for _ in range(10):
        book.settle(*book.running(tags=("other",)))
    assert pages(book, JobFilter(tag="rare")) == [[first]]
    assert pages(book, JobFilter(tag="nowhere")) == [[]]


def test_another_tenants_jobs_do_not_exist(book: Book) -> None:
    job_id = book.submit()
    with book.ledger.transaction() as connection:
        other = keys.create_tenant(connection, "other")
    for read in (read_jobs.list_runs, read_jobs.list_artifacts, read_jobs.get_job):
        with pytest.raises(JobNotFound):
            read(book.ledger, other, job_id)
    assert read_jobs.list_jobs(book.ledger, other, JobFilter(), cursor=None, limit=10) == ([], None)
    with book.ledger.transaction() as connection:
        assert jobs.cancel_job(connection, other, job_id, None) == ("gone", None)
    assert book.row(job_id).state == "available"


def test_ids_that_are_not_ours_are_not_found(book: Book) -> None:
    from uuid import UUID, uuid4

    for strange in (uuid4(), UUID(int=0), UUID(int=2**128 - 1), new_id()):
        with pytest.raises(JobNotFound):
            read_jobs.get_job(book.ledger, book.tenant_id, strange)


def test_a_running_job_has_a_run_that_goes_on(book: Book) -> None:
    job_id, lease_id = book.running()
    (run,) = read_jobs.list_runs(book.ledger, book.tenant_id, job_id)
    assert (run["outcome"], run["finished_at"]) == ("running", None)
    book.settle(job_id, lease_id)
    (run,) = read_jobs.list_runs(book.ledger, book.tenant_id, job_id)
    assert run["outcome"] == "succeeded" and run["finished_at"] is not None


def test_queues_count_by_counters(book: Book) -> None:
    book.submit()
    book.running()
    done, lease_id = book.running()
    book.settle(done, lease_id)
    email = next(queue for queue in list_queues(book.ledger, book.tenant_id, 20) if queue["name"] == "email")
    assert (email["accepted"], email["finished"], email["live"]) == (3, 1, 2)
    assert (email["waiting"], email["running"], email["dead"]) == (1, 1, 0)
    assert (email["workers"], email["slots"]) == (1, 4)


def test_ended_jobs_are_found_for_those_who_wait(book: Book) -> None:
    waiting = book.submit()
    done, lease_id = book.running()
    book.settle(done, lease_id)
    dead, lease_id = book.running()
    book.settle(dead, lease_id, "failed", "dead", error={"code": "x", "message": "x"})
    assert read_jobs.find_settled(book.ledger, [waiting, done, dead]) == {done, dead}


def test_celery_sees_what_the_ledger_sees(book: Book, monkeypatch) -> None:
    from celery.result import AsyncResult

    from workers.app import app
    from workers.celery import backend

    monkeypatch.setattr(backend, "ledger", lambda *_, **__: book.ledger)
    waiting, (running, _), (done, lease_id) = book.submit(), book.running(), book.running()
    book.settle(done, lease_id, result={"n": 1})
    dead, lease_id = book.running()
    book.settle(dead, lease_id, "failed", "dead", error={"code": "boom", "message": "it broke"})
    retried, lease_id = book.running()
    book.settle(retried, lease_id, "failed", error={"code": "x", "message": "again"}, delay_seconds=60)
    states = [AsyncResult(str(job), app=app).state for job in (waiting, running, done, dead, retried, new_id())]
    assert states == ["PENDING", "PENDING", "SUCCESS", "FAILURE", "RETRY", "PENDING"]
    monkeypatch.setitem(app.conf, "task_track_started", True)
    assert AsyncResult(str(running), app=app).state == "STARTED"
    assert AsyncResult(str(done), app=app).get(timeout=5) == {"n": 1}
    assert "it broke" in str(AsyncResult(str(dead), app=app).result)


def test_the_gauges_tell_of_dead_letters_and_of_jobs_that_are_overdue(book: Book) -> None:
    def told() -> dict[str, float]:
        families = QueueGauges(book.ledger, 20.0).collect()
        return {family.name: sample.value for family in families for sample in family.samples if not sample.labels}

    assert told() == {"jobplatform_ledger_up": 1, "jobplatform_dead_letters": 0, "jobplatform_overdue_seconds": 0}
    book.submit(run_at=datetime.now(UTC) + timedelta(hours=1))
    assert told()["jobplatform_overdue_seconds"] == 0
    book.do("UPDATE jobs SET run_at = clock_timestamp() - interval '100 s'")
    job_id, lease_id = book.running()
    book.settle(job_id, lease_id, "failed", "dead", error={"code": "x", "message": "x", "retryable": False})
    result = told()
    assert result["jobplatform_dead_letters"] == 1 and 100 <= result["jobplatform_overdue_seconds"] < 200
