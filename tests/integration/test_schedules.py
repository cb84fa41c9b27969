"""Schedules in the ledger: every planned time once, whoever looks; overlap, missed times, changes, broken ones."""

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
from tests.support.ledgers import Book, registry


def put(book: Book, name: str = "s", **order: Any) -> manage.ScheduleView:
    times = {} if {"cron", "times"} & set(order) else {"every_seconds": 60.0}
    command = ScheduleDefinition(name, "test.echo", order.pop("payload", {}), **{**times, **order})
    return manage.put_schedule(book.ledger, registry(), book.tenant_id, command, by="me")


def make_due(book: Book, name: str = "s", ago: str = "1 s") -> Any:
    """Let the next planned time of a schedule be a moment ago; returns it."""
    (planned,) = book.all(
        "UPDATE schedules SET next_planned_at = date_trunc('second', clock_timestamp()) - CAST(:ago AS interval), "
        "next_due_at = clock_timestamp() - interval '1 ms', anchor_at = date_trunc('second', clock_timestamp()) "
        "- CAST(:ago AS interval) WHERE name = :name RETURNING next_planned_at",
        name=name,
        ago=ago,
    )
    return planned


def look(book: Book, limit: int = 500, grace: float = 60) -> Fired:
    return fire_schedules(book.ledger, limit=limit, grace_seconds=grace)


def outcomes(book: Book, name: str = "s") -> list[str]:
    return book.all(
        "SELECT outcome FROM schedule_fires JOIN schedules s ON s.id = schedule_id WHERE name = :n ORDER BY planned_at",
        n=name,
    )


def end(book: Book) -> None:
    """Let every available job succeed."""
    for job_id in book.all("SELECT id FROM jobs WHERE state = 'available' ORDER BY id"):
        from jobplatform.ledger.ids import new_id

        lease_id = new_id()
        book.dispatch(job_id)
        book.claim(job_id, lease_id)
        book.settle(job_id, lease_id)


def test_a_fire_is_a_job_with_the_planned_time_in_its_payload(book: Book) -> None:
    put(book, payload={"at": {"$planned_at": ""}}, priority=7, tags=("t",), time_zone="Europe/Berlin")
    planned = make_due(book)
    result = look(book)
    assert (result.fires, result.woken, result.more) == (1, "email 7", False)
    assert result.seconds is not None and 0 < result.seconds <= 60
    (job,) = book.all("SELECT id FROM jobs")
    row = book.row(job)
    assert row.payload["at"].endswith(("+01:00", "+02:00")) and (row.priority, row.tags) == (7, ["t"])
    (data,) = book.all("SELECT data FROM job_events WHERE job_id = :id", id=job)
    assert data["schedule"] == "s"
    view = manage.get_schedule(book.ledger, book.tenant_id, "s").values
    assert (view["last_job_id"], view["last_at"]) == (job, planned)
    assert view["next_at"] == planned + timedelta(seconds=60)
    assert look(book).fires == 0
    book.assert_conserved()


def test_many_who_look_at_once_fire_each_time_once(book: Book) -> None:
    for number in range(60):
        put(book, f"s{number}", overlap="allow")
    book.do("UPDATE schedules SET next_planned_at = now() - interval '1 s', next_due_at = now(), anchor_at = now()")
    with ThreadPoolExecutor(4) as pool:
        result = list(pool.map(lambda _: sum(look(book, limit=7).fires for _ in range(10)), range(4)))
    assert sum(result) == 60
    assert book.all("SELECT count(*)::int, count(DISTINCT schedule_id)::int FROM schedule_fires") == [(60, 60)]
    assert book.all("SELECT count(*)::int FROM jobs") == [60]


def test_a_planned_time_that_stands_already_makes_no_second_job(book: Book) -> None:
    """A clock that jumped back, or a restored backup, plans it again."""
    put(book, overlap="allow")
    planned = make_due(book)
    look(book)
    book.do("UPDATE schedules SET next_planned_at = :p, next_due_at = clock_timestamp()", p=planned)
    look(book)
    assert book.all("SELECT count(*)::int FROM jobs") == [1]


def test_a_fire_whose_transaction_is_lost_takes_place_later(book: Book) -> None:
    put(book)
    make_due(book)
    with pytest.raises(RuntimeError), book.ledger.transaction() as connection:
        rows = schedules.due_schedules(connection, 10)
        assert len(rows) == 1
        raise RuntimeError("killed")
    assert look(book).fires == 1


