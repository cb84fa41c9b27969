"""Schedules in the ledger: any number of pollers fire each planned time once; overlap, missed times, changes,
broken schedules."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from jobplatform.domain.schedules import ScheduleDefinition
from jobplatform.errors import InvalidPayload, ScheduleNotFound
from jobplatform.ledger import schedules
from jobplatform.usecases import manage_schedules as manage
from jobplatform.usecases.fire_schedules import Fired, fire_schedules
from tests.support.ledger_harness import LedgerHarness, registry


def put(harness: LedgerHarness, name: str = "s", **definition: Any) -> manage.ScheduleView:
    times = {} if {"cron", "times"} & set(definition) else {"every_seconds": 60.0}
    command = ScheduleDefinition(name, "test.echo", definition.pop("payload", {}), **{**times, **definition})
    return manage.put_schedule(harness.ledger, registry(), harness.tenant_id, command, by="me")


def make_due(harness: LedgerHarness, name: str = "s", ago: str = "1 s") -> Any:
    """Move the next planned time of a schedule into the recent past; return it."""
    (planned,) = harness.all(
        "UPDATE schedules SET next_planned_at = date_trunc('second', clock_timestamp()) - CAST(:ago AS interval), "
        "next_due_at = clock_timestamp() - interval '1 ms', anchor_at = date_trunc('second', clock_timestamp()) "
        "- CAST(:ago AS interval) WHERE name = :name RETURNING next_planned_at",
        name=name,
        ago=ago,
    )
    return planned


def fire(harness: LedgerHarness, limit: int = 500, grace: float = 60) -> Fired:
    return fire_schedules(harness.ledger, limit=limit, grace_seconds=grace)


def outcomes(harness: LedgerHarness, name: str = "s") -> list[str]:
    return harness.all(
        "SELECT outcome FROM schedule_fires JOIN schedules s ON s.id = schedule_id WHERE name = :n ORDER BY planned_at",
        n=name,
    )


def end(harness: LedgerHarness) -> None:
    """Let every available job succeed."""
    for job_id in harness.all("SELECT id FROM jobs WHERE state = 'available' ORDER BY id"):
        from jobplatform.ledger.ids import new_id

        lease_id = new_id()
        harness.dispatch(job_id)
        harness.claim(job_id, lease_id)
        harness.settle(job_id, lease_id)


def test_a_fire_creates_a_job_with_the_planned_time_in_its_payload(harness: LedgerHarness) -> None:
    put(harness, payload={"at": {"$planned_at": ""}}, priority=7, tags=("t",), time_zone="Europe/Berlin")
    planned = make_due(harness)
    result = fire(harness)
    assert (result.fires, result.woken, result.more) == (1, "email 7", False)
    assert result.seconds is not None and 0 < result.seconds <= 60
    (job,) = harness.all("SELECT id FROM jobs")
    row = harness.row(job)
    assert row.payload["at"].endswith(("+01:00", "+02:00")) and (row.priority, row.tags) == (7, ["t"])
    (data,) = harness.all("SELECT data FROM job_events WHERE job_id = :id", id=job)
    assert data["schedule"] == "s"
    view = manage.get_schedule(harness.ledger, harness.tenant_id, "s").values
    assert (view["last_job_id"], view["last_at"]) == (job, planned)
    assert view["next_at"] == planned + timedelta(seconds=60)
    assert fire(harness).fires == 0
    harness.assert_conserved()


def test_concurrent_pollers_fire_each_planned_time_once(harness: LedgerHarness) -> None:
    for number in range(60):
        put(harness, f"s{number}", overlap="allow")
    harness.do("UPDATE schedules SET next_planned_at = now() - interval '1 s', next_due_at = now(), anchor_at = now()")
    with ThreadPoolExecutor(4) as pool:
        result = list(pool.map(lambda _: sum(fire(harness, limit=7).fires for _ in range(10)), range(4)))
    assert sum(result) == 60
    assert harness.all("SELECT count(*)::int, count(DISTINCT schedule_id)::int FROM schedule_fires") == [(60, 60)]
    assert harness.all("SELECT count(*)::int FROM jobs") == [60]


def test_a_planned_time_that_has_fired_creates_no_second_job(harness: LedgerHarness) -> None:
    """A clock that jumps back, or a restored backup, plans the same time again."""
    put(harness, overlap="allow")
    planned = make_due(harness)
    fire(harness)
    harness.do("UPDATE schedules SET next_planned_at = :p, next_due_at = clock_timestamp()", p=planned)
    fire(harness)
    assert harness.all("SELECT count(*)::int FROM jobs") == [1]


def test_a_fire_whose_transaction_is_rolled_back_happens_later(harness: LedgerHarness) -> None:
    put(harness)
    make_due(harness)
    with pytest.raises(RuntimeError), harness.ledger.transaction() as connection:
        rows = schedules.due_schedules(connection, 10)
        assert len(rows) == 1
        raise RuntimeError("killed")
    assert fire(harness).fires == 1


def test_two_transactions_never_lock_the_same_schedule(harness: LedgerHarness) -> None:
    put(harness, "a")
    make_due(harness, "a")
    with harness.ledger.transaction() as connection:
        assert len(schedules.due_schedules(connection, 10)) == 1
        assert fire(harness).fires == 0, "another transaction has locked it"


@pytest.mark.parametrize(
    ("overlap", "after_three", "live"),
    [
        ("allow", ["fired", "fired", "fired"], 3),
        ("skip", ["fired", "skipped", "skipped"], 1),
        ("queue", ["fired", "queued", "queued"], 1),
        ("cancel", ["fired", "fired", "fired"], 1),
    ],
)
def test_a_fire_follows_the_overlap_policy_while_the_job_before_it_is_live(
    harness: LedgerHarness, overlap: Any, after_three: list[str], live: int
) -> None:
    put(harness, overlap=overlap)
    for ago in ("50 s", "40 s", "30 s"):
        make_due(harness, ago=ago)
        fire(harness)
    assert outcomes(harness) == after_three
    assert harness.all("SELECT count(*)::int FROM jobs") == [live]
    if overlap == "cancel":
        assert harness.all("SELECT state FROM job_history") == ["cancelled", "cancelled"]
    if overlap == "queue":
        for expected in (["fired", "fired", "queued"], ["fired", "fired", "fired"]):
            fire(harness)
            end(harness)
            fire(harness)
            assert outcomes(harness) == expected, "one after the other"
            assert harness.all("SELECT count(*)::int FROM jobs") == [1]
        assert harness.all("SELECT queued FROM schedules") == [0]
    harness.assert_conserved()


def test_a_dead_letter_does_not_block_its_schedule(harness: LedgerHarness) -> None:
    put(harness)
    make_due(harness, ago="50 s")
    fire(harness)
    harness.do("UPDATE jobs SET state = 'dead', error = '{}'")
    make_due(harness, ago="20 s")
    fire(harness)
    assert outcomes(harness) == ["fired", "fired"]


@pytest.mark.parametrize(
    ("missed", "expected"),
    [("skip", ["missed"]), ("once", ["missed", "fired"]), ("catch_up", ["missed", "fired", "fired", "fired"])],
)
def test_missed_times_follow_the_missed_policy(harness: LedgerHarness, missed: Any, expected: list[str]) -> None:
    put(harness, missed=missed, catch_up=3, overlap="allow", every_seconds=3600.0)
    planned = make_due(harness, ago="100 hours")
    harness.do(
        "UPDATE schedules SET next_planned_at = next_planned_at - interval '5 min', anchor_at = next_planned_at "
        "- interval '5 min'"
    )
    fire(harness)
    assert outcomes(harness) == expected
    (first, until) = harness.all("SELECT planned_at, missed_until FROM schedule_fires WHERE outcome = 'missed'")[0]
    assert first == planned - timedelta(minutes=5) and until > first
    view = manage.get_schedule(harness.ledger, harness.tenant_id, "s").values
    assert view["next_at"] > view["updated_at"]


def test_fires_missed_during_a_pause_are_not_made_up_and_run_now_works_while_paused(harness: LedgerHarness) -> None:
    put(harness)
    manage.pause_schedule(harness.ledger, harness.tenant_id, "s", True, by="me")
    make_due(harness, ago="10 hours")
    assert fire(harness).fires == 0
    job = manage.run_now(harness.ledger, None, harness.tenant_id, "s", by="ada")
    assert harness.row(job).state == "available"
    assert harness.all("SELECT by, outcome FROM schedule_fires") == [("ada", "fired")]
    view = manage.pause_schedule(harness.ledger, harness.tenant_id, "s", False, by="me").values
    assert view["paused"] is False and view["next_at"] > view["updated_at"] - timedelta(seconds=1)
    assert fire(harness).fires == 0


def test_putting_a_schedule_again_keeps_its_next_time_and_changing_its_times_replans_it(harness: LedgerHarness) -> None:
    put(harness)
    planned = make_due(harness, ago="5 s")
    put(harness, payload={"new": 1}, priority=9)
    assert manage.get_schedule(harness.ledger, harness.tenant_id, "s").values["next_at"] == planned
    assert fire(harness).fires == 1
    view = put(harness, cron="0 0 1 1 *").values
    assert (view["next_at"].month, view["next_at"].day, view["every_seconds"]) == (1, 1, None)
    assert harness.all("SELECT count(*)::int FROM schedules") == [1]
    assert outcomes(harness) == ["fired"]


def test_a_schedule_that_cannot_be_read_does_not_delay_others(harness: LedgerHarness) -> None:
    put(harness, "broken", cron="* * * * *")
    put(harness, "fine")
    make_due(harness, "fine")
    make_due(harness, "broken")
    harness.do(
        'UPDATE schedules SET spec = \'{"cron": "* * * * *", "time_zone": "Gone/Zone"}\' WHERE name = \'broken\''
    )
    assert fire(harness).fires == 1
    assert outcomes(harness, "fine") == ["fired"]
    assert fire(harness).fires == 0, "it is not retried at once"


def test_a_payload_that_is_invalid_for_every_fire_is_refused(harness: LedgerHarness) -> None:
    from pydantic import BaseModel

    class Strict(BaseModel):
        day: int

    kinds = registry()
    kind = kinds.get("test.echo")
    object.__setattr__(kind, "payload", Strict)
    definition = ScheduleDefinition("s", "test.echo", {"day": "monday"}, every_seconds=60)
    with pytest.raises(InvalidPayload):
        manage.put_schedule(harness.ledger, kinds, harness.tenant_id, definition, by="me")
    definition = ScheduleDefinition("s", "test.echo", {"day": {"$planned_at": "%d"}}, every_seconds=60)
    manage.put_schedule(harness.ledger, kinds, harness.tenant_id, definition, by="me")


def test_a_schedule_of_listed_times_ends_after_the_last_one(harness: LedgerHarness) -> None:
    with harness.ledger.statement() as connection:
        now = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
    put(harness, times=(now + timedelta(hours=1), now + timedelta(hours=2)), overlap="allow")
    harness.do(
        "UPDATE schedules SET next_due_at = clock_timestamp(), spec = jsonb_set(spec, '{times}', to_jsonb(ARRAY["
        "clock_timestamp() - interval '20 s', clock_timestamp() - interval '10 s'])), "
        "next_planned_at = clock_timestamp() - interval '30 s'"
    )
    assert fire(harness).fires == 2
    assert manage.get_schedule(harness.ledger, harness.tenant_id, "s").values["next_at"] is None
    assert fire(harness).seconds is None


def test_deleting_a_schedule_keeps_its_jobs(harness: LedgerHarness) -> None:
    put(harness)
    make_due(harness)
    fire(harness)
    manage.delete_schedule(harness.ledger, harness.tenant_id, "s")
    with pytest.raises(ScheduleNotFound):
        manage.get_schedule(harness.ledger, harness.tenant_id, "s")
    assert harness.all("SELECT count(*)::int FROM jobs") == [1]
    with harness.ledger.transaction() as connection:
        assert schedules.forget_fires(connection, 90) == 1, "fires of a deleted schedule are deleted"


def test_a_schedule_that_the_ledger_refuses_is_postponed_and_the_others_fire(harness: LedgerHarness) -> None:
    for name in ("a", "bad", "c"):
        put(harness, name)
        make_due(harness, name)
    harness.do("ALTER TABLE schedules DROP CONSTRAINT schedules_priority_in_range")
    harness.do("UPDATE schedules SET priority = 10 WHERE name = 'bad'")
    assert fire(harness).fires == 2
    assert (outcomes(harness, "a"), outcomes(harness, "bad"), outcomes(harness, "c")) == (["fired"], [], ["fired"])
    assert fire(harness).fires == 0, "it is not retried at once"


def test_fires_per_poll_are_bounded_and_the_next_poll_continues(harness: LedgerHarness) -> None:
    put(harness, overlap="allow", missed="catch_up", catch_up=1000, every_seconds=60.0)
    make_due(harness, ago="250 min")
    counts = [fire(harness).fires for _ in range(4)]
    assert counts == [100, 100, 51, 0]
    assert harness.all("SELECT count(DISTINCT planned_at)::int FROM schedule_fires") == [251]


def test_a_clock_that_jumped_back_cancels_no_job(harness: LedgerHarness) -> None:
    put(harness, overlap="cancel")
    planned = make_due(harness)
    fire(harness)
    harness.do("UPDATE schedules SET next_planned_at = :p, next_due_at = clock_timestamp()", p=planned)
    fire(harness)
    assert harness.all("SELECT state FROM jobs") == ["available"]


def test_a_manual_run_does_not_count_as_the_previous_fire(harness: LedgerHarness) -> None:
    put(harness)
    make_due(harness, ago="50 s")
    fire(harness)
    (first,) = harness.all("SELECT id FROM jobs")
    manage.run_now(harness.ledger, None, harness.tenant_id, "s", by="ada")
    assert harness.all("SELECT last_job_id FROM schedules") == [first]


def test_a_deployment_does_not_resume_a_schedule_that_an_operator_has_paused(harness: LedgerHarness) -> None:
    put(harness)
    manage.pause_schedule(harness.ledger, harness.tenant_id, "s", True, by="ada")
    assert put(harness).values["paused"] is True
    assert put(harness, paused=False).values["paused"] is False


def test_concurrent_pollers_release_only_one_queued_fire(harness: LedgerHarness) -> None:
    put(harness, overlap="queue")
    for ago in ("50 s", "40 s", "30 s"):
        make_due(harness, ago=ago)
        fire(harness)
    end(harness)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: fire(harness), range(8)))
    assert outcomes(harness) == ["fired", "fired", "queued"]
    assert harness.all("SELECT queued FROM schedules") == [1]
    assert harness.all("SELECT count(*)::int FROM jobs") == [1]
