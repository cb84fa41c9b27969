"""Who is refused at a limit key reserves its units, and comes back to its old place: nobody waits for ever."""

from __future__ import annotations

import time
from uuid import UUID

import pytest

from jobplatform.config import Settings
from jobplatform.ledger import dispatching, keys
from jobplatform.ledger.ids import new_id
from jobplatform.usecases.cancel_job import cancel_job
from jobplatform.usecases.explain_job import explain_job
from jobplatform.usecases.manage_limits import list_limits
from tests.support.desk import Desk, limit, submit
from tests.support.ledgers import Book

SLOW = {"rate_units": 10, "rate_seconds": 36_000}  # nothing flows in while a test lasts


def fill(book: Book, key: str, units: float) -> None:
    book.do("INSERT INTO limit_states (key) VALUES (:key) ON CONFLICT DO NOTHING", key=key)
    book.do(
        "UPDATE limit_states SET level = :units, level_at = clock_timestamp(), slices_at = clock_timestamp(), "
        "slices = array_fill(0::float8, ARRAY[20]) || ARRAY[10 - :units]::float8[] WHERE key = :key",
        key=key,
        units=units,
    )


def take(book: Book, job_id: UUID) -> str:
    """Send a job's message and claim it, as if all that was before it had gone; returns the verdict."""
    book.do("UPDATE jobs SET state = 'available' WHERE id = :id AND state = 'scheduled'", id=job_id)
    book.dispatch(job_id)
    return book.claim(job_id, new_id()).verdict


@pytest.mark.parametrize("sliding", [False, True], ids=["bucket", "sliding window"])
def test_who_wants_much_gets_it_before_those_who_came_later(book: Book, sliding: bool) -> None:
    limit(book, "t:1", **SLOW, sliding=sliding)
    large, small, tiny = submit(book, "t:1", units=8), submit(book, "t:1", units=3), submit(book, "t:1", units=1)
    fill(book, "t:1", 5)
    assert take(book, large) == "limited"
    assert take(book, small) == "limited", "there are five, and all of them are reserved"
    fill(book, "t:1", 9)
    assert take(book, small) == "limited", "one of nine is free"
    assert take(book, tiny) == "claimed"
    assert take(book, large) == "claimed"
    fill(book, "t:1", 3)
    assert take(book, small) == "claimed", "what was reserved has been taken"


def test_neither_a_higher_priority_nor_an_older_job_waits_for_a_reservation(book: Book) -> None:
    limit(book, "t:1", **SLOW)
    older, large = submit(book, "t:1", units=3), submit(book, "t:1", units=9)
    urgent, younger = submit(book, "t:1", priority=9), submit(book, "t:1")
    fill(book, "t:1", 5)
    assert take(book, large) == "limited"
    assert [take(book, job_id) for job_id in (older, urgent, younger)] == ["claimed", "claimed", "limited"]


def test_the_one_that_goes_first_has_the_reservation(book: Book) -> None:
    limit(book, "t:1", **SLOW)
    first, second = submit(book, "t:1", units=10), submit(book, "t:1", units=9)
    fill(book, "t:1", 0)
    assert [take(book, job_id) for job_id in (second, first, second)] == ["limited"] * 3
    assert book.all("SELECT reserved_for FROM limit_states") == [first]


@pytest.mark.parametrize("end", ["cancelled", "late"])
def test_a_reservation_ends_with_its_job_and_with_its_time(book: Book, end: str) -> None:
    limit(book, "t:1", **SLOW)
    large, small = submit(book, "t:1", units=9), submit(book, "t:1")
    fill(book, "t:1", 5)
    assert [take(book, large), take(book, small)] == ["limited", "limited"]
    if end == "cancelled":
        cancel_job(book.ledger, book.tenant_id, large, None)
    else:
        book.do("UPDATE limit_states SET reserved_until = clock_timestamp()")
    assert take(book, small) == "claimed"


def test_two_that_want_the_same_two_keys_never_wait_for_each_other(book: Book) -> None:
    """Each was refused for the other key: the older one takes both, and then the younger one."""
    for key in ("a:1", "b:1"):
        limit(book, key, **SLOW)
    older, younger = submit(book, "a:1", "b:1", units=8), submit(book, "a:1", "b:1", units=8)
    fill(book, "a:1", 10)
    fill(book, "b:1", 0)
    assert take(book, younger) == "limited"
    fill(book, "a:1", 0)
    fill(book, "b:1", 10)
    assert take(book, older) == "limited"
    fill(book, "a:1", 10)
    assert [take(book, younger), take(book, older)] == ["limited", "claimed"]
    fill(book, "a:1", 10)
    fill(book, "b:1", 10)
    assert take(book, younger) == "claimed"


