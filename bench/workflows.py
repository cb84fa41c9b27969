"""Fan-out and fan-in, and a chain: the platform's workflows beside Celery's chord and chain on its Postgres backend."""

from __future__ import annotations

import time

from celery import chain as celery_chain
from celery import chord as celery_chord

from bench.sides import Bare, Ours, Pool
from jobplatform.domain.workflows import Part, SubmitWorkflow, chain, chord, step
from jobplatform.usecases.submit_workflow import submit_workflow

POLL_SECONDS = 0.005


def measure(side: Ours | Bare, pool: Pool, children: int, steps: int) -> tuple[float, float]:
    """Return the seconds of a fan-out and fan-in over `children` no-ops, and the milliseconds per step of a chain."""
    side.clear()
    with side.workers(pool):
        for _ in range(20):
            side.submit()
        side.wait_done(20)
        fan = ours_fan(side, children) if isinstance(side, Ours) else bare_fan(side, children)
        link = ours_chain(side, steps) if isinstance(side, Ours) else bare_chain(steps)
    return fan, 1000 * link / steps


def ours_fan(side: Ours, children: int) -> float:
    """Return the seconds from the call to the end of the callback."""
    return _play(side, chord([step("bench.noop", {"n": n}) for n in range(children)], step("bench.noop")))


def ours_chain(side: Ours, steps: int) -> float:
    """Return the seconds from the call to the end of the last step."""
    return _play(side, chain(*(step("bench.noop") for _ in range(steps))))


def _play(side: Ours, flow: Part) -> float:
    began = time.perf_counter()
    workflow = submit_workflow(side.ledger, side.hints, side.kinds, side.tenant, SubmitWorkflow(flow)).id
    ended = "SELECT state = 'succeeded' FROM workflows WHERE id = :id"
    while not side.one(ended, id=workflow):
        if time.perf_counter() - began > 300:
            raise TimeoutError(f"workflow {workflow} did not succeed within 300 s")
        time.sleep(POLL_SECONDS)
    return time.perf_counter() - began


def bare_fan(_side: Bare, children: int) -> float:
    """Return the seconds from the call to the result of the callback."""
    from bench.bare import collect, noop

    began = time.perf_counter()
    celery_chord([noop.si(n) for n in range(children)])(collect.s()).get(timeout=300, interval=POLL_SECONDS)
    return time.perf_counter() - began


def bare_chain(steps: int) -> float:
    """Return the seconds from the call to the result of the last task."""
    from bench.bare import noop

    began = time.perf_counter()
    celery_chain(*(noop.si(n) for n in range(steps)))().get(timeout=300, interval=POLL_SECONDS)
    return time.perf_counter() - began
