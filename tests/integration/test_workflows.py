"""Workflows in the ledger: when steps become available, failures, cancel, time limit, replay."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from jobplatform.domain.workflows import Graph, Group, chain, chord, group, map_over, step
from jobplatform.errors import IdempotencyConflict, InvalidRequest, NotReplayable
from jobplatform.ledger import jobs, runs, workflows
from jobplatform.ledger.ids import new_id
from jobplatform.ledger.runs import Settlement
from jobplatform.usecases.replay_job import replay_job
from tests.support.flows import (
    adds_of,
    available,
    failing,
    job_of,
    play,
    run_one,
    state_of,
    step_of,
    steps_of,
    stop_due,
    submit,
    succeed,
)
from tests.support.ledger_harness import LedgerHarness, registry
from tests.support.waiting import wait_until_blocked


def echo(name: str | None = None, payload: Any = None, **more: Any) -> Any:
    return step("test.echo", payload or {}, name=name, **more)


def result_of(harness: LedgerHarness, workflow_id: UUID, name: str) -> Any:
    return harness.row(job_of(harness, workflow_id, name)).result


def test_a_chain_runs_step_by_step_with_results_by_reference(harness: LedgerHarness) -> None:
    workflow = submit(
        harness,
        chain(
            echo("a", {"n": 1}),
            echo("b", {"from_a": {"$from": "previous.result.n"}, "all": {"$from": "a.result"}}),
            echo("c", {"b": {"$from": "b.result.all.n"}, "as_it_is": {"$literal": {"$from": "x"}}}),
        ),
    )
    assert [kind for _, kind, _ in available(harness)] == ["test.echo"]
    assert harness.events(job_of(harness, workflow, "b")) == ["submitted"]
    assert play(harness) == ["a", "b", "c"]
    assert result_of(harness, workflow, "b") == {"from_a": 1, "all": {"n": 1}}
    assert result_of(harness, workflow, "c") == {"b": 1, "as_it_is": {"$from": "x"}}
    assert state_of(harness, workflow) == "succeeded"
    assert harness.events(job_of(harness, workflow, "b")) == [
        "submitted",
        "unblocked",
        "dispatched",
        "started",
        "succeeded",
    ]
    harness.assert_conserved()


def test_a_chord_joins_all_results_in_their_order(harness: LedgerHarness) -> None:
    workflow = submit(
        harness, chord([echo(None, {"n": n}) for n in range(5)], echo("sum", {"all": {"$from": "g.results"}}), name="g")
    )
    assert len(available(harness)) == 5
    assert play(harness)[-1] == "sum"
    assert result_of(harness, workflow, "sum") == {"all": [{"n": n} for n in range(5)]}
    assert state_of(harness, workflow) == "succeeded"


def test_groups_in_groups_give_lists_of_lists_and_chains_their_last_result(harness: LedgerHarness) -> None:
    flow = chain(
        group(
            group(echo(None, {"n": 1}), echo(None, {"n": 2})),
            chain(echo(None, {"n": 3}), echo(None, {"n": 4})),
            name="g",
        ),
        echo("end", {"all": {"$from": "previous.results"}, "one": {"$from": "g.results.0.1.n"}}),
    )
    workflow = submit(harness, flow)
    play(harness)
    assert result_of(harness, workflow, "end") == {"all": [[{"n": 1}, {"n": 2}], {"n": 4}], "one": 2}


def test_an_empty_group_blocks_nothing(harness: LedgerHarness) -> None:
    workflow = submit(harness, chain(group(name="none"), echo("end", {"all": {"$from": "none.results"}})))
    assert play(harness) == ["end"]
    assert result_of(harness, workflow, "end") == {"all": []}
    alone = submit(harness, group())
    assert state_of(harness, alone) == "succeeded"
    after = submit(harness, chain(echo("a"), group(name="none"), echo("end", {"all": {"$from": "none.results"}})))
    assert play(harness) == ["a", "end"]
    assert result_of(harness, after, "end") == {"all": []}


def test_a_graph_follows_its_dependencies_whatever_the_order_of_its_steps(harness: LedgerHarness) -> None:
    workflow = submit(
        harness,
        Graph(
            (
                echo("d", after=("b", "c")),
                echo("b", {"a": {"$from": "a.result.n"}}),
                echo("c", after=("a",)),
                echo("a", {"n": 7}),
            )
        ),
    )
    ran = play(harness)
    assert ran[0] == "a" and ran[-1] == "d" and sorted(ran) == ["a", "b", "c", "d"]
    assert result_of(harness, workflow, "b") == {"a": 7}


def test_a_map_adds_a_step_per_item_of_a_list_or_of_a_result(harness: LedgerHarness) -> None:
    workflow = submit(
        harness,
        chain(
            map_over([1, 2], echo(None, {"x": {"$item": ""}}), name="here"),
            echo("list", {"files": [{"f": "a"}, {"f": "b"}, {"f": "c"}]}),
            map_over({"$from": "list.result.files"}, echo(None, {"f": {"$item": "f"}}), name="each"),
            echo("end", {"here": {"$from": "here.results"}, "each": {"$from": "each.results"}}),
        ),
    )
    ran = play(harness)
    assert sorted(ran[:2]) == ["here[0]", "here[1]"] and ran[2] == "list"
    assert sorted(ran[3:6]) == ["each[0]", "each[1]", "each[2]"]
    assert result_of(harness, workflow, "end") == {
        "here": [{"x": 1}, {"x": 2}],
        "each": [{"f": "a"}, {"f": "b"}, {"f": "c"}],
    }
    assert state_of(harness, workflow) == "succeeded"
    harness.assert_conserved()


@pytest.mark.parametrize(
    ("files", "said"), [({"no": "list"}, "expected a list"), (None, "got null"), ("text", "string")]
)
def test_a_map_over_a_value_that_is_not_a_list_fails_its_workflow_with_the_reason(
    harness: LedgerHarness, files: Any, said: str
) -> None:
    workflow = submit(
        harness, chain(echo("list", {"files": files}), map_over({"$from": "list.result.files"}, echo()), echo("end"))
    )
    play(harness)
    assert state_of(harness, workflow) == "failed"
    (error,) = harness.all("SELECT error FROM workflows WHERE id = :id", id=workflow)
    assert said in error["last"]["message"] and "list.result.files" in error["last"]["message"]


def test_a_map_over_an_empty_list_adds_no_steps(harness: LedgerHarness) -> None:
    workflow = submit(
        harness, chain(echo("list", {"l": []}), map_over({"$from": "list.result.l"}, echo(), name="m"), echo("end"))
    )
    assert play(harness) == ["list", "end"]
    assert state_of(harness, workflow) == "succeeded"


def test_parents_that_end_concurrently_unblock_their_child_once(harness: LedgerHarness) -> None:
    """Each settle waits for the lock of the other, then counts: neither takes the other parent for unfinished."""
    for _ in range(10):
        workflow = submit(harness, chord([echo() for _ in range(4)], echo("end")))
        taken = []
        for job_id, kind, _ in available(harness):
            harness.dispatch(job_id)
            taken.append((job_id, new_id(), kind))
            harness.claim(*taken[-1][:2])
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda item: harness.settle(*item[:2], result={}), taken))
        assert [step_of(harness, item) for item, _, _ in available(harness)] == ["end"]
        assert play(harness) == ["end"]
        assert state_of(harness, workflow) == "succeeded"


def test_the_last_parent_waits_for_one_that_has_not_committed(harness: LedgerHarness) -> None:
    """The interleaving itself: one parent's settle is uncommitted; the other's must not count before it ends."""
    submit(harness, chord([echo("a"), echo("b")], echo("end")))
    held = []
    for job_id, _, _ in available(harness):
        harness.dispatch(job_id)
        held.append((job_id, new_id()))
        harness.claim(*held[-1])
    with ThreadPoolExecutor(1) as pool:
        with harness.ledger.transaction() as connection:
            runs.settle_in(connection, *held[0], Settlement("succeeded", "succeeded"))
            second = pool.submit(harness.settle, *held[1])
            waits = "SELECT count(*)::int FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            while not harness.all(f"{waits} AND datname = current_database()")[0]:
                assert not second.done()
        assert second.result()[0] == "settled"
    assert [step_of(harness, item) for item, _, _ in available(harness)] == ["end"]


def test_the_settle_of_the_last_parent_returns_the_queues_with_unblocked_jobs(harness: LedgerHarness) -> None:
    submit(harness, chain(echo("a"), group(step("test.video", {}, priority=7), echo(None, priority=2))))
    job_id, lease_id = available(harness)[0][0], new_id()
    harness.dispatch(job_id)
    harness.claim(job_id, lease_id)
    settled = runs.settle_run(harness.ledger, job_id, lease_id, Settlement("succeeded", "succeeded"))
    assert set(str(settled.woken).split(",")) == {"video 7", "email 2"}


# --- failures ------------------------------------------------------------------------------------


def test_a_failure_ends_the_workflow_and_a_replay_continues_from_it(harness: LedgerHarness) -> None:
    workflow = submit(harness, chain(echo("a"), group(echo("b"), chain(echo("c"), echo("d"))), echo("e")))
    assert sorted(play(harness, failing("b"))) == ["a", "b", "c"] or state_of(harness, workflow) == "failed"
    stop_due(harness)
    assert state_of(harness, workflow) == "failed"
    (error,) = harness.all("SELECT error FROM workflows WHERE id = :id", id=workflow)
    assert error["step"] == "b" and error["last"]["message"] == ERROR_MESSAGE
    assert steps_of(harness, workflow)["e"] == "cancelled"
    assert harness.row(job_of(harness, workflow, "b")).state == "dead"
    assert harness.row(job_of(harness, workflow, "e")).error["code"] == "workflow_failed"
    harness.assert_conserved()

    done = {name for name, state in steps_of(harness, workflow).items() if state == "done"}
    with harness.ledger.transaction() as connection:
        result = workflows.replay_workflow(connection, harness.tenant_id, workflow, {"by": "me"})
    assert result.verdict == "replayed" and "email" in result.woken
    ran = play(harness)
    assert not done & set(ran), "finished steps stay done"
    assert ran[-1] == "e" and "b" in ran
    assert state_of(harness, workflow) == "succeeded"
    harness.assert_conserved()


ERROR_MESSAGE = "told to fail"


def test_replaying_the_dead_letters_themselves_restores_the_workflow(harness: LedgerHarness) -> None:
    workflow = submit(harness, chain(group(echo("a"), echo("b")), echo("c")))
    play(harness, failing("a", "b"))
    stop_due(harness)
    replay_job(harness.ledger, None, harness.tenant_id, job_of(harness, workflow, "a"), by="me")
    assert state_of(harness, workflow) == "failed", "another step is still failed"
    play(harness)
    assert state_of(harness, workflow) == "failed"
    replay_job(harness.ledger, None, harness.tenant_id, job_of(harness, workflow, "b"), by="me")
    assert state_of(harness, workflow) == "running"
    assert play(harness) == ["b", "c"]
    assert state_of(harness, workflow) == "succeeded"
    harness.assert_conserved()


def test_a_step_that_was_cancelled_with_its_workflow_is_replayed_only_with_the_workflow(harness: LedgerHarness) -> None:
    workflow = submit(harness, chain(echo("a"), echo("b")))
    play(harness, failing("a"))
    stop_due(harness)
    with pytest.raises(NotReplayable, match="workflow"):
        replay_job(harness.ledger, None, harness.tenant_id, job_of(harness, workflow, "b"), by="me")


def test_an_ignored_failure_is_discarded_and_null_in_the_results(harness: LedgerHarness) -> None:
    flow = chord(
        [echo("a", {"n": 1}), echo("b", on_failure="ignore")], echo("end", {"all": {"$from": "g.results"}}), "g"
    )
    workflow = submit(harness, flow)
    assert play(harness, failing("b"))[-1] == "end"
    assert result_of(harness, workflow, "end") == {"all": [{"n": 1}, None]}
    row = harness.row(job_of(harness, workflow, "b"))
    assert (row.state, row.error["last"]["message"]) == ("discarded", ERROR_MESSAGE)
    assert state_of(harness, workflow) == "succeeded"
    harness.assert_conserved()


def test_partial_results_omit_failed_steps_and_keep_their_dead_letters(harness: LedgerHarness) -> None:
    flow = chord(
        [echo("a", {"n": 1}, on_failure="continue"), echo("b", {"n": 2}, on_failure="continue")],
        echo("end", {"all": {"$from": "g.results"}}),
        "g",
    )
    workflow = submit(harness, flow)
    play(harness, failing("a"))
    assert result_of(harness, workflow, "end") == {"all": [{"n": 2}]}
    assert harness.row(job_of(harness, workflow, "a")).state == "dead"
    assert state_of(harness, workflow) == "succeeded"
    replay_job(harness.ledger, None, harness.tenant_id, job_of(harness, workflow, "a"), by="me")
    assert play(harness) == ["a"], "only itself: its dependents already have their results"
    harness.assert_conserved()


def test_a_waiting_step_that_is_cancelled_keeps_the_order(harness: LedgerHarness) -> None:
    workflow = submit(harness, chain(echo("a"), echo("b", on_failure="ignore"), echo("c")))
    with harness.ledger.transaction() as connection:
        jobs.cancel_job(connection, harness.tenant_id, job_of(harness, workflow, "b"), None)
    assert steps_of(harness, workflow)["b"] == "skipped"
    assert play(harness) == ["a", "c"]
    assert state_of(harness, workflow) == "succeeded"


def test_a_waiting_step_that_is_cancelled_waits_again_when_its_workflow_is_replayed(harness: LedgerHarness) -> None:
    workflow = submit(harness, chain(echo("a"), echo("b"), echo("c")))
    with harness.ledger.transaction() as connection:
        jobs.cancel_job(connection, harness.tenant_id, job_of(harness, workflow, "b"), None)
    stop_due(harness)
    assert state_of(harness, workflow) == "failed"
    with harness.ledger.transaction() as connection:
        assert workflows.replay_workflow(connection, harness.tenant_id, workflow, {"by": "me"}).verdict == "replayed"
    assert play(harness) == ["a", "b", "c"]
    assert state_of(harness, workflow) == "succeeded"


def test_a_step_that_expires_fails_like_a_dead_lettered_one(harness: LedgerHarness) -> None:
    start_by = datetime.now(UTC) + timedelta(hours=1)
    workflow = submit(harness, chain(echo("a"), echo("b", start_by=start_by), echo("c")))
    harness.do("UPDATE jobs SET start_by = clock_timestamp() - interval '1 s' WHERE start_by IS NOT NULL")
    harness.all("SELECT * FROM wake_jobs(10, NULL)")
    stop_due(harness)
    assert steps_of(harness, workflow)["b"] == "failed"
    assert state_of(harness, workflow) == "failed"


def test_a_discarded_step_cannot_be_replayed_and_the_error_names_it(harness: LedgerHarness) -> None:
    workflow = submit(harness, chain(echo("a"), echo("b")))
    play(harness, failing("a"))
    stop_due(harness)
    with harness.ledger.transaction() as connection:
        connection.exec_driver_sql(
            "SELECT * FROM discard_job(%s::uuid, %s::uuid, '-infinity', 'x', '{}')",
            (str(harness.tenant_id), str(job_of(harness, workflow, "a"))),
        )
    with harness.ledger.transaction() as connection:
        result = workflows.replay_workflow(connection, harness.tenant_id, workflow, {})
    assert (result.verdict, result.state) == ("stuck", "a")


# --- cancel, time limit ---------------------------------------------------------------------------


def test_a_cancel_ends_waiting_steps_and_requests_running_ones_to_stop_and_a_replay_restores_them(
    harness: LedgerHarness,
) -> None:
    workflow = submit(harness, chain(echo("a"), group(echo("b"), echo("c")), echo("d")))
    play(harness, limit=1)
    (job_id, _, _), _ = available(harness)
    lease_id = new_id()
    harness.dispatch(job_id)
    harness.claim(job_id, lease_id)
    with harness.ledger.transaction() as connection:
        assert (
            workflows.cancel_workflow(connection, harness.tenant_id, workflow, "no more", "me").verdict == "requested"
        )
    assert stop_due(harness) == 1, "one job is still running"
    assert harness.row(job_id).cancel_requested_at is not None
    harness.settle(job_id, lease_id, "failed", "scheduled")
    assert stop_due(harness) == 0
    assert state_of(harness, workflow) == "cancelled"
    assert {state for name, state in steps_of(harness, workflow).items() if name != "a"} == {"cancelled"}
    assert harness.row(job_of(harness, workflow, "d")).error["message"] == "no more"
    harness.assert_conserved()
    with harness.ledger.transaction() as connection:
        assert workflows.cancel_workflow(connection, harness.tenant_id, workflow, None, "me").verdict == "ended"
        assert workflows.replay_workflow(connection, harness.tenant_id, workflow, {}).verdict == "replayed"
    assert sorted(play(harness)) == ["b", "c", "d"]
    assert state_of(harness, workflow) == "succeeded"
    harness.assert_conserved()


def test_a_run_that_succeeds_despite_a_cancel_is_done(harness: LedgerHarness) -> None:
    workflow = submit(harness, chain(echo("a"), echo("b")))
    job_id, lease_id = available(harness)[0][0], new_id()
    harness.dispatch(job_id)
    harness.claim(job_id, lease_id)
    with harness.ledger.transaction() as connection:
        workflows.cancel_workflow(connection, harness.tenant_id, workflow, None, "me")
    stop_due(harness)
    harness.settle(job_id, lease_id)
    stop_due(harness)
    assert (state_of(harness, workflow), steps_of(harness, workflow)) == ("cancelled", {"a": "done", "b": "cancelled"})
    with harness.ledger.transaction() as connection:
        workflows.replay_workflow(connection, harness.tenant_id, workflow, {})
    assert play(harness) == ["b"]


def test_the_time_limit_of_a_workflow_ends_it_and_restarts_with_a_replay(harness: LedgerHarness) -> None:
    workflow = submit(harness, chain(echo("a"), echo("b")), time_limit_seconds=60)
    stop_due(harness)
    assert state_of(harness, workflow) == "running"
    harness.do("UPDATE workflows SET deadline_at = clock_timestamp() - interval '1 s'")
    stop_due(harness)
    assert state_of(harness, workflow) == "failed"
    (error,) = harness.all("SELECT error FROM workflows")
    assert error["code"] == "timed_out"
    with harness.ledger.transaction() as connection:
        workflows.replay_workflow(connection, harness.tenant_id, workflow, {})
    assert harness.all("SELECT deadline_at > clock_timestamp() + interval '50 s' FROM workflows") == [True]
    assert play(harness) == ["a", "b"]


# --- steps that a run adds ----------------------------------------------------------------------


def test_the_dependents_of_a_run_wait_for_the_steps_that_it_adds(harness: LedgerHarness) -> None:
    workflow = submit(
        harness, chain(echo("a"), echo("b", {"all": {"$from": "a.results"}, "own": {"$from": "a.result.n"}}))
    )
    job_id, kind, _ = available(harness)[0]
    parts = (echo(None, {"n": 1}), chain(echo("x", {"n": 2}), echo("y", {"n": {"$from": "x.result.n"}})))
    run_one(
        harness,
        job_id,
        kind,
        lambda name, payload: ("succeeded", "succeeded", {"n": 0}),
        adds_of(harness, job_id, *parts),
    )
    assert steps_of(harness, workflow)["a"] == "joining"
    assert play(harness) == ["a[0]", "a/x", "a/y", "b"]
    assert result_of(harness, workflow, "b") == {"all": [{"n": 1}, {"n": 2}], "own": 0}
    assert state_of(harness, workflow) == "succeeded"
    harness.assert_conserved()


def test_a_single_job_becomes_a_workflow_by_adding_steps(harness: LedgerHarness) -> None:
    job_id = harness.submit()
    run_one(harness, job_id, "test.echo", added=adds_of(harness, job_id, echo(), echo()))
    (workflow,) = harness.all("SELECT workflow_id FROM job_history WHERE id = :id", id=job_id)
    assert len(play(harness)) == 2
    assert state_of(harness, workflow) == "succeeded"
    harness.assert_conserved()


def test_a_failed_run_adds_no_steps_and_a_repeated_settle_adds_them_once(harness: LedgerHarness) -> None:
    submit(harness, echo("a"))
    job_id, kind, _ = available(harness)[0]
    steps = adds_of(harness, job_id, echo())
    run_one(harness, job_id, kind, lambda *_: ("failed", "scheduled", None), steps)
    assert harness.all("SELECT count(*)::int FROM workflow_steps") == [1]
    harness.all(
        "SELECT * FROM change_job(:t, :j, '-infinity', NULL, '2000-01-01', '{}')", t=harness.tenant_id, j=job_id
    )
    lease_id = new_id()
    harness.dispatch(job_id)
    harness.claim(job_id, lease_id)
    settlement = Settlement("succeeded", "succeeded", added=steps)
    assert runs.settle_run(harness.ledger, job_id, lease_id, settlement).verdict == "settled"
    assert runs.settle_run(harness.ledger, job_id, lease_id, settlement).verdict == "already"
    assert harness.all("SELECT count(*)::int FROM workflow_steps") == [2]


def test_steps_added_to_a_workflow_that_is_stopping_wait_for_its_replay(harness: LedgerHarness) -> None:
    flow = chain(group(echo("a"), echo("b")), echo("end", {"all": {"$from": "b.results"}}))
    workflow = submit(harness, flow)
    first, second = available(harness)
    run_one(harness, first[0], first[1], failing("a"))
    run_one(
        harness, second[0], second[1], added=adds_of(harness, second[0], echo(None, {"n": 1}), chain(echo(), echo()))
    )
    stop_due(harness)
    assert (state_of(harness, workflow), steps_of(harness, workflow)["b"]) == ("failed", "joining")
    harness.assert_conserved()
    with harness.ledger.transaction() as connection:
        assert workflows.replay_workflow(connection, harness.tenant_id, workflow, {}).verdict == "replayed"
    assert sorted(play(harness)) == ["a", "b[0]", "b[1]/1", "b[1]/2", "end"]
    assert result_of(harness, workflow, "end") == {"all": [{"n": 1}, {}]}
    assert state_of(harness, workflow) == "succeeded"
    harness.assert_conserved()


def test_steps_added_after_a_workflow_has_failed_wait_for_its_replay(harness: LedgerHarness) -> None:
    workflow = submit(harness, group(echo("a"), echo("b")))
    play(harness, failing("a", "b"))
    stop_due(harness)
    replay_job(harness.ledger, None, harness.tenant_id, job_of(harness, workflow, "a"), by="me")
    ((job_id, kind, _),) = available(harness)
    run_one(harness, job_id, kind, added=adds_of(harness, job_id, echo()))
    assert (state_of(harness, workflow), available(harness)) == ("failed", [])
    replay_job(harness.ledger, None, harness.tenant_id, job_of(harness, workflow, "b"), by="me")
    assert sorted(play(harness)) == ["a[0]", "b"]
    assert state_of(harness, workflow) == "succeeded"
    harness.assert_conserved()


def test_a_dead_letter_is_not_replayed_into_a_workflow_that_is_stopping(harness: LedgerHarness) -> None:
    workflow = submit(harness, group(echo("a"), echo("b")))
    first, second = available(harness)
    harness.dispatch(second[0])
    harness.claim(second[0], new_id())
    run_one(harness, first[0], first[1], failing("a"))
    with pytest.raises(NotReplayable, match="workflow"):
        replay_job(harness.ledger, None, harness.tenant_id, job_of(harness, workflow, "a"), by="me")
    stop_due(harness)
    assert harness.row(job_of(harness, workflow, "a")).state == "dead"


def test_a_map_that_becomes_too_large_fails_its_workflow_and_not_the_run_before_it(harness: LedgerHarness) -> None:
    big = {"x": "y" * 30_000, "item": {"$item": ""}}
    workflow = submit(harness, chain(echo("l", {"l": [0] * 9_000}), map_over({"$from": "l.result.l"}, echo(None, big))))
    assert play(harness) == ["l"]
    assert state_of(harness, workflow) == "failed"
    (error,) = harness.all("SELECT error FROM workflows")
    assert error["last"]["code"] == "map_failed" and "9000 jobs would have more than" in error["last"]["message"]
    assert steps_of(harness, workflow)["l"] == "done"


def test_a_replay_waits_for_a_run_that_is_being_settled(harness: LedgerHarness) -> None:
    """The replay must see the counts of the settle, and a failure that the settle has not committed yet."""
    workflow = submit(harness, chain(group(echo("a"), echo("b"), name="g"), echo("end")))
    play(harness, failing("a", "b"))
    stop_due(harness)
    replay_job(harness.ledger, None, harness.tenant_id, job_of(harness, workflow, "a"), by="me")
    ((job_id, _, _),) = available(harness)
    lease_id = new_id()
    harness.dispatch(job_id)
    harness.claim(job_id, lease_id)
    with ThreadPoolExecutor(1) as pool:
        with harness.ledger.transaction() as connection:
            runs.settle_in(connection, job_id, lease_id, Settlement("succeeded", "succeeded"))
            other = job_of(harness, workflow, "b")
            replay = pool.submit(replay_job, harness.ledger, None, harness.tenant_id, other, by="me")
            wait_until_blocked(harness)
        replay.result()
    assert play(harness) == ["b", "end"]
    assert state_of(harness, workflow) == "succeeded"


def test_a_step_after_a_chord_waits_for_the_body_of_the_chord(harness: LedgerHarness) -> None:
    submit(harness, Graph((Group((echo(), echo()), echo("then"), "g"), echo("z", after=("g",)))))
    assert play(harness)[-2:] == ["then", "z"]


def test_many_steps_after_many_steps_are_joined_by_a_gate(harness: LedgerHarness) -> None:
    parents = [echo(f"p{n}") for n in range(30)]
    members = tuple(echo() for _ in range(30))
    workflow = submit(harness, Graph((*parents, Group(members, name="g", after=tuple(f"p{n}" for n in range(30))))))
    assert harness.all("SELECT sum(cardinality(children))::int FROM workflow_steps") == [90]
    assert len(play(harness)) == 60
    assert state_of(harness, workflow) == "succeeded"


@pytest.mark.parametrize(
    ("part", "field"),
    [
        (echo(priority=10), "priority"),
        (echo(max_attempts=-1), "max_attempts"),
        (echo(on_failure="bogus"), "on_failure"),
        (echo(run_at=datetime(2030, 1, 1)), "run_at"),
        (group(echo("x"), echo("y", after=("x",))), "after"),
        (map_over(["x" * 1000] * 9_000, echo(None, {"p": "y" * 100_000})), "flow"),
        (map_over({"a": {"$from": "x.result"}}, echo()), "map"),
    ],
)
def test_invalid_parts_of_a_workflow_are_refused(harness: LedgerHarness, part: Any, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        submit(harness, part)
    assert any(field in item.field for item in caught.value.errors), caught.value.errors


def test_steps_added_twice_under_one_name_are_refused(harness: LedgerHarness) -> None:
    submit(harness, echo("a"))
    job_id = available(harness)[0][0]
    with pytest.raises(InvalidRequest, match="named twice"):
        adds_of(harness, job_id, echo("x"), echo("x"))


# --- acceptance -----------------------------------------------------------------------------------


def test_the_same_key_gives_the_same_workflow_and_another_body_a_conflict(harness: LedgerHarness) -> None:
    from jobplatform.domain.workflows import SubmitWorkflow
    from jobplatform.usecases.submit_workflow import submit_workflow

    def ask(flow: Any) -> Any:
        return submit_workflow(
            harness.ledger, None, registry(), harness.tenant_id, SubmitWorkflow(flow), idempotency_key="k"
        )

    with ThreadPoolExecutor(4) as pool:
        result = list(pool.map(lambda _: ask(chain(echo("a"), echo("b"))), range(4)))
    assert len({item.id for item in result}) == 1 and [item.created for item in result].count(True) == 1
    with pytest.raises(IdempotencyConflict):
        ask(chain(echo("a"), echo("c")))
    assert harness.all("SELECT count(*)::int FROM jobs") == [2]


def test_a_fan_in_of_ten_thousand_steps_succeeds(harness: LedgerHarness) -> None:
    workflow = submit(harness, chord([echo()] * 9_990, echo("end", {"n": {"$from": "g.results.9989"}}), "g"))
    harness.do(
        "UPDATE workflow_steps SET state = 'done' WHERE workflow_id = :w AND type = 'job' "
        "AND position BETWEEN 1 AND 9989",
        w=workflow,
    )
    harness.do(
        "DELETE FROM jobs WHERE state = 'available' AND id NOT IN (SELECT id FROM workflow_steps WHERE position = 9990)"
    )
    harness.do("UPDATE workflow_steps SET pending = 1 WHERE type = 'gate'")
    assert play(harness, succeed) == ["g[9989]", "end"]
    assert state_of(harness, workflow) == "succeeded"
