"""A team adds a kind and a queue from a package outside the repository: one decorator, one setting each."""

from __future__ import annotations

from jobplatform.broker.connection import connected
from jobplatform.devstack import rabbitmq
from tests.e2e.conftest import Platform
from tests.support.waiting import eventually


def test_a_kind_from_another_package_runs_on_its_own_queue(platform: Platform) -> None:
    kinds = {kind["name"]: kind for kind in platform.api.call("GET", "/v1/kinds")["kinds"]}
    assert kinds["acme.resize"]["queue"] == "gpu"
    job = platform.wait(platform.submit("acme.resize", {"width": 200, "height": 100}))
    assert (job["status"], job["result"]) == ("completed", {"width": 100, "height": 50})
    queues = {queue["name"]: queue for queue in platform.api.call("GET", "/v1/queues")["queues"]}
    assert (queues["gpu"]["workers"], queues["gpu"]["slots"]) == (1, 4)


def test_a_permanent_error_makes_a_dead_letter_in_rabbitmq_too(platform: Platform) -> None:
    def copies() -> int:
        with connected(rabbitmq.url(platform.stack.instance), name="test") as connection:
            return int(connection.channel().queue_declare("jobs.dead.copies", passive=True).message_count)

    before = copies()
    job = platform.wait(platform.submit("acme.resize", {"width": 1, "height": 1, "factor": -1}))
    assert (job["state"], job["status"], job["error"]["code"]) == ("dead", "failed", "bad_factor")
    assert eventually(lambda: copies() > before, 30)


def test_attempts_and_runs_are_counted_separately(platform: Platform) -> None:
    flaky = platform.wait(platform.submit("acme.flaky", {"path": platform.file("flaky"), "times": 2}))
    assert flaky["result"] == {"attempt": 3, "run_no": 3}
    assert platform.outcomes(flaky["id"]) == ["failed", "failed", "succeeded"]
    snoozed = platform.wait(platform.submit("acme.snooze", {"path": platform.file("snooze"), "times": 2}))
    assert snoozed["result"] == {"attempt": 1, "run_no": 3}
    assert platform.outcomes(snoozed["id"]) == ["snoozed", "snoozed", "succeeded"]


def test_a_bug_in_a_handler_makes_a_dead_letter_with_its_traceback(platform: Platform) -> None:
    job = platform.wait(platform.submit("acme.broken"))
    assert (job["state"], job["attempt"], job["error"]["code"]) == ("dead", 2, "unhandled_exception")
    assert "a bug in the handler" in job["error"]["message"]
    assert "ValueError" in job["error"]["detail"]["traceback"]


def test_logs_and_artifacts_are_kept(platform: Platform) -> None:
    job = platform.wait(platform.submit("acme.files"))
    events = platform.api.call("GET", f"/v1/jobs/{job['id']}/events")["events"]
    (line,) = [event for event in events if event["event"] == "log"]
    assert line["data"] == {"message": "writing", "step": 1}
    (artifact,) = platform.api.call("GET", f"/v1/jobs/{job['id']}/artifacts")["artifacts"]
    assert (artifact["name"], artifact["size"]) == ("out.txt", 5)


def test_the_hard_and_the_soft_time_limit_end_a_run(platform: Platform) -> None:
    hard, soft = platform.submit("acme.slow"), platform.submit("acme.soft")
    for job_id in (hard, soft):
        job = platform.wait(job_id)
        assert (job["state"], job["error"]["code"]) == ("dead", "timed_out")
        assert platform.outcomes(job_id) == ["timed_out"]


def test_a_job_does_not_start_before_its_run_at(platform: Platform) -> None:
    from datetime import UTC, datetime, timedelta

    at = datetime.now(UTC) + timedelta(seconds=1.5)
    job = platform.wait(platform.submit("acme.resize", {"width": 1, "height": 1}, run_at=at.isoformat()))
    assert datetime.fromisoformat(job["started_at"]) >= at
    assert job["status"] == "completed"


def test_a_worker_refuses_a_pool_that_can_not_enforce_its_limits(platform: Platform) -> None:
    import subprocess

    from jobplatform.devstack.processes import script

    done = subprocess.run(
        [str(script("celery")), "-A", "workers.app", "worker", "-Q", "gpu", "--pool", "threads", "-c", "1"],
        env=platform.stack.environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=platform.scratch,
    )
    assert done.returncode != 0
    assert "start it with `--pool prefork`" in done.stderr + done.stdout
