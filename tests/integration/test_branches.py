"""Failures that end their own branch of a workflow only, jobs that a failure makes, steps replaced by what they add."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from jobplatform.domain.workflows import Graph, Group, chain, chord, group, step
from jobplatform.errors import StepNotReplayable
from jobplatform.ledger import auditing, jobs, workflows
from jobplatform.ledger.ids import new_id
from jobplatform.usecases.replay_job import replay_job
from jobplatform.usecases.replay_workflow import replay_workflow
from tests.support.flows import (
    available,
    failing,
    job_of,
    look,
    order,
    play,
    replacement_of,
    run_one,
    state_of,
    steps_of,
    submit,
)
from tests.support.ledgers import Book


def echo(name: str | None = None, payload: Any = None, **more: Any) -> Any:
    return step("test.echo", payload or {}, name=name, on_failure="skip", **more)


def whole(book: Book) -> None:
    with book.ledger.statement() as connection:
        (rows,) = auditing.broken_workflows(connection)
    assert not rows.jobs, rows


def error_of(book: Book, workflow: UUID) -> Any:
    return book.all("SELECT error FROM workflows WHERE id = :id", id=workflow)[0]


def test_a_failed_branch_ends_and_the_others_go_on(book: Book) -> None:
    flow = Group((chain(echo("a"), echo("b"), echo("c")), chain(echo("d"), echo("e"))), name="g")
    workflow = submit(book, flow)
    ran = play(book, failing("a"))
    assert ran == ["a", "d", "e"]
    assert steps_of(book, workflow) == {
        "g": "cancelled", "a": "failed", "b": "cancelled", "c": "cancelled", "d": "done", "e": "done"
    }  # fmt: skip
    assert state_of(book, workflow) == "failed"
    assert (error_of(book, workflow)["code"], error_of(book, workflow)["step"]) == ("step_failed", "a")
    # what was called off says why
    called_off = book.row(job_of(book, workflow, "c"))
    assert called_off.state == "cancelled"
    assert (called_off.error["code"], called_off.error["step"]) == ("step_failed", "a")
    assert called_off.error["last"]["message"] == "told to fail"
    whole(book)
    book.assert_conserved()


def test_what_waits_for_several_is_called_off_when_all_of_them_are_over(book: Book) -> None:
    workflow = submit(book, chord([echo("a"), echo("b"), echo("c")], echo("sum"), name="g"))
    by_name = {name: job_of(book, workflow, name) for name in ("a", "b", "c")}
    run_one(book, by_name["a"], "test.echo", failing("a"))
    assert steps_of(book, workflow)["sum"] == "waiting" and state_of(book, workflow) == "running"
    run_one(book, by_name["b"], "test.echo")
    run_one(book, by_name["c"], "test.echo")
    assert steps_of(book, workflow) == {"g": "cancelled", "a": "failed", "b": "done", "c": "done", "sum": "cancelled"}
    assert book.row(job_of(book, workflow, "sum")).error["step"] == "a"
    assert state_of(book, workflow) == "failed"


def test_a_replay_while_the_rest_goes_on_brings_its_branch_back(book: Book) -> None:
    workflow = submit(book, Group((chain(echo("a"), echo("b"), echo("c")), echo("d")), name="g"))
    first = job_of(book, workflow, "a")
    run_one(book, first, "test.echo", failing("a"))
    assert steps_of(book, workflow)["c"] == "cancelled" and state_of(book, workflow) == "running"
    replay_job(book.ledger, None, book.tenant_id, first, by="test")
    whole(book)
    assert steps_of(book, workflow) == {"g": "waiting", "a": "open", "b": "waiting", "c": "waiting", "d": "open"}
    assert sorted(play(book)) == ["a", "b", "c", "d"]
    assert state_of(book, workflow) == "succeeded" and error_of(book, workflow) is None
    assert book.events(job_of(book, workflow, "c"))[:3] == ["submitted", "cancelled", "replayed"]
    book.assert_conserved()


def test_replays_of_two_failures_and_of_the_whole(book: Book) -> None:
    flow = Graph((echo("a"), echo("b"), echo("c", after=("a", "b")), echo("d", after=("c",))))
    workflow = submit(book, flow)
    play(book, failing("a", "b"))
    assert state_of(book, workflow) == "failed"
    replay_job(book.ledger, None, book.tenant_id, job_of(book, workflow, "a"), by="test")
    play(book)
    assert steps_of(book, workflow)["c"] == "cancelled"  # b has failed still
    whole(book)
    replay_workflow(book.ledger, None, book.tenant_id, workflow, by="test")
    play(book)
    assert set(steps_of(book, workflow).values()) == {"done"} and state_of(book, workflow) == "succeeded"


def test_what_is_called_off_before_its_turn_ends_its_branch_when_that_comes(book: Book) -> None:
    workflow = submit(book, chain(echo("a"), echo("b"), echo("c")))
    with book.ledger.transaction() as connection:
        jobs.cancel_job(connection, book.tenant_id, job_of(book, workflow, "c"), "not needed")
        jobs.cancel_job(connection, book.tenant_id, job_of(book, workflow, "b"), "not needed")
    whole(book)
    assert state_of(book, workflow) == "running"  # a still runs
    assert play(book) == ["a"]
    assert steps_of(book, workflow) == {"a": "done", "b": "failed", "c": "failed"}
    assert state_of(book, workflow) == "failed"
    replay_workflow(book.ledger, None, book.tenant_id, workflow, by="test")
    assert play(book) == ["b", "c"] and state_of(book, workflow) == "succeeded"
    book.assert_conserved()


def test_the_workflow_fails_although_the_last_to_end_has_succeeded_and_a_cancel_says_so(book: Book) -> None:
    workflow = submit(book, group(echo("a"), echo("b")))
    run_one(book, job_of(book, workflow, "a"), "test.echo", failing("a"))
    with book.ledger.transaction() as connection:
        workflows.cancel_workflow(connection, book.tenant_id, workflow, "enough", "test")
    run_one(book, job_of(book, workflow, "b"), "test.echo")
    look(book)
    assert state_of(book, workflow) == "cancelled"
    whole(book)


def test_what_expires_together_ends_once(book: Book) -> None:
    workflow = submit(book, chain(echo("a"), echo("b")))
    book.do("UPDATE jobs SET start_by = clock_timestamp() - interval '1 s'")
    book.all("SELECT * FROM wake_jobs(100, NULL)")
    assert steps_of(book, workflow)["a"] == "failed" and state_of(book, workflow) == "failed"
    assert book.all("SELECT count(*)::int FROM job_history") == [2]
    book.assert_conserved()


def test_a_cancelled_workflow_with_a_failed_branch_has_not_succeeded(book: Book) -> None:
    workflow = submit(book, Graph((echo("a"), echo("b"), echo("c", after=("a",)))))
    run_one(book, job_of(book, workflow, "a"), "test.echo", failing("a"))
    second, lease_id = job_of(book, workflow, "b"), new_id()
    book.dispatch(second)
    book.claim(second, lease_id)
    with book.ledger.transaction() as connection:
        workflows.cancel_workflow(connection, book.tenant_id, workflow, "enough", "test")
    look(book)
    book.settle(second, lease_id)
    look(book)
    assert state_of(book, workflow) == "cancelled"


def test_a_replay_waits_for_what_has_failed_before_it(book: Book) -> None:
    workflow = submit(book, Graph((echo("a"), echo("b", after=("a",)), echo("c", after=("b",)), echo("d"))))
    first, second = job_of(book, workflow, "a"), job_of(book, workflow, "b")
    with book.ledger.transaction() as connection:
        jobs.cancel_job(connection, book.tenant_id, second, "not needed")
    run_one(book, first, "test.echo", failing("a"))
    with pytest.raises(StepNotReplayable):
        replay_job(book.ledger, None, book.tenant_id, second, by="test")
    replay_job(book.ledger, None, book.tenant_id, first, by="test")
    replay_job(book.ledger, None, book.tenant_id, second, by="test")
    whole(book)
    assert sorted(play(book)) == ["a", "b", "c", "d"] and state_of(book, workflow) == "succeeded"


def test_the_workflow_names_a_step_that_has_failed_still(book: Book) -> None:
    workflow = submit(book, group(echo("a"), echo("b"), echo("c")))
    for name in ("a", "b"):
        run_one(book, job_of(book, workflow, name), "test.echo", failing(name))
    replay_job(book.ledger, None, book.tenant_id, job_of(book, workflow, "a"), by="test")
    assert error_of(book, workflow)["step"] == "b"
    play(book)
    assert (state_of(book, workflow), error_of(book, workflow)["step"]) == ("failed", "b")


def test_thousands_are_called_off_and_replayed_at_once(book: Book) -> None:
    parts = [echo(f"p{n}") for n in range(3000)]
    workflow = submit(book, chain(echo("a"), Group(tuple(parts), name="g"), echo("z")))
    run_one(book, job_of(book, workflow, "a"), "test.echo", failing("a"))
    assert state_of(book, workflow) == "failed"
    assert book.all("SELECT state, count(*)::int FROM job_history GROUP BY state") == [("cancelled", 3001)]
    assert book.all("SELECT DISTINCT error ->> 'step' FROM job_history") == ["a"]
    replay_workflow(book.ledger, None, book.tenant_id, workflow, by="test")
    assert book.all("SELECT count(*)::int FROM jobs WHERE state = 'blocked'") == [3001]
    whole(book)
    book.assert_conserved()


@pytest.mark.parametrize("state", ["dead", "cancelled"])
def test_a_failure_makes_the_jobs_that_were_ordered_for_it(book: Book, state: str) -> None:
    workflow, ids = write_steps(book, [{"errbacks": [order(headers={"x": 1})]}, {"errbacks": [order()]}])
    if state == "dead":
        run_one(book, ids[0], "test.echo", failing("0"))
    else:
        with book.ledger.transaction() as connection:
            jobs.cancel_job(connection, book.tenant_id, ids[0], "revoked")
    run_one(book, ids[1], "test.echo")  # a success makes none
    made = book.all("SELECT payload FROM jobs WHERE workflow_id IS NULL")
    assert made == ([{"args": [], "headers": {"x": 1, "failed": str(ids[0])}}] if state == "dead" else [])
    assert state_of(book, workflow) == "failed"
    book.assert_conserved()


def test_the_body_of_a_chord_has_its_errbacks_called_when_its_header_fails(book: Book) -> None:
    first, last = new_id(), new_id()
    rows = [{"id": first, "children": [str(last)]}, {"id": last, "pending": 1, "errbacks": [order()]}]
    rows[1]["skip_calls_errbacks"] = True
    write_steps(book, rows)
    run_one(book, first, "test.echo", failing("0"))
    assert book.all("SELECT payload -> 'headers' FROM jobs WHERE workflow_id IS NULL") == [{"failed": str(last)}]


def test_a_body_that_was_revoked_calls_no_errbacks(book: Book) -> None:
    first, last = new_id(), new_id()
    rows = [{"id": first, "children": [str(last)]}, {"id": last, "pending": 1, "errbacks": [order()]}]
    rows[1]["skip_calls_errbacks"] = True
    write_steps(book, rows)
    with book.ledger.transaction() as connection:
        jobs.cancel_job(connection, book.tenant_id, last, "revoked")
    run_one(book, first, "test.echo")
    assert book.all("SELECT id FROM jobs") == []


def test_times_of_a_later_step_count_from_its_turn_on(book: Book) -> None:
    first, last = new_id(), new_id()
    times = {"delay_seconds": 60, "start_within_seconds": 90}
    write_steps(book, [{"id": first, "children": [str(last)]}, {"id": last, "pending": 1, "template": times}])
    book.do("UPDATE jobs SET created_at = created_at - interval '1 hour', run_at = run_at - interval '1 hour'")
    run_one(book, first, "test.echo")
    row = book.row(last)
    now = book.all("SELECT clock_timestamp()")[0]
    assert row.state == "scheduled"
    assert 50 < (row.run_at - now).total_seconds() <= 60 and 80 < (row.start_by - now).total_seconds() <= 90


def test_a_step_is_replaced_and_its_result_is_that_of_what_it_has_added(book: Book) -> None:
    workflow = submit(
        book, chain(echo("a"), echo("b", {"from_a": {"$from": "a.result"}}), echo("c", {"all": {"$from": "b.result"}}))
    )
    added, last = replacement_of(book, job_of(book, workflow, "a"))
    run_one(book, job_of(book, workflow, "a"), "test.echo", added=added)
    assert steps_of(book, workflow)["a"] == "joining"
    ran = play(book, failing("a/z"))
    assert ran[0] == "a/x" and set(ran) == {"a/x", "a/y", "a/z", "b", "c"}
    assert book.row(job_of(book, workflow, "b")).result == {"from_a": {"y": 2}}
    assert book.row(last).result == {"y": 2}
    assert state_of(book, workflow) == "failed"  # by what was linked, and only in the end
    whole(book)


def test_a_replacement_that_fails_ends_the_branch_and_comes_back(book: Book) -> None:
    workflow = submit(book, chain(echo("a"), echo("b", {"from_a": {"$from": "a.result"}})))
    added, _ = replacement_of(book, job_of(book, workflow, "a"))
    run_one(book, job_of(book, workflow, "a"), "test.echo", added=added)
    play(book, failing("a/x"))
    steps = steps_of(book, workflow)
    assert (steps["a"], steps["a/x"], steps["b"]) == ("joining", "failed", "cancelled")
    assert state_of(book, workflow) == "failed"
    whole(book)
    replay_workflow(book.ledger, None, book.tenant_id, workflow, by="test")
    play(book)
    assert book.row(job_of(book, workflow, "b")).result == {"from_a": {"y": 2}}
    assert state_of(book, workflow) == "succeeded"


def test_a_retry_brings_its_own_payload_and_as_many_attempts_as_it_wants(book: Book) -> None:
    job_id, lease_id = book.running()
    book.settle(job_id, lease_id, "failed", "scheduled", next_run={"payload": {"n": 2}, "priority": 7})
    row = book.row(job_id)
    assert (row.payload, row.priority, row.attempt, row.max_attempts) == ({"n": 2}, 7, 1, 3)
    book.do("UPDATE jobs SET max_attempts = 1 WHERE id = :id", id=job_id)
    book.do("UPDATE jobs SET run_at = clock_timestamp() WHERE state = 'scheduled'")
    book.all("SELECT * FROM wake_jobs(10, NULL)")
    book.do("UPDATE jobs SET max_attempts = 2 WHERE id = :id", id=job_id)
    book.dispatch(job_id)
    lease_id = new_id()
    book.claim(job_id, lease_id)
    book.settle(job_id, lease_id, "failed", "scheduled")
    row = book.row(job_id)
    assert (row.payload, row.priority, row.attempt, row.max_attempts) == ({"n": 2}, 7, 2, 3)


def test_a_cancel_may_leave_alone_what_runs(book: Book) -> None:
    job_id, _ = book.running()
    with book.ledger.transaction() as connection:
        assert jobs.cancel_job(connection, book.tenant_id, job_id, "x", "y", running=False) == ("running", "running")
    assert book.row(job_id).cancel_requested_at is None


def write_steps(book: Book, rows: list[dict[str, Any]]) -> tuple[UUID, list[UUID]]:
    """Write planned steps as a workflow; returns its id and those of its steps, named 0, 1, …."""
    from jobplatform.usecases.submit_planned import submit_steps

    ids = [row.get("id") or new_id() for row in rows]
    steps = [
        {
            **order(), "payload": {}, "name": str(place), "place": place, "type": "job", "pending": 0, "children": [],
            "on_failure": "skip", "item": None, "run_at": None, "start_by": None, **row, "id": str(ids[place]),
        }
        for place, row in enumerate(rows)
    ]  # fmt: skip
    pending = sum(not row["children"] for row in steps)
    return submit_steps(book.ledger, None, book.tenant_id, "test", steps, pending), ids


def test_nothing_is_left_available(book: Book) -> None:
    submit(book, chain(echo("a"), echo("b")))
    play(book, failing("a"))
    assert available(book) == []
