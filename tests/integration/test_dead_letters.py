"""Replay, discard, and a change of priority or time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from jobplatform.errors import JobNotFound, NotChangeable, NotDiscardable, NotReplayable
from jobplatform.ledger.ids import new_id
from jobplatform.usecases.cancel_job import cancel_job
from jobplatform.usecases.change_job import change_job
from jobplatform.usecases.discard_job import discard_job
from jobplatform.usecases.replay_job import replay_job
from tests.support.ledgers import Book

ERROR = {"code": "boom", "message": "boom", "retryable": False}


def dead(book: Book) -> UUID:
    job_id, lease_id = book.running()
    assert book.settle(job_id, lease_id, "failed", "dead", error=ERROR) == ("settled", "dead")
    return job_id


def replay(book: Book, job_id: UUID):
    return replay_job(book.ledger, None, book.tenant_id, job_id, by="ops", reason="fixed")


def test_a_replayed_dead_letter_runs_again_with_its_numbers_rising(book: Book) -> None:
    job_id = dead(book)
    assert replay(book, job_id).state == "available"
    row = book.row(job_id)
    assert (row.attempt, row.run_no, row.dispatch_no) == (0, 1, 1)
    book.dispatch(job_id)
    lease_id = new_id()
    claimed = book.claim(job_id, lease_id)
    assert (claimed.verdict, claimed.run_no, claimed.attempt) == ("claimed", 2, 1)
    assert book.settle(job_id, lease_id) == ("settled", "succeeded")
    assert book.row(job_id).error is None
    assert book.all("SELECT data ->> 'by' FROM job_events WHERE job_id = :j AND event = 'replayed'", j=job_id) == [
        "ops"
    ]
    book.assert_conserved()


def test_the_message_of_the_dispatch_before_a_replay_is_stale(book: Book) -> None:
    job_id = dead(book)
    replay(book, job_id)
    book.dispatch(job_id)
    assert book.claim(job_id, dispatch_no=1).verdict == "stale"
    assert book.claim(job_id, dispatch_no=2).verdict == "claimed"


def test_a_cancelled_job_comes_back_from_history(book: Book) -> None:
    job_id = book.submit()
    cancel_job(book.ledger, book.tenant_id, job_id)
    book.assert_conserved()
    assert replay(book, job_id).state == "available"
    assert book.all("SELECT count(*)::int FROM job_history") == [0]
    book.assert_conserved()
    book.dispatch(job_id)
    assert book.claim(job_id).verdict == "claimed"


def test_an_expired_job_that_is_replayed_does_not_expire_at_once(book: Book) -> None:
    job_id = book.submit()
    book.do("UPDATE jobs SET start_by = clock_timestamp() - interval '1 s' WHERE id = :i", i=job_id)
    book.all("SELECT * FROM wake_jobs(10, NULL)")
    assert book.row(job_id).state == "expired"
    replay(book, job_id)
    book.all("SELECT * FROM wake_jobs(10, NULL)")
    assert (book.row(job_id).state, book.row(job_id).start_by) == ("available", None)


@pytest.mark.parametrize("source", ["dead", "cancelled"])
def test_of_many_replays_at_once_one_counts(book: Book, source: str) -> None:
    if source == "dead":
        job_id = dead(book)
    else:
        job_id = book.submit()
        cancel_job(book.ledger, book.tenant_id, job_id)

    def one(_: int) -> str:
        try:
            return replay(book, job_id).state.value
        except NotReplayable as error:
            return f"refused: {error.state}"

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(one, range(8)))
    assert sorted(found) == ["available"] + ["refused: available"] * 7
    assert book.events(job_id).count("replayed") == 1
    book.assert_conserved()


def test_what_waits_runs_or_succeeded_is_not_replayed(book: Book) -> None:
    waiting = book.submit()
    running, lease_id = book.running()
    with pytest.raises(NotReplayable, match=r"is available: expected a job that is dead"):
        replay(book, waiting)
    with pytest.raises(NotReplayable, match="is running"):
        replay(book, running)
    book.settle(running, lease_id)
    with pytest.raises(NotReplayable, match="is succeeded"):
        replay(book, running)
    with pytest.raises(JobNotFound):
        replay(book, new_id())
    assert book.events(running) == ["submitted", "dispatched", "started", "succeeded"]


def test_another_tenants_dead_letter_is_not_found(book: Book) -> None:
    job_id, stranger = dead(book), new_id()
    with pytest.raises(JobNotFound):
        replay_job(book.ledger, None, stranger, job_id, by="x")
    with pytest.raises(JobNotFound):
        discard_job(book.ledger, stranger, job_id, "x", by="x")
    with pytest.raises(JobNotFound):
        change_job(book.ledger, None, stranger, job_id, priority=1, by="x")
    assert book.row(job_id).state == "dead"


def test_a_discarded_job_is_final_and_says_why(book: Book) -> None:
    job_id = dead(book)
    job = discard_job(book.ledger, book.tenant_id, job_id, "obsolete", by="ops")
    assert (job.state, job.error["message"], job.error["last"]["code"]) == ("discarded", "obsolete", "boom")
    assert discard_job(book.ledger, book.tenant_id, job_id, "again", by="ops").error["message"] == "obsolete"
    with pytest.raises(NotReplayable):
        replay(book, job_id)
    book.assert_conserved()


def test_what_is_not_dead_is_not_discarded(book: Book) -> None:
    with pytest.raises(NotDiscardable, match="others can be cancelled"):
        discard_job(book.ledger, book.tenant_id, book.submit(), "x", by="ops")


def test_a_dispatched_job_with_a_new_priority_is_published_anew(book: Book) -> None:
    job_id = book.submit(priority=1)
    book.dispatch(job_id)
    job = change_job(book.ledger, None, book.tenant_id, job_id, priority=9, by="ops")
    assert (job.state, job.priority) == ("available", 9)
    assert book.claim(job_id, dispatch_no=1).verdict == "stale"
    book.dispatch(job_id)
    assert book.claim(job_id, dispatch_no=2).verdict == "claimed"
    assert book.events(job_id) == ["submitted", "dispatched", "changed", "dispatched", "started"]


def test_a_job_can_be_put_off_and_called_in(book: Book) -> None:
    job_id, later = book.submit(), datetime.now(UTC) + timedelta(hours=1)
    assert change_job(book.ledger, None, book.tenant_id, job_id, run_at=later, by="ops").state == "scheduled"
    same = change_job(book.ledger, None, book.tenant_id, job_id, run_at=later, by="ops")
    assert (same.state, book.events(job_id)) == ("scheduled", ["submitted", "changed"]), "the same again is no event"
    assert change_job(book.ledger, None, book.tenant_id, job_id, priority=7, by="ops").state == "scheduled"
    now = change_job(book.ledger, None, book.tenant_id, job_id, run_at=datetime.now(UTC), by="ops")
    assert (now.state, now.priority) == ("available", 7)


def test_a_running_or_dead_job_is_not_changed(book: Book) -> None:
    running, _ = book.running()
    for job_id in (running, dead(book)):
        with pytest.raises(NotChangeable, match="expected a job that is scheduled, available or dispatched"):
            change_job(book.ledger, None, book.tenant_id, job_id, priority=1, by="ops")
