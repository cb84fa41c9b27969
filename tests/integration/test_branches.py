"""Failures that end only their own branch of a workflow, errback jobs, steps replaced by the steps they add."""

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
    errback_job,
    failing,
    job_of,
    play,
    replacement_of,
    run_one,
    state_of,
    steps_of,
    stop_due,
    submit,
)
from tests.support.ledger_harness import LedgerHarness


def echo(name: str | None = None, payload: Any = None, **more: Any) -> Any:
    return step("test.echo", payload or {}, name=name, on_failure="skip", **more)


def whole(harness: LedgerHarness) -> None:
    with harness.ledger.statement() as connection:
        (broken,) = auditing.broken_workflows(connection)
    assert not broken.jobs, broken


def error_of(harness: LedgerHarness, workflow: UUID) -> Any:
    return harness.all("SELECT error FROM workflows WHERE id = :id", id=workflow)[0]


def test_a_failed_branch_ends_and_the_others_continue(harness: LedgerHarness) -> None:
    flow = Group((chain(echo("a"), echo("b"), echo("c")), chain(echo("d"), echo("e"))), name="g")
    workflow = submit(harness, flow)
    ran = play(harness, failing("a"))
    assert ran == ["a", "d", "e"]
    assert steps_of(harness, workflow) == {
        "g": "cancelled", "a": "failed", "b": "cancelled", "c": "cancelled", "d": "done", "e": "done"
    }  # fmt: skip
    assert state_of(harness, workflow) == "failed"
    assert (error_of(harness, workflow)["code"], error_of(harness, workflow)["step"]) == ("step_failed", "a")
    # a cancelled job names the cause
    cancelled = harness.row(job_of(harness, workflow, "c"))
    assert cancelled.state == "cancelled"
    assert (cancelled.error["code"], cancelled.error["step"]) == ("step_failed", "a")
    assert cancelled.error["last"]["message"] == "told to fail"
    whole(harness)
    harness.assert_conserved()


def test_a_step_with_several_dependencies_is_cancelled_when_all_of_them_have_ended(harness: LedgerHarness) -> None:
    workflow = submit(harness, chord([echo("a"), echo("b"), echo("c")], echo("sum"), name="g"))
    by_name = {name: job_of(harness, workflow, name) for name in ("a", "b", "c")}
    run_one(harness, by_name["a"], "test.echo", failing("a"))
    assert steps_of(harness, workflow)["sum"] == "waiting" and state_of(harness, workflow) == "running"
    run_one(harness, by_name["b"], "test.echo")
    run_one(harness, by_name["c"], "test.echo")
    assert steps_of(harness, workflow) == {
        "g": "cancelled",
        "a": "failed",
        "b": "done",
        "c": "done",
        "sum": "cancelled",
    }
    assert harness.row(job_of(harness, workflow, "sum")).error["step"] == "a"
    assert state_of(harness, workflow) == "failed"


def test_a_replay_restores_its_branch_while_the_other_branches_run(harness: LedgerHarness) -> None:
    workflow = submit(harness, Group((chain(echo("a"), echo("b"), echo("c")), echo("d")), name="g"))
    first = job_of(harness, workflow, "a")
    run_one(harness, first, "test.echo", failing("a"))
    assert steps_of(harness, workflow)["c"] == "cancelled" and state_of(harness, workflow) == "running"
    replay_job(harness.ledger, None, harness.tenant_id, first, by="test")
    whole(harness)
    assert steps_of(harness, workflow) == {"g": "waiting", "a": "open", "b": "waiting", "c": "waiting", "d": "open"}
    assert sorted(play(harness)) == ["a", "b", "c", "d"]
    assert state_of(harness, workflow) == "succeeded" and error_of(harness, workflow) is None
    assert harness.events(job_of(harness, workflow, "c"))[:3] == ["submitted", "cancelled", "replayed"]
    harness.assert_conserved()


def test_replaying_one_of_two_failures_is_not_enough_but_replaying_the_workflow_is(harness: LedgerHarness) -> None:
    flow = Graph((echo("a"), echo("b"), echo("c", after=("a", "b")), echo("d", after=("c",))))
    workflow = submit(harness, flow)
    play(harness, failing("a", "b"))
    assert state_of(harness, workflow) == "failed"
    replay_job(harness.ledger, None, harness.tenant_id, job_of(harness, workflow, "a"), by="test")
    play(harness)
    assert steps_of(harness, workflow)["c"] == "cancelled"  # b is still failed
    whole(harness)
    replay_workflow(harness.ledger, None, harness.tenant_id, workflow, by="test")
    play(harness)
    assert set(steps_of(harness, workflow).values()) == {"done"} and state_of(harness, workflow) == "succeeded"


