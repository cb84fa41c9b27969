"""Schedules through every process: two dispatchers and two beats fire every planned time once."""

from __future__ import annotations

import subprocess

from jobplatform.devstack.processes import script, start, wait_gone
from tests.e2e.conftest import Platform
from tests.support.waiting import eventually


def fires(platform: Platform, name: str) -> list[dict]:
    return platform.api.call("GET", f"/v1/schedules/{name}/fires")["fires"]


def test_every_planned_time_is_fired_once_by_any_of_the_processes(platform: Platform) -> None:
    every_second = {
        "kind": "acme.sum",
        "payload": {"numbers": [1]},
        "cron": "* * * * * *",
        "overlap": "allow",
        "missed": "catch_up",
        "catch_up": 100,
    }
    more = [platform.stack.start_service("dispatcher", tag="dispatcher-2")]
    beat = [
        str(script("celery")),
        "-A",
        "workers.app",
        "beat",
        "--loglevel",
        "warning",
        "--max-interval",
        "1",
        "--pidfile=",
    ]
    more += [start(platform.stack.instance, f"beat-{n}", beat, platform.stack.environment()) for n in range(2)]
    try:
        platform.api.call("PUT", "/v1/schedules/tick", every_second)
        eventually(lambda: len(fires(platform, "tick")) >= 6)
        result = fires(platform, "tick")
        assert [process.poll() for process in more] == [None] * 3, "all of them were running"
    finally:
        platform.api.call("DELETE", "/v1/schedules/tick")
        for process in more:
            process.terminate()
        wait_gone([process.pid for process in more], 20)
    planned = [item["planned_at"] for item in result]
    assert len(set(planned)) == len(planned)
    assert {item["outcome"] for item in result} == {"fired"}
    for item in result:
        assert platform.wait(item["job_id"])["result"] == {"sum": 1}


def test_beat_refuses_a_schedule_that_it_can_not_import(platform: Platform) -> None:
    done = subprocess.run(
        [str(script("celery")), "-A", "workers.app", "beat"],
        env={**platform.stack.environment(), "JOBPLATFORM_BEAT_SCHEDULE": "acme_jobs.nothing:HERE"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=platform.scratch,
    )
    assert done.returncode != 0
    assert "expected module:attribute" in done.stderr + done.stdout
