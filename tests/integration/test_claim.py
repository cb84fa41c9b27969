"""Claim: one round trip that locks the row first, then looks."""

from __future__ import annotations

import pytest

from jobplatform.ledger import queues
from jobplatform.ledger.ids import new_id
from tests.support.ledgers import Book


def test_a_claim_starts_a_run_with_its_lease(book: Book) -> None:
    job_id, lease_id = book.submit(payload={"n": 1}), new_id()
    book.dispatch(job_id)
    claimed = book.claim(job_id, lease_id)
    assert (claimed.verdict, claimed.run_no, claimed.attempt, claimed.payload) == ("claimed", 1, 1, {"n": 1})
    row = book.row(job_id)
    assert (row.state, row.lease_id, row.worker_id) == ("running", lease_id, book.worker.id)


def test_a_claim_whose_answer_was_lost_is_mine_when_repeated(book: Book) -> None:
    job_id, lease_id = book.running()
    again = book.claim(job_id, lease_id, dispatch_no=1)
    assert (again.verdict, again.run_no) == ("mine", 1)
    assert book.events(job_id).count("started") == 1


@pytest.mark.parametrize(
    ("dispatch_no", "kind"),
    [(0, "test.echo"), (2, "test.echo"), (1, "email.send")],
    ids=["an older dispatch", "a dispatch to come", "another kind"],
)
def test_what_does_not_fit_changes_nothing(book: Book, dispatch_no: int, kind: str) -> None:
    job_id = book.submit()
    book.dispatch(job_id)
    before = book.row(job_id)
    assert book.claim(job_id, dispatch_no=dispatch_no, kind=kind).verdict == "stale"
    assert book.row(job_id) == before


def test_an_unknown_job_is_gone(book: Book) -> None:
    assert book.claim(new_id(), dispatch_no=1).verdict == "gone"


def test_a_finished_job_is_gone(book: Book) -> None:
    job_id, lease_id = book.running()
    book.settle(job_id, lease_id)
    assert book.claim(job_id, dispatch_no=1).verdict == "gone"


def test_a_paused_queue_gives_the_job_back(book: Book) -> None:
    job_id = book.submit()
    book.dispatch(job_id)
    with book.ledger.transaction() as connection:
        queues.set_paused(connection, "email", True)
    assert book.claim(job_id).verdict == "paused"
    assert (book.row(job_id).state, book.events(job_id)[-1]) == ("available", "returned")


def test_a_job_past_its_start_by_expires_at_the_claim(book: Book) -> None:
    job_id = book.submit()
    book.dispatch(job_id)
    book.do("UPDATE jobs SET start_by = clock_timestamp() - interval '1 s'")
    assert book.claim(job_id).verdict == "expired"
    row = book.row(job_id)
    assert (row.state, row.error["code"]) == ("expired", "expired")
    book.assert_conserved()


def test_a_started_job_does_not_expire_between_its_attempts(book: Book) -> None:
    job_id, lease_id = book.running()
    book.settle(job_id, lease_id, "failed", error={"code": "x", "message": "x"})
    book.do("UPDATE jobs SET state = 'available', start_by = clock_timestamp() - interval '1 s'")
    book.dispatch(job_id)
    assert book.claim(job_id).verdict == "claimed"
