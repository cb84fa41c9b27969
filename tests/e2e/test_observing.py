"""Observability: metrics of every process, JSON logs that are searchable by job, and no secret in any of them."""

from __future__ import annotations

import re
from urllib.request import urlopen

import orjson
import pytest

from jobplatform.devstack import rabbitmq
from jobplatform.devstack.compose import services
from tests.e2e.conftest import Platform
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def done(platform: Platform) -> str:
    """The id of a job that has gone through every process."""
    payload = {"to": ["ada@example.com"], "subject": "metrics", "text": "hello"}
    job = platform.wait(platform.submit("email.send", payload))
    assert job["status"] == "completed"
    return str(job["id"])


def read(platform: Platform, port: str) -> str:
    with urlopen(platform.stack.local_url(port, "/metrics"), timeout=10) as answer:
        return answer.read().decode()


def value(page: str, name: str, **labels: str) -> float:
    """Return the sum of the samples of a metric that carry these labels."""
    total = 0.0
    for line in page.splitlines():
        result = re.match(rf"{name}(?:\{{(.*)\}})? (\S+)$", line)
        if result and all(f'{key}="{item}"' in (result.group(1) or "") for key, item in labels.items()):
            total += float(result.group(2))
    return total


def test_the_api_counts_accepted_jobs_and_responses(platform: Platform, done: str) -> None:
    page = read(platform, "api")
    assert value(page, "jobplatform_jobs_accepted_total", kind="email.send", queue="email") >= 1
    assert value(page, "jobplatform_http_requests_total", endpoint="submit_job", status="202") >= 1
    assert value(page, "jobplatform_http_request_seconds_count", endpoint="get_job") >= 1
    assert done not in page, "labels name endpoints, not the paths of callers"


def test_the_dispatcher_has_metrics_of_every_queue(platform: Platform, done: str) -> None:
    page = read(platform, "metrics-dispatcher")
    assert value(page, "jobplatform_jobs_dispatched_total", queue="email") >= 1
    assert value(page, "jobplatform_dispatch_window", queue="email") >= 4
    assert value(page, "jobplatform_ledger_up") == 1
    assert value(page, "jobplatform_queue_accepted", queue="email") >= 1
    assert value(page, "jobplatform_queue_slots", queue="email") == 8
    assert value(page, "jobplatform_queue_workers", queue="video") == 1
    assert value(page, "jobplatform_queue_draining", queue="video") == 0
    for queue in ("email", "video", "llm", "gpu"):
        assert f'jobplatform_queue_oldest_seconds{{queue="{queue}"}}' in page


def test_workers_count_their_runs_including_those_of_children(platform: Platform, done: str) -> None:
    assert value(read(platform, "metrics-worker-email"), "jobplatform_runs_total", outcome="succeeded") >= 1
    failed = platform.wait(
        platform.submit("video.transcode", {"source": {"path": "nosuch.mkv"}, "preset": "h264-360p"})
    )
    assert failed["status"] == "failed"

    def counted() -> bool:
        page = read(platform, "metrics-worker-video")  # a forked child executed the run
        return value(page, "jobplatform_runs_total", kind="video.transcode", outcome="failed") >= 1

    assert eventually(counted, 10)
    assert value(read(platform, "metrics-worker-llm"), "jobplatform_worker_heartbeats_total", answer="written") >= 1


def test_logs_are_json_and_searchable_by_job(platform: Platform, done: str) -> None:
    lines = [
        orjson.loads(line)
        for line in (platform.stack.instance.logs / "worker-email.log").read_bytes().splitlines()
        if line.startswith(b"{") and done.encode() in line
    ]
    assert [line["event"] for line in lines if line["level"] == "info"] == ["run_settled"], "one line per run"
    assert all(line["job_id"] == done and line["run_no"] == 1 for line in lines), "as a field, to search by"


def test_every_line_of_every_process_is_in_the_log_format(platform: Platform, done: str) -> None:
    """This includes the lines that Celery, granian and Flower write themselves."""
    logs = [log for log in platform.stack.instance.logs.glob("*.log") if log.stem in services()]
    assert {"api", "dispatcher", "flower", "worker-email"} <= {log.stem for log in logs}
    other = [f"{log.name}: {line}" for log in logs for line in log.read_text().splitlines() if not is_in_form(line)]
    assert not other, "\n".join(other)


def is_in_form(line: str) -> bool:
    try:
        return {"event", "level", "timestamp"} <= orjson.loads(line).keys()
    except orjson.JSONDecodeError:
        return False


def test_no_secret_is_in_any_log_or_command_line(platform: Platform, done: str) -> None:
    import psutil

    from jobplatform.devstack.processes import marked

    instance = platform.stack.instance
    secrets = {instance.secret, platform.api._key}
    for log in instance.logs.glob("*.log"):
        content = log.read_text(errors="replace")
        assert not [1 for secret in secrets if secret in content], log.name
    for pid, name in marked(instance).items():
        line = " ".join(psutil.Process(pid).cmdline())
        assert not [1 for secret in secrets if secret in line], name


def test_flower_requires_its_login(platform: Platform) -> None:
    from urllib.error import HTTPError

    with pytest.raises(HTTPError) as refused:
        urlopen(platform.stack.local_url("flower", "/flower/workers"), timeout=10)
    assert refused.value.code == 401


def test_every_process_has_the_rights_of_its_role_and_no_more(platform: Platform) -> None:
    users = {
        connection["client_properties"].get("connection_name", "worker"): connection["user"]
        for connection in rabbitmq.call_management(platform.stack.instance, "/api/connections")
    }
    assert users["jobplatform dispatcher"] == "dispatcher"
    assert set(users.values()) <= {"dispatcher", "worker", "monitor"}
