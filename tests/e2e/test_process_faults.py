"""Faults of the platform's processes: killed children, killed and frozen workers, shutdowns, cancels."""

from __future__ import annotations

import os
import signal

import psutil

from tests.e2e.conftest import WORKERS, Platform
from tests.support.waiting import eventually

#: whether a job's worker has written two heartbeats during its run
SEEN = "SELECT previous_heartbeat_at > run_started_at FROM jobs j JOIN workers w ON w.id = j.worker_id WHERE j.id = :i"


def test_a_killed_pool_child_is_a_crash_and_its_job_runs_again(platform: Platform) -> None:
    path = platform.file("child")
    job_id = platform.submit("acme.sleep", {"path": path, "seconds": 30})
    child = platform.started(path)
    eventually(lambda: platform.sql(SEEN, i=job_id) == [True], 10, "a heartbeat of its worker")
    os.kill(child, signal.SIGKILL)
    job = platform.wait(job_id)
    assert (job["state"], job["result"]["calls"], job["attempt"]) == ("succeeded", 2, 1)
    crashed, succeeded = platform.runs(job_id)
    assert (crashed["outcome"], succeeded["outcome"]) == ("crashed", "succeeded")
    assert crashed["error"]["signal"] == "SIGKILL" and crashed["error"]["worker"].startswith("worker-gpu@")
    assert crashed["error"]["peak_memory_bytes"] > 10_000_000, "as the parent read it at its last heartbeat"


def test_a_job_that_always_crashes_is_dead_lettered_at_its_limit(platform: Platform) -> None:
    path = platform.file("crash")
    job = platform.wait(platform.submit("acme.crash", {"path": path}))
    assert (job["state"], job["error"]["code"]) == ("dead", "crashed_limit")
    assert len(platform.calls(path)) == 2


def test_the_runs_of_a_killed_worker_are_lost_and_their_jobs_run_again(platform: Platform) -> None:
    path = platform.file("worker")
    job_id = platform.submit("acme.sleep", {"path": path, "seconds": 60})
    child, head = platform.started(path), platform.head("worker-gpu")
    for pid in (child, head):  # as when the container is killed: its children die first, and do not count as crashes
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == "zombie", 10, "child is dead")
    platform.stack.start_celery("worker-gpu", "gpu", "-c", "4")
    job = platform.wait(job_id)
    assert (job["state"], job["result"]["calls"]) == ("succeeded", 2)
    lost, succeeded = platform.runs(job_id)
    assert (lost["outcome"], succeeded["outcome"]) == ("lost", "succeeded")
    assert "session of its worker has ended" in lost["error"]["message"], "after three heartbeats, not after a lease"
    assert platform.sql("SELECT crash_count, lost_count FROM job_history WHERE id = :i", i=job_id) == [(0, 1)]


def test_a_frozen_worker_loses_its_run_and_stops_it_when_it_resumes(platform: Platform) -> None:
    path = platform.file("zombie")
    job_id = platform.submit("acme.deaf", {"path": path, "seconds": 60})
    zombie = platform.started(path)
    eventually(lambda: platform.sql(SEEN, i=job_id) == [True], 10, "two heartbeats of its worker")
    frozen = platform.pids("worker-gpu")
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    eventually(lambda: platform.outcomes(job_id)[:1] == ["lost"], 30, "the run is lost")
    platform.api.call("POST", f"/v1/jobs/{job_id}/cancel")
    for pid in frozen:
        os.kill(pid, signal.SIGCONT)
    eventually(lambda: not psutil.pid_exists(zombie) or psutil.Process(zombie).status() == "zombie", 30, "it stops")
    assert platform.job(job_id)["state"] == "cancelled"
    job = platform.wait(platform.submit("acme.resize", {"width": 2, "height": 2}))
    assert job["status"] == "completed", "the worker continues"


def test_a_warm_shutdown_finishes_running_jobs(platform: Platform) -> None:
    path = platform.file("warm")
    job_id = platform.submit("acme.sleep", {"path": path, "seconds": 2})
    platform.started(path)
    head = platform.head("worker-gpu")
    os.kill(head, signal.SIGTERM)
    job = platform.wait(job_id)
    assert (job["state"], platform.outcomes(job_id)) == ("succeeded", ["succeeded"])
    eventually(lambda: not platform.pids("worker-gpu"), 20, "the worker ends")
    assert platform.sql("SELECT count(*)::int FROM workers WHERE pid = :p AND stopped_at IS NOT NULL", p=head) == [1]
    platform.stack.start_celery("worker-gpu", "gpu", "-c", "4")
    platform.stack.wait_for_workers(WORKERS)


def test_a_shutdown_releases_runs_that_take_too_long(platform: Platform) -> None:
    path = platform.file("too-long")
    job_id = platform.submit("acme.sleep", {"path": path, "seconds": 60})
    platform.started(path)
    os.kill(platform.head("worker-gpu"), signal.SIGTERM)
    eventually(lambda: not platform.pids("worker-gpu"), 30, "the worker ends")
    assert platform.outcomes(job_id) == ["released"]
    assert platform.job(job_id)["state"] in ("available", "dispatched")
    platform.stack.start_celery("worker-gpu", "gpu", "-c", "4")
    job = platform.wait(job_id)
    assert (job["state"], job["attempt"], platform.outcomes(job_id)) == ("succeeded", 1, ["released", "succeeded"])
    platform.stack.wait_for_workers(WORKERS)


def test_a_run_that_ignores_its_cancel_is_killed_after_the_grace_period(platform: Platform) -> None:
    path = platform.file("deaf")
    job_id = platform.submit("acme.deaf", {"path": path, "seconds": 60})
    child = platform.started(path)
    platform.api.call("POST", f"/v1/jobs/{job_id}/cancel", {"reason": "too slow"})
    job = platform.wait(job_id)
    assert (job["state"], job["error"]["message"]) == ("cancelled", "too slow")
    assert platform.outcomes(job_id) == ["cancelled"]
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == "zombie"
    assert len(platform.calls(path)) == 1, "it never runs again"


def test_a_cancelled_run_that_reports_progress_ends_at_once(platform: Platform) -> None:
    path = platform.file("told")
    job_id = platform.submit("acme.sleep", {"path": path, "seconds": 60})
    child = platform.started(path)
    platform.api.call("POST", f"/v1/jobs/{job_id}/cancel")
    assert platform.wait(job_id)["state"] == "cancelled"
    assert psutil.pid_exists(child), "a process that handles the cancel is not killed"
