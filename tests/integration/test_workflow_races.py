"""Four threads settle, replay, cancel, expire and stop one workflow concurrently; it ends all the same."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest

from jobplatform.errors import LedgerBusy
from jobplatform.ledger import jobs, runs, workflows
from jobplatform.ledger.ids import new_id
from jobplatform.ledger.runs import Settlement
from tests.integration.test_workflow_properties import assert_whole, random_graph
from tests.support.flows import ERROR, available, replacement_of, run_one, state_of, stop_due, submit, succeed
from tests.support.ledger_harness import LedgerHarness

ROUNDS, MOVES = 3, 20


def play(harness: LedgerHarness, workflow: UUID, dice: random.Random) -> None:
    """Apply random operations to the workflow; Postgres may refuse or end those that conflict with another thread."""
    for _ in range(MOVES):
        try:
            dice.choices([run_some, replay_one, cancel_one, replay_whole, stop, expire], [72, 14, 4, 3, 1, 6])[0](
                harness, workflow, dice
            )
        except (LedgerBusy, AssertionError):  # of `run_one`: another thread has the job
            continue


def run_some(harness: LedgerHarness, workflow: UUID, dice: random.Random) -> None:
    result = available(harness)
    if not result:
        stop_due(harness)
        return
    job_id, kind, _ = dice.choice(result)
    luck = dice.random()
    act: Callable[..., Any] = (lambda *_: ("failed", "dead", None)) if luck < 0.4 else succeed
    run_one(harness, job_id, kind, act, replacement_of(harness, job_id)[0] if luck > 0.9 else None)


def replay_one(harness: LedgerHarness, workflow: UUID, dice: random.Random) -> None:
    failed = harness.all("SELECT id FROM workflow_steps WHERE type = 'job' AND state = 'failed'")
    if failed:
        harness.all(
            "SELECT * FROM replay_job(:t, :j, '-infinity', 0, '{}')", t=harness.tenant_id, j=dice.choice(failed)
        )


def cancel_one(harness: LedgerHarness, workflow: UUID, dice: random.Random) -> None:
    every = harness.all("SELECT id FROM workflow_steps WHERE type = 'job' ORDER BY id")
    with harness.ledger.transaction() as connection:
        jobs.cancel_job(connection, harness.tenant_id, dice.choice(every), "random")


def replay_whole(harness: LedgerHarness, workflow: UUID, dice: random.Random) -> None:
    with harness.ledger.transaction() as connection:
        workflows.replay_workflow(connection, harness.tenant_id, workflow, {"by": "dice"})


def stop(harness: LedgerHarness, workflow: UUID, dice: random.Random) -> None:
    with harness.ledger.transaction() as connection:
        workflows.cancel_workflow(connection, harness.tenant_id, workflow, "random", "dice")


def expire(harness: LedgerHarness, workflow: UUID, dice: random.Random) -> None:
    some = harness.all("SELECT id FROM jobs WHERE run_no = 0 AND state IN ('blocked', 'available') ORDER BY id")
    chosen = [item for item in some if dice.random() < 0.3]
    harness.do("UPDATE jobs SET start_by = clock_timestamp() - interval '1 s' WHERE id = ANY (:ids)", ids=chosen)
    harness.all("SELECT * FROM wake_jobs(100, NULL)")


def finish(harness: LedgerHarness) -> None:
    """Settle the runs that the threads have left behind, then let all jobs succeed."""
    for job_id, lease_id in harness.all("SELECT id, lease_id FROM jobs WHERE state = 'running'"):
        runs.settle_run(harness.ledger, job_id, lease_id, Settlement("failed", "dead", error=ERROR))
    for job_id in harness.all("SELECT id FROM jobs WHERE state = 'dispatched'"):
        lease_id = new_id()
        harness.claim(job_id, lease_id)
        harness.settle(job_id, lease_id)
    for _ in range(500):
        for job_id, kind, _ in available(harness):
            run_one(harness, job_id, kind, succeed)
        if not stop_due(harness) and not available(harness):
            return


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_a_workflow_changed_by_four_threads_ends_in_a_consistent_state(harness: LedgerHarness, seed: int) -> None:
    dice = random.Random(seed)
    workflow = submit(harness, random_graph(dice, dice.randint(3, 7)))
    with ThreadPoolExecutor(4) as pool:
        players = [pool.submit(play, harness, workflow, random.Random(seed * 10 + n)) for n in range(4)]
    for item in players:
        item.result()
    finish(harness)
    assert_whole(harness)
    ended = state_of(harness, workflow)
    assert ended in ("succeeded", "failed", "cancelled")
    assert ended != "succeeded" or harness.all("SELECT DISTINCT state FROM jobs") in ([], ["dead"])
    assert not harness.all("SELECT id FROM job_history GROUP BY id HAVING count(*) > 1")
    harness.assert_conserved()