def test_a_waiting_step_that_is_cancelled_ends_its_branch_when_its_dependencies_are_done(
    harness: LedgerHarness,
) -> None:
    workflow = submit(harness, chain(echo("a"), echo("b"), echo("c")))
    with harness.ledger.transaction() as connection:
        jobs.cancel_job(connection, harness.tenant_id, job_of(harness, workflow, "c"), "not needed")
        jobs.cancel_job(connection, harness.tenant_id, job_of(harness, workflow, "b"), "not needed")
    whole(harness)
    assert state_of(harness, workflow) == "running"  # a still runs
    assert play(harness) == ["a"]
    assert steps_of(harness, workflow) == {"a": "done", "b": "failed", "c": "failed"}
    assert state_of(harness, workflow) == "failed"
    replay_workflow(harness.ledger, None, harness.tenant_id, workflow, by="test")
    assert play(harness) == ["b", "c"] and state_of(harness, workflow) == "succeeded"
    harness.assert_conserved()


def test_a_cancelled_workflow_with_a_failed_step_is_cancelled_although_its_last_step_succeeds(
    harness: LedgerHarness,
) -> None:
    workflow = submit(harness, group(echo("a"), echo("b")))
    run_one(harness, job_of(harness, workflow, "a"), "test.echo", failing("a"))
    with harness.ledger.transaction() as connection:
        workflows.cancel_workflow(connection, harness.tenant_id, workflow, "enough", "test")
    run_one(harness, job_of(harness, workflow, "b"), "test.echo")
    stop_due(harness)
    assert state_of(harness, workflow) == "cancelled"
    whole(harness)


def test_jobs_that_expire_together_end_once(harness: LedgerHarness) -> None:
    workflow = submit(harness, chain(echo("a"), echo("b")))
    harness.do("UPDATE jobs SET start_by = clock_timestamp() - interval '1 s'")
    harness.all("SELECT * FROM wake_jobs(100, NULL)")
    assert steps_of(harness, workflow)["a"] == "failed" and state_of(harness, workflow) == "failed"
    assert harness.all("SELECT count(*)::int FROM job_history") == [2]
    harness.assert_conserved()


def test_a_cancelled_workflow_with_a_failed_branch_does_not_succeed(harness: LedgerHarness) -> None:
    workflow = submit(harness, Graph((echo("a"), echo("b"), echo("c", after=("a",)))))
    run_one(harness, job_of(harness, workflow, "a"), "test.echo", failing("a"))
    second, lease_id = job_of(harness, workflow, "b"), new_id()
    harness.dispatch(second)
    harness.claim(second, lease_id)
    with harness.ledger.transaction() as connection:
        workflows.cancel_workflow(connection, harness.tenant_id, workflow, "enough", "test")
    stop_due(harness)
    harness.settle(second, lease_id)
    stop_due(harness)
    assert state_of(harness, workflow) == "cancelled"


def test_a_step_cannot_be_replayed_before_its_failed_dependency(harness: LedgerHarness) -> None:
    workflow = submit(harness, Graph((echo("a"), echo("b", after=("a",)), echo("c", after=("b",)), echo("d"))))
    first, second = job_of(harness, workflow, "a"), job_of(harness, workflow, "b")
    with harness.ledger.transaction() as connection:
        jobs.cancel_job(connection, harness.tenant_id, second, "not needed")
    run_one(harness, first, "test.echo", failing("a"))
    with pytest.raises(StepNotReplayable):
        replay_job(harness.ledger, None, harness.tenant_id, second, by="test")
    replay_job(harness.ledger, None, harness.tenant_id, first, by="test")
    replay_job(harness.ledger, None, harness.tenant_id, second, by="test")
    whole(harness)
    assert sorted(play(harness)) == ["a", "b", "c", "d"] and state_of(harness, workflow) == "succeeded"