def test_two_transactions_never_have_the_same_schedule(book: Book) -> None:
    put(book, "a")
    make_due(book, "a")
    with book.ledger.transaction() as connection:
        assert len(schedules.due_schedules(connection, 10)) == 1
        assert look(book).fires == 0, "another has it"


@pytest.mark.parametrize(
    ("overlap", "after_three", "live"),
    [
        ("allow", ["fired", "fired", "fired"], 3),
        ("skip", ["fired", "skipped", "skipped"], 1),
        ("queue", ["fired", "queued", "queued"], 1),
        ("cancel", ["fired", "fired", "fired"], 1),
    ],
)
def test_overlap(book: Book, overlap: Any, after_three: list[str], live: int) -> None:
    put(book, overlap=overlap)
    for ago in ("50 s", "40 s", "30 s"):
        make_due(book, ago=ago)
        look(book)
    assert outcomes(book) == after_three
    assert book.all("SELECT count(*)::int FROM jobs") == [live]
    if overlap == "cancel":
        assert book.all("SELECT state FROM job_history") == ["cancelled", "cancelled"]
    if overlap == "queue":
        for expected in (["fired", "fired", "queued"], ["fired", "fired", "fired"]):
            look(book)
            end(book)
            look(book)
            assert outcomes(book) == expected, "one after the other"
            assert book.all("SELECT count(*)::int FROM jobs") == [1]
        assert book.all("SELECT queued FROM schedules") == [0]
    book.assert_conserved()


def test_a_dead_letter_holds_no_schedule_up(book: Book) -> None:
    put(book)
    make_due(book, ago="50 s")
    look(book)
    book.do("UPDATE jobs SET state = 'dead', error = '{}'")
    make_due(book, ago="20 s")
    look(book)
    assert outcomes(book) == ["fired", "fired"]


@pytest.mark.parametrize(
    ("missed", "expected"),
    [("skip", ["missed"]), ("once", ["missed", "fired"]), ("catch_up", ["missed", "fired", "fired", "fired"])],
)
def test_what_nobody_was_there_for(book: Book, missed: Any, expected: list[str]) -> None:
    put(book, missed=missed, catch_up=3, overlap="allow", every_seconds=3600.0)
    planned = make_due(book, ago="100 hours")
    book.do(
        "UPDATE schedules SET next_planned_at = next_planned_at - interval '5 min', anchor_at = next_planned_at "
        "- interval '5 min'"
    )
    look(book)
    assert outcomes(book) == expected
    (first, until) = book.all("SELECT planned_at, missed_until FROM schedule_fires WHERE outcome = 'missed'")[0]
    assert first == planned - timedelta(minutes=5) and until > first
    view = manage.get_schedule(book.ledger, book.tenant_id, "s").values
    assert view["next_at"] > view["updated_at"]


def test_pause_and_resume_make_up_for_nothing_and_run_now_works_meanwhile(book: Book) -> None:
    put(book)
    manage.pause_schedule(book.ledger, book.tenant_id, "s", True, by="me")
    make_due(book, ago="10 hours")
    assert look(book).fires == 0
    job = manage.run_now(book.ledger, None, book.tenant_id, "s", by="ada")
    assert book.row(job).state == "available"
    assert book.all("SELECT by, outcome FROM schedule_fires") == [("ada", "fired")]
    view = manage.pause_schedule(book.ledger, book.tenant_id, "s", False, by="me").values
    assert view["paused"] is False and view["next_at"] > view["updated_at"] - timedelta(seconds=1)
    assert look(book).fires == 0


def test_putting_it_again_keeps_its_times_and_changing_them_begins_anew(book: Book) -> None:
    put(book)
    planned = make_due(book, ago="5 s")
    put(book, payload={"new": 1}, priority=9)
    assert manage.get_schedule(book.ledger, book.tenant_id, "s").values["next_at"] == planned
    assert look(book).fires == 1
    view = put(book, cron="0 0 1 1 *").values
    assert (view["next_at"].month, view["next_at"].day, view["every_seconds"]) == (1, 1, None)
    assert book.all("SELECT count(*)::int FROM schedules") == [1]
    assert outcomes(book) == ["fired"]


def test_one_that_can_not_be_read_keeps_no_other_waiting(book: Book) -> None:
    put(book, "broken", cron="* * * * *")
    put(book, "fine")
    make_due(book, "fine")
    make_due(book, "broken")
    book.do('UPDATE schedules SET spec = \'{"cron": "* * * * *", "time_zone": "Gone/Zone"}\' WHERE name = \'broken\'')
    assert look(book).fires == 1
    assert outcomes(book, "fine") == ["fired"]
    assert look(book).fires == 0, "it is left alone for a while"


