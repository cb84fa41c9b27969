"""A job that is refused at a limit key reserves its units and returns to its old position: no job starves."""

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
from tests.support.ledger_harness import LedgerHarness

SLOW = {"rate_units": 10, "rate_seconds": 36_000}  # no units are added while a test runs


def fill(harness: LedgerHarness, key: str, units: float) -> None:
    harness.do("INSERT INTO limit_states (key) VALUES (:key) ON CONFLICT DO NOTHING", key=key)
    harness.do(
        "UPDATE limit_states SET level = :units, level_at = clock_timestamp(), slices_at = clock_timestamp(), "
        "slices = array_fill(0::float8, ARRAY[20]) || ARRAY[10 - :units]::float8[] WHERE key = :key",
        key=key,
        units=units,
    )


def take(harness: LedgerHarness, job_id: UUID) -> str:
    """Dispatch and claim a job, as if all jobs before it had gone; return the verdict."""
    harness.do("UPDATE jobs SET state = 'available' WHERE id = :id AND state = 'scheduled'", id=job_id)
    harness.dispatch(job_id)
    return harness.claim(job_id, new_id()).verdict


@pytest.mark.parametrize("sliding", [False, True], ids=["bucket", "sliding window"])
def test_a_job_that_needs_many_units_gets_them_before_younger_jobs(harness: LedgerHarness, sliding: bool) -> None:
    limit(harness, "t:1", **SLOW, sliding=sliding)
    large, small, tiny = (
        submit(harness, "t:1", units=8),
        submit(harness, "t:1", units=3),
        submit(harness, "t:1", units=1),
    )
    fill(harness, "t:1", 5)
    assert take(harness, large) == "limited"
    assert take(harness, small) == "limited", "all five units are reserved"
    fill(harness, "t:1", 9)
    assert take(harness, small) == "limited", "one of nine units is free"
    assert take(harness, tiny) == "claimed"
    assert take(harness, large) == "claimed"
    fill(harness, "t:1", 3)
    assert take(harness, small) == "claimed", "the reserved units have been taken"


def test_neither_a_higher_priority_nor_an_older_job_waits_for_a_reservation(harness: LedgerHarness) -> None:
    limit(harness, "t:1", **SLOW)
    older, large = submit(harness, "t:1", units=3), submit(harness, "t:1", units=9)
    urgent, younger = submit(harness, "t:1", priority=9), submit(harness, "t:1")
    fill(harness, "t:1", 5)
    assert take(harness, large) == "limited"
    assert [take(harness, job_id) for job_id in (older, urgent, younger)] == ["claimed", "claimed", "limited"]


def test_the_first_job_in_order_has_the_reservation(harness: LedgerHarness) -> None:
    limit(harness, "t:1", **SLOW)
    first, second = submit(harness, "t:1", units=10), submit(harness, "t:1", units=9)
    fill(harness, "t:1", 0)
    assert [take(harness, job_id) for job_id in (second, first, second)] == ["limited"] * 3
    assert harness.all("SELECT reserved_for FROM limit_states") == [first]


@pytest.mark.parametrize("end", ["cancelled", "late"])
def test_a_reservation_ends_with_its_job_or_when_it_expires(harness: LedgerHarness, end: str) -> None:
    limit(harness, "t:1", **SLOW)
    large, small = submit(harness, "t:1", units=9), submit(harness, "t:1")
    fill(harness, "t:1", 5)
    assert [take(harness, large), take(harness, small)] == ["limited", "limited"]
    if end == "cancelled":
        cancel_job(harness.ledger, harness.tenant_id, large, None)
    else:
        harness.do("UPDATE limit_states SET reserved_until = clock_timestamp()")
    assert take(harness, small) == "claimed"


def test_two_jobs_with_the_same_two_keys_never_wait_for_each_other(harness: LedgerHarness) -> None:
    """Each was refused for a different key: the older job takes units of both, then the younger job does."""
    for key in ("a:1", "b:1"):
        limit(harness, key, **SLOW)
    older, younger = submit(harness, "a:1", "b:1", units=8), submit(harness, "a:1", "b:1", units=8)
    fill(harness, "a:1", 10)
    fill(harness, "b:1", 0)
    assert take(harness, younger) == "limited"
    fill(harness, "a:1", 0)
    fill(harness, "b:1", 10)
    assert take(harness, older) == "limited"
    fill(harness, "a:1", 10)
    assert [take(harness, younger), take(harness, older)] == ["limited", "claimed"]
    fill(harness, "a:1", 10)
    fill(harness, "b:1", 10)
    assert take(harness, younger) == "claimed"


