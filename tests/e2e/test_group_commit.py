"""Faults while a worker has claimed short jobs ahead of its slots: every job runs once, and none counts as lost."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from jobplatform.devstack import rabbitmq
from jobplatform.devstack.processes import DidNotStart
from tests.e2e.conftest import Platform
from tests.support.waiting import eventually

JOBS, SLOTS, BATCH = 1500, 4, 500
RUNNING = "SELECT count(*)::int FROM jobs WHERE kind = :kind AND state = 'running'"
LIVE = "SELECT count(*)::int FROM jobs WHERE kind = :kind"
OUTCOMES = "SELECT outcome FROM job_runs WHERE job_id = ANY (CAST(:ids AS uuid[]))"

Pool = tuple[str, str, tuple[str, ...]]
#: kind, queue and options of the worker
PREFORK: Pool = ("acme.quick", "gpu", ("-c", str(SLOTS)))
THREADS: Pool = ("acme.quick_thread", "loose", ("--pool", "threads", "-c", str(SLOTS)))


def stop(platform: Platform, worker: str) -> None:
    os.kill(platform.head(worker), signal.SIGTERM)
    eventually(lambda: not platform.pids(worker), 60, "the worker has stopped")


@pytest.fixture(params=[PREFORK, THREADS], ids=["prefork", "threads"])
def pool(platform: Platform, request: pytest.FixtureRequest) -> Iterator[Pool]:
    _, queue, options = request.param
    if queue == "loose":  # no worker of the stack takes it
        platform.stack.start_celery("worker-loose", queue, *options)
    yield request.param
    if queue == "loose":
        stop(platform, "worker-loose")


def stop_and_start(platform: Platform, pool: Pool) -> None:
    kind, queue, options = pool
    stop(platform, f"worker-{queue}")
    assert platform.sql(RUNNING, kind=kind) == [0], "a stopped worker leaves no run behind"
    platform.stack.start_celery(f"worker-{queue}", queue, *options)


def cut_connections(platform: Platform, _: Pool) -> None:
    def close() -> bool:
        try:
            rabbitmq.control(platform.stack.instance, "close_all_user_connections", "worker", "a test")
        except DidNotStart:  # a connection of the list has ended meanwhile, and the command with it
            return False
        return True

    eventually(close, 30, "the workers' connections are closed")


def prefetch_of(platform: Platform, queue: str) -> int:
    """Return the highest prefetch that applies to a consumer of the queue."""
    instance = platform.stack.instance
    consumers = rabbitmq.call_management(instance, "/api/consumers")
    mine = [item for item in consumers if item["queue"]["name"] == queue]
    # the page learns of a new channel's name later: its details are [] then, or incomplete
    names = {dict(item["channel_details"]).get("name") for item in mine} - {None}
    channels = [item for item in rabbitmq.call_management(instance, "/api/channels") if item.get("name") in names]
    # a channel also has a `prefetch_count`: of consumers that start later
    limits = [item["prefetch_count"] for item in mine] + [item.get("global_prefetch_count", 0) for item in channels]
    return max(limits, default=0)


def test_the_prefetch_of_a_running_consumer_follows_short_jobs(platform: Platform) -> None:
    """RabbitMQ 4 applies a changed prefetch to new consumers only."""
    kind, queue, _ = PREFORK
    stop_and_start(platform, PREFORK)  # without measurements of the long kinds of other tests
    before = eventually(lambda: prefetch_of(platform, queue), 30, "the prefetch at the start")
    job = {"kind": kind, "payload": {"path": platform.file("prefetched"), "seconds": 0.001}}
    for _ in range(JOBS // BATCH):
        platform.api.call("POST", "/v1/jobs/batch", [job] * BATCH)
    eventually(lambda: prefetch_of(platform, queue) > before, 60, "a deeper prefetch")
    eventually(lambda: platform.sql(LIVE, kind=kind) == [0], 120, "all have ended")


@pytest.mark.parametrize("fault", [stop_and_start, cut_connections], ids=["worker stops", "connections are cut"])
def test_jobs_claimed_ahead_run_once(platform: Platform, pool: Pool, fault: Callable[[Platform, Pool], None]) -> None:
    kind, queue, _ = pool
    path = platform.file(f"quick-{queue}-{fault.__name__}")
    job = {"kind": kind, "payload": {"path": path, "seconds": 0.005}}
    ids: list[str] = []
    for _ in range(JOBS // BATCH):
        accepted = platform.api.call("POST", "/v1/jobs/batch", [job] * BATCH)
        ids += [item["id"] for item in accepted["jobs"]]
    eventually(lambda: platform.sql(RUNNING, kind=kind)[0] > SLOTS, 60, "more runs than slots")
    fault(platform, pool)
    eventually(lambda: platform.sql(LIVE, kind=kind) == [0], 120, "all have ended")
    outcomes = Counter(platform.sql(OUTCOMES, ids=ids))
    assert outcomes["succeeded"] == JOBS
    assert set(outcomes) <= {"succeeded", "released"}, outcomes
    assert len(platform.calls(path)) == JOBS, "no handler was called twice"
