"""Random graphs with failures, cancels and replays: each ends, in order, with each step run once or by its policy."""

from __future__ import annotations

import random
from typing import Any
from uuid import UUID

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobplatform.domain.workflows import Graph, Group, Map, Part, chain, step
from jobplatform.ledger import auditing, jobs, runs, workflows
from jobplatform.ledger.ids import new_id
from jobplatform.ledger.runs import Settlement
from tests.support.flows import ERROR, adds_of, available, replacement_of, run_one, state_of, stop_due, submit, succeed
from tests.support.ledger_harness import LedgerHarness

POLICIES = ("fail", "skip", "skip", "ignore", "continue")


def random_graph(dice: random.Random, size: int) -> Graph:
    """Return a graph of steps, groups, chains and maps, each after some of the earlier parts."""
    parts: list[Part] = []
    for n in range(size):
        after = tuple(f"p{i}" for i in range(n) if dice.random() < 0.4)
        item = lambda: step("test.echo", {"n": dice.randint(0, 9), "l": [1, 2]}, on_failure=dice.choice(POLICIES))  # noqa: E731
        kind = dice.random()
        if kind < 0.6 or not n:
            made: Part = step(
                "test.echo",
                {"l": [1, 2, 3][: dice.randint(0, 3)]},
                name=f"p{n}",
                after=after,
                on_failure=dice.choice(POLICIES),
            )
        elif kind < 0.75:
            made = Group(tuple(item() for _ in range(dice.randint(0, 3))), name=f"p{n}", after=after)
        elif kind < 0.85:
            made = Group((chain(item(), item()), item()), then=item(), name=f"p{n}", after=after)
        else:
            source = dice.choice([p.name for p in parts if not isinstance(p, Group | Map)])
            made = Map({"$from": f"{source}.result.l"}, item(), name=f"p{n}", after=after)
        parts.append(made)
    return Graph(tuple(parts))


def assert_whole(harness: LedgerHarness) -> None:
    with harness.ledger.statement() as connection:
        (broken,) = auditing.broken_workflows(connection)
    assert not broken.jobs, broken


def act(harness: LedgerHarness, dice: random.Random, workflow: UUID) -> None:
    """Apply one random operation to the workflow."""
    what = dice.random()
    result = available(harness)
    if what < 0.06:
        with harness.ledger.transaction() as connection:
            every = harness.all("SELECT id FROM workflow_steps WHERE type = 'job' ORDER BY id")
            jobs.cancel_job(connection, harness.tenant_id, dice.choice(every), "random")
    elif what < 0.08:
        with harness.ledger.transaction() as connection:
            workflows.cancel_workflow(connection, harness.tenant_id, workflow, "random", "dice")
    elif what < 0.12:
        with harness.ledger.transaction() as connection:
            workflows.replay_workflow(connection, harness.tenant_id, workflow, {"by": "dice"})
    elif what < 0.16:
        dead = harness.all("SELECT id FROM jobs WHERE state = 'dead' ORDER BY id")
        if dead:
            verb = "replay_job(:t, :j, '-infinity', 0, '{}')"
            if dice.random() < 0.3:
                verb = "discard_job(:t, :j, '-infinity', 'dice', '{}')"
            harness.all(f"SELECT * FROM {verb}", t=harness.tenant_id, j=dice.choice(dead))
    elif what < 0.25:
        stop_due(harness, limit=dice.randint(1, 5))
    elif result:
        job_id, kind, _ = dice.choice(result)
        if (luck := dice.random()) < 0.65:
            run_one(harness, job_id, kind, succeed)
        elif luck < 0.7:
            run_one(harness, job_id, kind, added=replacement_of(harness, job_id)[0])
        elif luck < 0.75:
            run_one(harness, job_id, kind, added=adds_of(harness, job_id, *(step("test.echo") for _ in range(2))))
        elif luck < 0.9:
            run_one(harness, job_id, kind, lambda *_: ("failed", "dead", None))
        else:  # its worker is killed, and killed again
            lease_id = new_id()
            harness.dispatch(job_id)
            harness.claim(job_id, lease_id)
            runs.settle_run(harness.ledger, job_id, lease_id, Settlement("crashed", error=ERROR))
            harness.do("UPDATE jobs SET run_at = clock_timestamp() WHERE state = 'scheduled'")
            harness.all("SELECT * FROM wake_jobs(10, NULL)")
    elif not result:
        stop_due(harness)


def in_order(harness: LedgerHarness, workflow: UUID) -> None:
    """Assert that no step started before its dependencies ended (as far as they succeeded, and ran once)."""
    early: list[Any] = harness.all(
        """
        SELECT p.name, s.name FROM workflow_steps p JOIN workflow_steps s ON s.id = ANY (p.children)
        JOIN job_history a ON a.id = p.id JOIN job_history b ON b.id = s.id
        WHERE p.workflow_id = :w AND p.type = 'job' AND s.type = 'job' AND p.position < s.position
            AND p.on_failure = 'fail'
            AND a.state = 'succeeded' AND b.state = 'succeeded' AND b.started_at < a.finished_at
        """,
        w=workflow,
    )
    assert not early
    twice = harness.all("SELECT job_id FROM job_runs WHERE outcome = 'succeeded' GROUP BY job_id HAVING count(*) > 1")
    assert not twice, "a step that has succeeded does not run again"


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(seed=st.integers(0, 2**32), size=st.integers(1, 7), moves=st.integers(5, 60))
def test_a_random_graph_ends_whatever_happens(harness: LedgerHarness, seed: int, size: int, moves: int) -> None:
    for table in ("jobs", "job_history", "job_runs", "job_events", "queue_counters", "workflows", "workflow_steps"):
        harness.do(f"TRUNCATE {table}")
    dice = random.Random(seed)
    workflow = submit(harness, random_graph(dice, size))
    assert_whole(harness)
    for _ in range(moves):
        act(harness, dice, workflow)
        assert_whole(harness)
    for _ in range(500):  # from here on nothing fails any more
        result = available(harness)
        for job_id, kind, _ in result:
            run_one(harness, job_id, kind, succeed)
        if not stop_due(harness) and not available(harness):
            break
    assert state_of(harness, workflow) in ("succeeded", "failed", "cancelled")
    assert harness.all("SELECT DISTINCT state FROM jobs") in ([], ["dead"])
    in_order(harness, workflow)
    harness.assert_conserved()