def test_calls_inside_a_run_reserve_units_too(harness: LedgerHarness) -> None:
    limit(harness, "p:1", **SLOW)
    job_id, lease_id = harness.running()
    fill(harness, "p:1", 4)
    call = ("acquire_units", job_id, lease_id, "p:1", 9)
    ((verdict, seconds),) = harness.ledger.call(*call)
    assert verdict == "wait" and 17_000 < seconds < 19_000
    small = submit(harness, "p:1")
    assert take(harness, small) == "limited"
    fill(harness, "p:1", 9)
    assert harness.ledger.call(*call)[0][0] == "taken"


def test_a_refused_job_is_dispatched_from_its_old_position(harness: LedgerHarness, desk: Desk) -> None:
    limit(harness, "t:1", rate_units=10, rate_seconds=1)
    first, second = submit(harness, "t:1", units=5), submit(harness, "t:1", units=5)
    with harness.ledger.transaction() as connection:
        other = keys.create_tenant(connection, "other")
    theirs = submit(harness, "t:1", tenant=other)
    before = harness.row(first).state_at
    harness.dispatch(first)
    fill(harness, "t:1", 0)
    assert harness.claim(first).verdict == "limited"
    desk.round(window=0)  # the dispatcher has read the queue and knows the flow by its second job
    harness.do("UPDATE jobs SET run_at = clock_timestamp() WHERE id = :id", id=first)
    assert dispatching.wake_jobs(harness.ledger, 10, None)
    assert abs((harness.row(first).state_at - before).total_seconds()) < 0.01
    fill(harness, "t:1", 10)
    assert desk.round(window=1).sent == 1
    assert harness.row(first).state == "dispatched"
    assert [harness.row(job_id).state for job_id in (second, theirs)] == ["available"] * 2
    assert harness.claim(first).verdict == "claimed"
    assert harness.row(first).reserved_at is None, "another attempt has no reserved position"


def test_another_dispatcher_notices_a_job_that_returned_to_its_old_position(harness: LedgerHarness) -> None:
    limit(harness, "t:1", **SLOW)
    job_id = submit(harness, "t:1")
    fill(harness, "t:1", 0)
    assert take(harness, job_id) == "limited"
    harness.do(
        "UPDATE jobs SET reserved_at = reserved_at - interval '1 h', run_at = clock_timestamp() WHERE id = :id",
        id=job_id,
    )
    dispatching.wake_jobs(harness.ledger, 10, None)
    ((queue,),) = harness.ledger.call("waiting_queues", ["email"], [harness.row(job_id).run_at])
    assert queue == "email"


def test_a_large_job_runs_while_small_jobs_keep_arriving(harness: LedgerHarness, desk: Desk) -> None:
    """Jobs that take units as soon as they are added must not starve a job that needs a full bucket."""
    limit(harness, "t:1", rate_units=20, rate_seconds=0.4)
    with harness.ledger.transaction() as connection:
        other = keys.create_tenant(connection, "other")
    for _ in range(20):
        submit(harness, "t:1")
    large = submit(harness, "t:1", units=20, tenant=other)
    younger: list[UUID] = []
    deadline = time.monotonic() + 20
    while harness.row(large).state != "running":
        assert time.monotonic() < deadline, "the large job never started"
        younger.append(submit(harness, "t:1"))
        dispatching.wake_jobs(harness.ledger, 100, None)
        desk.round(window=5)
        for job_id in harness.all("SELECT id FROM jobs WHERE state = 'dispatched' ORDER BY dispatched_at"):
            if harness.claim(job_id, new_id()).verdict == "claimed" and job_id != large:
                harness.do(
                    "UPDATE jobs SET lease_id = NULL, worker_id = NULL, state = 'dead', error = '{}' WHERE id = :id",
                    id=job_id,
                )
    served = [job_id for job_id in younger if harness.row(job_id).run_no]
    assert len(served) <= 30, "the bucket fills up for the large job once"


def test_reserved_units_are_shown(harness: LedgerHarness) -> None:
    limit(harness, "t:1", **SLOW)
    large, small = submit(harness, "t:1", units=9), submit(harness, "t:1")
    fill(harness, "t:1", 5)
    assert [take(harness, large), take(harness, small)] == ["limited", "limited"]
    harness.do("UPDATE jobs SET state = 'available' WHERE id = :id", id=small)
    (view,) = list_limits(harness.ledger)
    assert [use.units_reserved for use in view.keys] == [9]
    (reason,) = (
        reason.message
        for reason in explain_job(harness.ledger, Settings(database_url=harness.url), harness.tenant_id, small).reasons
        if reason.code == "key_without_units"
    )
    assert "5.0 units left (9 reserved for a job before it), this job takes 1" in reason