def test_calls_inside_a_run_reserve_too(book: Book) -> None:
    limit(book, "p:1", **SLOW)
    job_id, lease_id = book.running()
    fill(book, "p:1", 4)
    call = ("acquire_units", job_id, lease_id, "p:1", 9)
    ((verdict, seconds),) = book.ledger.call(*call)
    assert verdict == "wait" and 17_000 < seconds < 19_000
    small = submit(book, "p:1")
    assert take(book, small) == "limited"
    fill(book, "p:1", 9)
    assert book.ledger.call(*call)[0][0] == "taken"


def test_the_refused_one_is_sent_from_its_old_place(book: Book, desk: Desk) -> None:
    limit(book, "t:1", rate_units=10, rate_seconds=1)
    first, second = submit(book, "t:1", units=5), submit(book, "t:1", units=5)
    with book.ledger.transaction() as connection:
        other = keys.create_tenant(connection, "other")
    theirs = submit(book, "t:1", tenant=other)
    before = book.row(first).state_at
    book.dispatch(first)
    fill(book, "t:1", 0)
    assert book.claim(first).verdict == "limited"
    desk.round(window=0)  # it has looked, and knows the line by the second one
    book.do("UPDATE jobs SET run_at = clock_timestamp() WHERE id = :id", id=first)
    assert dispatching.wake_jobs(book.ledger, 10, None)
    assert abs((book.row(first).state_at - before).total_seconds()) < 0.01
    fill(book, "t:1", 10)
    assert desk.round(window=1).sent == 1
    assert book.row(first).state == "dispatched"
    assert [book.row(job_id).state for job_id in (second, theirs)] == ["available"] * 2
    assert book.claim(first).verdict == "claimed"
    assert book.row(first).reserved_at is None, "another attempt begins where all others do"


def test_another_dispatcher_hears_of_what_came_back_to_an_old_place(book: Book) -> None:
    limit(book, "t:1", **SLOW)
    job_id = submit(book, "t:1")
    fill(book, "t:1", 0)
    assert take(book, job_id) == "limited"
    book.do(
        "UPDATE jobs SET reserved_at = reserved_at - interval '1 h', run_at = clock_timestamp() WHERE id = :id",
        id=job_id,
    )
    dispatching.wake_jobs(book.ledger, 10, None)
    ((queue,),) = book.ledger.call("waiting_queues", ["email"], [book.row(job_id).run_at])
    assert queue == "email"


def test_large_ones_go_while_small_ones_keep_coming(book: Book, desk: Desk) -> None:
    """Whoever takes what flows in at once must not hold up one that needs a full bucket."""
    limit(book, "t:1", rate_units=20, rate_seconds=0.4)
    with book.ledger.transaction() as connection:
        other = keys.create_tenant(connection, "other")
    for _ in range(20):
        submit(book, "t:1")
    large = submit(book, "t:1", units=20, tenant=other)
    younger: list[UUID] = []
    deadline = time.monotonic() + 20
    while book.row(large).state != "running":
        assert time.monotonic() < deadline, "the large one was never served"
        younger.append(submit(book, "t:1"))
        dispatching.wake_jobs(book.ledger, 100, None)
        desk.round(window=5)
        for job_id in book.all("SELECT id FROM jobs WHERE state = 'dispatched' ORDER BY dispatched_at"):
            if book.claim(job_id, new_id()).verdict == "claimed" and job_id != large:
                book.do(
                    "UPDATE jobs SET lease_id = NULL, worker_id = NULL, state = 'dead', error = '{}' WHERE id = :id",
                    id=job_id,
                )
    served = [job_id for job_id in younger if book.row(job_id).run_no]
    assert len(served) <= 30, "the bucket is filled for it once"


def test_what_is_reserved_is_shown(book: Book) -> None:
    limit(book, "t:1", **SLOW)
    large, small = submit(book, "t:1", units=9), submit(book, "t:1")
    fill(book, "t:1", 5)
    assert [take(book, large), take(book, small)] == ["limited", "limited"]
    book.do("UPDATE jobs SET state = 'available' WHERE id = :id", id=small)
    (view,) = list_limits(book.ledger)
    assert [use.units_reserved for use in view.keys] == [9]
    (reason,) = (
        reason.message
        for reason in explain_job(book.ledger, Settings(database_url=book.url), book.tenant_id, small).reasons
        if reason.code == "key_without_units"
    )
    assert "5.0 units left (9 reserved for a job before it), this job takes 1" in reason
