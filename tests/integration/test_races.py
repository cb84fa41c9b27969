"""The races of the protocol, statement by statement, on two connections (docs/concepts/delivery.md)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text

from jobplatform.ledger import jobs, workers
from jobplatform.ledger.ids import new_id
from tests.support.ledgers import Book, card
from tests.support.waiting import wait_until_blocked


@pytest.fixture
def pool():
    with ThreadPoolExecutor(4) as found:
        yield found


def test_claim_against_mark__a_claim_waits_for_the_dispatchers_commit(book: Book, pool) -> None:
    job_id = book.submit()
    with book.round():
        # the message is out, the mark is not committed: the old version of the row says `available`
        claim = pool.submit(book.claim, job_id, dispatch_no=1)
        wait_until_blocked(book)
    assert claim.result().verdict == "claimed"
    assert book.events(job_id) == ["submitted", "dispatched", "started"]


def test_claim_against_mark__a_rolled_back_mark_leaves_a_harmless_message(book: Book, pool) -> None:
    job_id = book.submit()
    with pytest.raises(ZeroDivisionError), book.round():
        claim = pool.submit(book.claim, job_id, dispatch_no=1)
        wait_until_blocked(book)
        raise ZeroDivisionError
    assert claim.result().verdict == "stale"
    assert book.row(job_id).state == "available"


def test_two_claims__one_wins_and_the_other_changes_nothing(book: Book, pool) -> None:
    job_id = book.submit()
    book.dispatch(job_id)
    verdicts = [claim.result().verdict for claim in [pool.submit(book.claim, job_id, dispatch_no=1) for _ in range(4)]]
    assert sorted(verdicts) == ["claimed", "stale", "stale", "stale"]
    assert book.row(job_id).run_no == 1
    assert book.events(job_id).count("started") == 1


def test_claim_against_cancel__whoever_has_the_row_first_decides(book: Book, pool) -> None:
    job_id = book.submit()
    book.dispatch(job_id)
    with book.ledger.transaction() as caller:
        verdict, state = jobs.cancel_job(caller, book.tenant_id, job_id, "not needed")
        assert (verdict, state) == ("cancelled", "cancelled")
        claim = pool.submit(book.claim, job_id, dispatch_no=1)
        wait_until_blocked(book)
    assert claim.result().verdict == "gone"
    assert book.row(job_id).state == "cancelled"
    book.assert_conserved()


def test_claim_against_cancel__a_claimed_job_is_told(book: Book, pool) -> None:
    job_id, lease_id = book.submit(), new_id()
    book.dispatch(job_id)
    with book.ledger.transaction() as worker:
        worker.execute(
            text("SELECT verdict FROM claim_run(:j, 1, 'test.echo', :l, :w, 'w')"),
            {"j": job_id, "l": lease_id, "w": book.worker.id},
        )

        def cancel() -> tuple[str, str | None]:
            with book.ledger.transaction() as caller:
                return jobs.cancel_job(caller, book.tenant_id, job_id, None)

        cancelled = pool.submit(cancel)
        wait_until_blocked(book)
    assert cancelled.result() == ("requested", "running")
    assert book.row(job_id).cancel_requested_at is not None


@pytest.mark.parametrize("first", ["settle", "cancel"])
def test_settle_against_cancel__the_first_commit_wins(book: Book, pool, first: str) -> None:
    job_id, lease_id = book.running()

    def cancel() -> tuple[str, str | None]:
        with book.ledger.transaction() as caller:
            return jobs.cancel_job(caller, book.tenant_id, job_id, "stop")

    with book.ledger.transaction() as connection:
        if first == "settle":
            connection.execute(
                text("SELECT verdict FROM settle_run(:j, :l, 'succeeded', 'succeeded')"), {"j": job_id, "l": lease_id}
            )
            other = pool.submit(cancel)
        else:
            jobs.cancel_job(connection, book.tenant_id, job_id, "stop")
            other = pool.submit(book.settle, job_id, lease_id)
        wait_until_blocked(book)
    if first == "settle":
        assert other.result() == ("ended", "succeeded")
    else:
        # told too late: a success is a success, whoever was told what
        assert other.result() == ("settled", "succeeded")
    assert book.row(job_id).state == "succeeded"
    book.assert_conserved()


def test_cancel_against_failure__every_end_but_success_becomes_cancelled(book: Book) -> None:
    job_id, lease_id = book.running()
    with book.ledger.transaction() as caller:
        jobs.cancel_job(caller, book.tenant_id, job_id, "stop")
    assert book.settle(job_id, lease_id, "failed", error={"code": "x", "message": "x"}) == ("settled", "cancelled")
    row = book.row(job_id)
    assert (row.state, row.crash_count, row.lost_count) == ("cancelled", 0, 0)
    assert book.claim(job_id, dispatch_no=row.dispatch_no).verdict == "gone"


def test_settle_against_rescue__a_settled_run_is_not_rescued(book: Book, pool) -> None:
    job_id, lease_id = book.running()
    book.do("UPDATE workers SET heartbeat_at = clock_timestamp() - interval '1 hour'")
    with book.ledger.transaction() as worker:
        worker.execute(
            text("SELECT verdict FROM settle_run(:j, :l, 'succeeded', 'succeeded')"), {"j": job_id, "l": lease_id}
        )
        with book.ledger.transaction() as rescuer:  # SKIP LOCKED: it does not even wait
            assert workers.rescue_runs(rescuer, 5.0) == []
    assert book.row(job_id).state == "succeeded"
    assert book.all("SELECT outcome FROM job_runs WHERE job_id = :id", id=job_id) == ["succeeded"]


def test_settle_against_rescue__a_rescued_run_settles_nothing_any_more(book: Book) -> None:
    job_id, lease_id = book.running()
    book.do("UPDATE workers SET heartbeat_at = clock_timestamp() - interval '1 hour'")
    with book.ledger.transaction() as rescuer:
        (run,) = workers.rescue_runs(rescuer, 5.0)
    assert (run.outcome, run.state) == ("lost", "scheduled")
    assert book.settle(job_id, lease_id) == ("lost", None)
    assert book.row(job_id).state == "scheduled"


def test_rescue__a_beat_that_commits_before_the_look_counts(book: Book) -> None:
    book.running()
    book.do("UPDATE workers SET heartbeat_at = clock_timestamp() - interval '1 hour'")
    with book.ledger.transaction() as rescuer:
        rescuer.execute(text("SELECT 1"))  # its transaction is open before the beat
        book.do("UPDATE workers SET heartbeat_at = clock_timestamp()")
        assert workers.rescue_runs(rescuer, 5.0) == []


def test_two_rescuers__one_end_per_run(book: Book, pool) -> None:
    running = [book.running()[0] for _ in range(20)]
    book.do("UPDATE workers SET heartbeat_at = clock_timestamp() - interval '1 hour'")

    def rescue() -> int:
        with book.ledger.transaction() as connection:
            return len(workers.rescue_runs(connection, 5.0))

    assert sum(item.result() for item in [pool.submit(rescue) for _ in range(4)]) == len(running)
    assert book.all("SELECT count(*)::int FROM job_runs") == [len(running)]
    assert set(book.all("SELECT lost_count FROM jobs")) == {1}


def test_two_dispatchers__one_has_the_queue_until_its_transaction_ends(book: Book) -> None:
    email, video = book.submit(), book.submit(kind="test.video")
    with book.round(batch=1) as (first, _):
        assert [job.id for job in first] == [str(email)]
        book.submit()
        with book.round() as (second, opened):
            assert opened.look.verdict == "elsewhere" and not second
        with book.round("video") as (other, _):
            assert [job.id for job in other] == [str(video)]
    with book.round() as (second, _):
        assert len(second) == 1, "the lock went with the transaction; what was picked is not picked again"


def test_a_pick_leaves_a_job_alone_that_somebody_is_cancelling(book: Book) -> None:
    taken, free = book.submit(), book.submit()
    with book.ledger.transaction() as caller:
        jobs.cancel_job(caller, book.tenant_id, taken, None)
        with book.round() as (found, _):
            assert [job.id for job in found] == [str(free)]


def test_late_settle_after_a_forgotten_claim__the_lease_never_repeats(book: Book) -> None:
    """A Postgres that forgot the claim gives the second worker the same run_no; the first one's settle is refused."""
    job_id, forgotten = book.running()
    book.do(
        "UPDATE jobs SET state = 'dispatched', lease_id = NULL, worker_id = NULL, run_no = 0, attempt = 0 "
        "WHERE id = :j",
        j=job_id,
    )
    second = new_id()
    assert book.claim(job_id, second, dispatch_no=1).verdict == "claimed"
    assert book.row(job_id).run_no == 1
    assert book.settle(job_id, forgotten) == ("lost", None)
    assert book.row(job_id).state == "running"
    assert book.settle(job_id, second) == ("settled", "succeeded")


def test_beat_against_claim__a_lease_named_before_it_is_claimed_does_no_harm(book: Book) -> None:
    other = card()
    workers_row = "SELECT leases FROM workers WHERE id = :id"
    from jobplatform.usecases import track_workers

    track_workers.register(book.ledger, other)
    lease_id = new_id()
    assert track_workers.beat(book.ledger, other, [lease_id]) == []
    assert book.all(workers_row, id=other.id) == [[lease_id]]