def test_a_payload_that_no_fire_could_use_is_refused(book: Book) -> None:
    from pydantic import BaseModel

    class Strict(BaseModel):
        day: int

    kinds = registry()
    kind = kinds.get("test.echo")
    object.__setattr__(kind, "payload", Strict)
    order = ScheduleDefinition("s", "test.echo", {"day": "monday"}, every_seconds=60)
    with pytest.raises(InvalidPayload):
        manage.put_schedule(book.ledger, kinds, book.tenant_id, order, by="me")
    order = ScheduleDefinition("s", "test.echo", {"day": {"$planned_at": "%d"}}, every_seconds=60)
    manage.put_schedule(book.ledger, kinds, book.tenant_id, order, by="me")


def test_times_end_and_so_does_its_schedule(book: Book) -> None:
    with book.ledger.statement() as connection:
        now = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
    put(book, times=(now + timedelta(hours=1), now + timedelta(hours=2)), overlap="allow")
    book.do(
        "UPDATE schedules SET next_due_at = clock_timestamp(), spec = jsonb_set(spec, '{times}', to_jsonb(ARRAY["
        "clock_timestamp() - interval '20 s', clock_timestamp() - interval '10 s'])), "
        "next_planned_at = clock_timestamp() - interval '30 s'"
    )
    assert look(book).fires == 2
    assert manage.get_schedule(book.ledger, book.tenant_id, "s").values["next_at"] is None
    assert look(book).seconds is None


def test_a_delete_keeps_its_jobs(book: Book) -> None:
    put(book)
    make_due(book)
    look(book)
    manage.delete_schedule(book.ledger, book.tenant_id, "s")
    with pytest.raises(ScheduleNotFound):
        manage.get_schedule(book.ledger, book.tenant_id, "s")
    assert book.all("SELECT count(*)::int FROM jobs") == [1]
    with book.ledger.transaction() as connection:
        assert schedules.forget_fires(connection, 90) == 1, "of a schedule that is gone"


def test_one_that_the_ledger_refuses_is_put_off_and_the_others_fire(book: Book) -> None:
    for name in ("a", "bad", "c"):
        put(book, name)
        make_due(book, name)
    book.do("ALTER TABLE schedules DROP CONSTRAINT schedules_priority_in_range")
    book.do("UPDATE schedules SET priority = 10 WHERE name = 'bad'")
    assert look(book).fires == 2
    assert (outcomes(book, "a"), outcomes(book, "bad"), outcomes(book, "c")) == (["fired"], [], ["fired"])
    assert look(book).fires == 0, "it is left alone for a while"


def test_what_comes_at_once_is_bounded_and_goes_on_with_the_next_look(book: Book) -> None:
    put(book, overlap="allow", missed="catch_up", catch_up=1000, every_seconds=60.0)
    make_due(book, ago="250 min")
    counts = [look(book).fires for _ in range(4)]
    assert counts == [100, 100, 51, 0]
    assert book.all("SELECT count(DISTINCT planned_at)::int FROM schedule_fires") == [251]


def test_a_clock_that_jumped_back_cancels_nothing(book: Book) -> None:
    put(book, overlap="cancel")
    planned = make_due(book)
    look(book)
    book.do("UPDATE schedules SET next_planned_at = :p, next_due_at = clock_timestamp()", p=planned)
    look(book)
    assert book.all("SELECT state FROM jobs") == ["available"]


def test_a_run_that_somebody_asked_for_does_not_count_as_the_fire_before(book: Book) -> None:
    put(book)
    make_due(book, ago="50 s")
    look(book)
    (first,) = book.all("SELECT id FROM jobs")
    manage.run_now(book.ledger, None, book.tenant_id, "s", by="ada")
    assert book.all("SELECT last_job_id FROM schedules") == [first]


def test_a_deployment_does_not_resume_what_an_operator_has_paused(book: Book) -> None:
    put(book)
    manage.pause_schedule(book.ledger, book.tenant_id, "s", True, by="ada")
    assert put(book).values["paused"] is True
    assert put(book, paused=False).values["paused"] is False


def test_two_who_release_at_once_release_one(book: Book) -> None:
    put(book, overlap="queue")
    for ago in ("50 s", "40 s", "30 s"):
        make_due(book, ago=ago)
        look(book)
    end(book)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: look(book), range(8)))
    assert outcomes(book) == ["fired", "fired", "queued"]
    assert book.all("SELECT queued FROM schedules") == [1]
    assert book.all("SELECT count(*)::int FROM jobs") == [1]
