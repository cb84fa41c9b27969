"""Four hands at one workflow: they settle, replay, cancel, expire and stop it at once; it ends all the same."""

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
from tests.support.flows import ERROR, available, look, replacement_of, run_one, state_of, submit, succeed
from tests.support.ledgers import Book

ROUNDS, MOVES = 3, 20


def hand(book: Book, workflow: UUID, dice: random.Random) -> None:
    """Do a few things to the workflow; what meets another hand may be refused, or ended by Postgres."""
    for _ in range(MOVES):
        try:
            dice.choices([run_some, replay_one, cancel_one, replay_whole, stop, expire], [72, 14, 4, 3, 1, 6])[0](
                book, workflow, dice
            )
        except (LedgerBusy, AssertionError):  # of `run_one`: somebody else has the job
            continue


def run_some(book: Book, workflow: UUID, dice: random.Random) -> None:
    result = available(book)
    if not result:
        look(book)
        return
    job_id, kind, _ = dice.choice(result)
    luck = dice.random()
    act: Callable[..., Any] = (lambda *_: ("failed", "dead", None)) if luck < 0.4 else succeed
    run_one(book, job_id, kind, act, replacement_of(book, job_id)[0] if luck > 0.9 else None)


def replay_one(book: Book, workflow: UUID, dice: random.Random) -> None:
    failed = book.all("SELECT id FROM workflow_steps WHERE type = 'job' AND state = 'failed'")
    if failed:
        book.all("SELECT * FROM replay_job(:t, :j, '-infinity', 0, '{}')", t=book.tenant_id, j=dice.choice(failed))


def cancel_one(book: Book, workflow: UUID, dice: random.Random) -> None:
    every = book.all("SELECT id FROM workflow_steps WHERE type = 'job' ORDER BY id")
    with book.ledger.transaction() as connection:
        jobs.cancel_job(connection, book.tenant_id, dice.choice(every), "random")


def replay_whole(book: Book, workflow: UUID, dice: random.Random) -> None:
    with book.ledger.transaction() as connection:
        workflows.replay_workflow(connection, book.tenant_id, workflow, {"by": "dice"})


def stop(book: Book, workflow: UUID, dice: random.Random) -> None:
    with book.ledger.transaction() as connection:
        workflows.cancel_workflow(connection, book.tenant_id, workflow, "random", "dice")


def expire(book: Book, workflow: UUID, dice: random.Random) -> None:
    some = book.all("SELECT id FROM jobs WHERE run_no = 0 AND state IN ('blocked', 'available') ORDER BY id")
    chosen = [item for item in some if dice.random() < 0.3]
    book.do("UPDATE jobs SET start_by = clock_timestamp() - interval '1 s' WHERE id = ANY (:ids)", ids=chosen)
    book.all("SELECT * FROM wake_jobs(100, NULL)")


def finish(book: Book) -> None:
    """Settle what the hands have left behind, then let everything succeed."""
    for job_id, lease_id in book.all("SELECT id, lease_id FROM jobs WHERE state = 'running'"):
        runs.settle_run(book.ledger, job_id, lease_id, Settlement("failed", "dead", error=ERROR))
    for job_id in book.all("SELECT id FROM jobs WHERE state = 'dispatched'"):
        lease_id = new_id()
        book.claim(job_id, lease_id)
        book.settle(job_id, lease_id)
    for _ in range(500):
        for job_id, kind, _ in available(book):
            run_one(book, job_id, kind, succeed)
        if not look(book) and not available(book):
            return


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_a_workflow_under_four_hands_ends_and_adds_up(book: Book, seed: int) -> None:
    dice = random.Random(seed)
    workflow = submit(book, random_graph(dice, dice.randint(3, 7)))
    with ThreadPoolExecutor(4) as pool:
        hands = [pool.submit(hand, book, workflow, random.Random(seed * 10 + n)) for n in range(4)]
    for item in hands:
        item.result()
    finish(book)
    assert_whole(book)
    ended = state_of(book, workflow)
    assert ended in ("succeeded", "failed", "cancelled")
    assert ended != "succeeded" or book.all("SELECT DISTINCT state FROM jobs") in ([], ["dead"])
    assert not book.all("SELECT id FROM job_history GROUP BY id HAVING count(*) > 1")
    book.assert_conserved()