def test_the_workflow_names_a_step_that_is_still_failed(harness: LedgerHarness) -> None:
    workflow = submit(harness, group(echo("a"), echo("b"), echo("c")))
    for name in ("a", "b"):
        run_one(harness, job_of(harness, workflow, name), "test.echo", failing(name))
    replay_job(harness.ledger, None, harness.tenant_id, job_of(harness, workflow, "a"), by="test")
    assert error_of(harness, workflow)["step"] == "b"
    play(harness)
    assert (state_of(harness, workflow), error_of(harness, workflow)["step"]) == ("failed", "b")


def test_thousands_of_steps_are_cancelled_and_replayed_at_once(harness: LedgerHarness) -> None:
    parts = [echo(f"p{n}") for n in range(3000)]
    workflow = submit(harness, chain(echo("a"), Group(tuple(parts), name="g"), echo("z")))
    run_one(harness, job_of(harness, workflow, "a"), "test.echo", failing("a"))
    assert state_of(harness, workflow) == "failed"
    assert harness.all("SELECT state, count(*)::int FROM job_history GROUP BY state") == [("cancelled", 3001)]
    assert harness.all("SELECT DISTINCT error ->> 'step' FROM job_history") == ["a"]
    replay_workflow(harness.ledger, None, harness.tenant_id, workflow, by="test")
    assert harness.all("SELECT count(*)::int FROM jobs WHERE state = 'blocked'") == [3001]
    whole(harness)
    harness.assert_conserved()


@pytest.mark.parametrize("state", ["dead", "cancelled"])
def test_a_failed_step_creates_its_errback_jobs_and_a_cancelled_step_does_not(
    harness: LedgerHarness, state: str
) -> None:
    workflow, ids = write_steps(harness, [{"errbacks": [errback_job(headers={"x": 1})]}, {"errbacks": [errback_job()]}])
    if state == "dead":
        run_one(harness, ids[0], "test.echo", failing("0"))
    else:
        with harness.ledger.transaction() as connection:
            jobs.cancel_job(connection, harness.tenant_id, ids[0], "revoked")
    run_one(harness, ids[1], "test.echo")  # a success creates none
    made = harness.all("SELECT payload FROM jobs WHERE workflow_id IS NULL")
    assert made == ([{"args": [], "headers": {"x": 1, "failed": str(ids[0])}}] if state == "dead" else [])
    assert state_of(harness, workflow) == "failed"
    harness.assert_conserved()


def test_the_errbacks_of_a_chord_body_are_called_when_its_header_fails(harness: LedgerHarness) -> None:
    first, last = new_id(), new_id()
    rows = [{"id": first, "children": [str(last)]}, {"id": last, "pending": 1, "errbacks": [errback_job()]}]
    rows[1]["skip_calls_errbacks"] = True
    write_steps(harness, rows)
    run_one(harness, first, "test.echo", failing("0"))
    assert harness.all("SELECT payload -> 'headers' FROM jobs WHERE workflow_id IS NULL") == [{"failed": str(last)}]


def test_a_revoked_chord_body_calls_no_errbacks(harness: LedgerHarness) -> None:
    first, last = new_id(), new_id()
    rows = [{"id": first, "children": [str(last)]}, {"id": last, "pending": 1, "errbacks": [errback_job()]}]
    rows[1]["skip_calls_errbacks"] = True
    write_steps(harness, rows)
    with harness.ledger.transaction() as connection:
        jobs.cancel_job(connection, harness.tenant_id, last, "revoked")
    run_one(harness, first, "test.echo")
    assert harness.all("SELECT id FROM jobs") == []


def test_delay_and_deadline_of_a_later_step_count_from_the_end_of_its_dependencies(harness: LedgerHarness) -> None:
    first, last = new_id(), new_id()
    times = {"delay_seconds": 60, "start_within_seconds": 90}
    write_steps(harness, [{"id": first, "children": [str(last)]}, {"id": last, "pending": 1, "template": times}])
    harness.do("UPDATE jobs SET created_at = created_at - interval '1 hour', run_at = run_at - interval '1 hour'")
    run_one(harness, first, "test.echo")
    row = harness.row(last)
    now = harness.all("SELECT clock_timestamp()")[0]
    assert row.state == "scheduled"
    assert 50 < (row.run_at - now).total_seconds() <= 60 and 80 < (row.start_by - now).total_seconds() <= 90


