"""One process that submits many jobs: batches over HTTP compared with Celery's confirmed publish."""

from __future__ import annotations

import time

from bench.dispatch import purge
from bench.sides import Bare, Ours
from jobplatform.client import Client, JobRequest
from jobplatform.devstack.processes import wait_gone
from jobplatform.devstack.stack import Stack

BATCH = 1000


def measure_ours(stack: Stack, ours: Ours, count: int) -> float:
    """Submit `count` jobs with the Python client, one batch after the other; returns jobs per second."""
    process = stack.start_api()
    try:
        stack.wait_answers("API", stack.local_url("api", "/readyz"), process, "api")
        with Client(stack.local_url("api"), ours.key) as client:
            list(
                client.submit_many((JobRequest("bench.noop", {"n": n}) for n in range(BATCH)), batch_size=BATCH)
            )  # warm
            began = time.perf_counter()
            ids = list(client.submit_many((JobRequest("bench.noop", {"n": n}) for n in range(count)), batch_size=BATCH))
            seconds = time.perf_counter() - began
    finally:
        process.terminate()
        wait_gone([process.pid], 20)
    if len(set(ids)) != count or ours.one("SELECT count(*) FROM jobs") != count + BATCH:
        raise RuntimeError(f"expected {count} jobs, got {len(set(ids))}")
    ours.clear()
    return count / seconds


def measure_bare(stack: Stack, bare: Bare, count: int) -> float:
    """Publish `count` tasks, each confirmed; returns tasks per second."""
    bare.load(100)  # warm
    began = time.perf_counter()
    bare.load(count)
    seconds = time.perf_counter() - began
    purge(stack, "bare")
    return count / seconds
