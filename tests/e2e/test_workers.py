"""Life cycle of a worker: replacement of its children, threads that can't be stopped, shutdown."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import psutil
import pytest

from jobplatform.devstack import rabbitmq
from jobplatform.devstack.processes import end_named
from tests.e2e.conftest import Platform
from tests.support.waiting import eventually

Start = Callable[..., int]


@pytest.fixture
def start(platform: Platform) -> Iterator[Start]:
    """Start a worker for a test; returns its process."""
    names = []

    def begin(name: str, queue: str, *options: str) -> int:
        names.append(name)
        platform.stack.start_celery(name, queue, *options)
        row = "SELECT pid FROM workers WHERE node LIKE :n AND stopped_at IS NULL ORDER BY started_at DESC LIMIT 1"
        (pid,) = eventually(lambda: platform.sql(row, n=f"{name}@%"), 30, f"{name} has registered")
        return int(pid)

    yield begin
    for name in names:
        end_named(platform.stack.instance, name)


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie"


@pytest.mark.parametrize(
    ("options", "least"),
    [(("--max-tasks-per-child", "3"), 4), (("--max-memory-per-child", "1000"), 10)],
    ids=["tasks", "memory"],
)
def test_children_are_replaced_and_no_run_is_interrupted(
    platform: Platform, start: Start, options: tuple[str, str], least: int
) -> None:
    path = platform.file(f"replaced{options[0]}")
    jobs = [platform.submit("acme.forged", {"path": path}) for _ in range(15)]
    start("worker-replaced", "limbo", "-c", "2", *options)
    for job_id in jobs:
        assert platform.wait(job_id)["state"] == "succeeded"
        assert platform.outcomes(job_id) == ["succeeded"]
    calls = platform.calls(path)
    assert len(calls) == 15 and len(set(calls)) >= least


def test_a_worker_with_stuck_threads_exits_and_its_successor_works(platform: Platform, start: Start) -> None:
    first = start("worker-loose", "loose", "--pool", "threads", "-c", "2")
    path = platform.file("stuck")
    job_id = platform.submit("acme.stuck", {"path": path, "seconds": 600})
    eventually(lambda: platform.calls(path), 20, "it runs")
    platform.api.call("POST", f"/v1/jobs/{job_id}/cancel", {"reason": "stuck"})
    job = platform.wait(job_id)
    assert (job["state"], platform.outcomes(job_id)) == ("cancelled", ["cancelled"])
    eventually(lambda: is_gone(first), 30, "half of its threads are stuck")
    start("worker-loose", "loose", "--pool", "threads", "-c", "2")
    assert platform.wait(platform.submit("acme.stuck", {"path": path}))["state"] == "succeeded"


def test_a_worker_that_shuts_down_releases_the_runs_of_its_threads(platform: Platform, start: Start) -> None:
    first = start("worker-loose", "loose", "--pool", "threads", "-c", "4")
    path = platform.file("given-back")
    job_id = platform.submit("acme.stuck", {"path": path, "seconds": 600})
    eventually(lambda: platform.calls(path), 20, "it runs")
    os.kill(first, signal.SIGTERM)
    eventually(lambda: is_gone(first), 30, "it ends when JOBPLATFORM_SHUTDOWN_SECONDS are over")
    assert platform.outcomes(job_id) == ["released"]
    start("worker-loose", "loose", "--pool", "threads", "-c", "4")
    job = platform.wait(job_id)
    assert (job["state"], job["result"]["calls"], job["attempt"]) == ("succeeded", 2, 1)


def test_a_job_queued_in_a_thread_pool_runs_once_even_when_the_connection_is_lost_meanwhile(
    platform: Platform, start: Start
) -> None:
    """RabbitMQ has the message again, but the pool's own queue still runs it, long after the delivery was given up."""
    start("worker-loose", "loose", "--pool", "threads", "-c", "1")
    first, second = platform.file("in front"), platform.file("behind")
    front = platform.submit("acme.stuck", {"path": first, "seconds": 4})
    eventually(lambda: platform.calls(first), 20, "it runs")
    behind = platform.submit("acme.stuck", {"path": second, "seconds": 4})
    waits = "SELECT count(*)::int FROM workers WHERE CAST(:i AS uuid) = ANY (waiting)"
    eventually(lambda: platform.sql(waits, i=behind) == [1], 20, "its message is with the worker")
    rabbitmq.control(platform.stack.instance, "close_all_connections", "-p", "jobplatform", "a test")
    for job_id, path in ((front, first), (behind, second)):
        assert platform.wait(job_id)["state"] == "succeeded"
        assert (platform.outcomes(job_id), len(platform.calls(path))) == (["succeeded"], 1)


def test_the_audit_is_clean_after_all_faults(platform: Platform) -> None:
    platform.stack.run("audit", "--json")