def test_the_result_of_a_replaced_step_is_the_result_of_its_replacement(harness: LedgerHarness) -> None:
    workflow = submit(
        harness,
        chain(echo("a"), echo("b", {"from_a": {"$from": "a.result"}}), echo("c", {"all": {"$from": "b.result"}})),
    )
    added, last = replacement_of(harness, job_of(harness, workflow, "a"))
    run_one(harness, job_of(harness, workflow, "a"), "test.echo", added=added)
    assert steps_of(harness, workflow)["a"] == "joining"
    ran = play(harness, failing("a/z"))
    assert ran[0] == "a/x" and set(ran) == {"a/x", "a/y", "a/z", "b", "c"}
    assert harness.row(job_of(harness, workflow, "b")).result == {"from_a": {"y": 2}}
    assert harness.row(last).result == {"y": 2}
    assert state_of(harness, workflow) == "failed"  # because the linked step failed, and only at the end
    whole(harness)


def test_a_failed_replacement_ends_its_branch_and_can_be_replayed(harness: LedgerHarness) -> None:
    workflow = submit(harness, chain(echo("a"), echo("b", {"from_a": {"$from": "a.result"}})))
    added, _ = replacement_of(harness, job_of(harness, workflow, "a"))
    run_one(harness, job_of(harness, workflow, "a"), "test.echo", added=added)
    play(harness, failing("a/x"))
    steps = steps_of(harness, workflow)
    assert (steps["a"], steps["a/x"], steps["b"]) == ("joining", "failed", "cancelled")
    assert state_of(harness, workflow) == "failed"
    whole(harness)
    replay_workflow(harness.ledger, None, harness.tenant_id, workflow, by="test")
    play(harness)
    assert harness.row(job_of(harness, workflow, "b")).result == {"from_a": {"y": 2}}
    assert state_of(harness, workflow) == "succeeded"


def test_a_retry_may_change_its_payload_and_raises_max_attempts_when_needed(harness: LedgerHarness) -> None:
    job_id, lease_id = harness.running()
    harness.settle(job_id, lease_id, "failed", "scheduled", next_run={"payload": {"n": 2}, "priority": 7})
    row = harness.row(job_id)
    assert (row.payload, row.priority, row.attempt, row.max_attempts) == ({"n": 2}, 7, 1, 3)
    harness.do("UPDATE jobs SET max_attempts = 1 WHERE id = :id", id=job_id)
    harness.do("UPDATE jobs SET run_at = clock_timestamp() WHERE state = 'scheduled'")
    harness.all("SELECT * FROM wake_jobs(10, NULL)")
    harness.do("UPDATE jobs SET max_attempts = 2 WHERE id = :id", id=job_id)
    harness.dispatch(job_id)
    lease_id = new_id()
    harness.claim(job_id, lease_id)
    harness.settle(job_id, lease_id, "failed", "scheduled")
    row = harness.row(job_id)
    assert (row.payload, row.priority, row.attempt, row.max_attempts) == ({"n": 2}, 7, 2, 3)


def test_a_cancel_may_exclude_running_jobs(harness: LedgerHarness) -> None:
    job_id, _ = harness.running()
    with harness.ledger.transaction() as connection:
        assert jobs.cancel_job(connection, harness.tenant_id, job_id, "x", "y", running=False) == ("running", "running")
    assert harness.row(job_id).cancel_requested_at is None


def write_steps(harness: LedgerHarness, rows: list[dict[str, Any]]) -> tuple[UUID, list[UUID]]:
    """Write planned steps, named 0, 1, …, as a workflow; return its id and the ids of its steps."""
    from jobplatform.usecases.submit_planned import submit_steps

    ids = [row.get("id") or new_id() for row in rows]
    steps = [
        {
            **errback_job(), "payload": {},
            "name": str(position), "position": position, "type": "job", "pending": 0, "children": [],
            "on_failure": "skip", "item": None, "run_at": None, "start_by": None, **row, "id": str(ids[position]),
        }
        for position, row in enumerate(rows)
    ]  # fmt: skip
    pending = sum(not row["children"] for row in steps)
    return submit_steps(harness.ledger, None, harness.tenant_id, "test", steps, pending), ids


def test_a_failed_chain_leaves_no_job_available(harness: LedgerHarness) -> None:
    submit(harness, chain(echo("a"), echo("b")))
    play(harness, failing("a"))
    assert available(harness) == []
