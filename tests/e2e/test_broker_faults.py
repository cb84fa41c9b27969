"""Faults of RabbitMQ: restarts, deleted queues, duplicates, cancelled consumers."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

import amqp
import pytest
from celery import Celery

from jobplatform.broker.connection import connected, server_version
from jobplatform.broker.topology import JOBS_EXCHANGE, job_queue_arguments
from jobplatform.devstack import rabbitmq
from jobplatform.devstack.rabbitmq_server import CHOICE
from tests.e2e.conftest import WORKERS, Platform
from tests.support.waiting import eventually


def test_celerys_own_revoke_loses_no_job(platform: Platform) -> None:
    """Another Celery client's revoke is a message to workers. A job is cancelled in the ledger."""
    import subprocess

    from jobplatform.devstack.processes import script

    path = platform.file("revoked")
    job_id = platform.submit("acme.sleep", {"path": path, "seconds": 1}, run_at=in_seconds(4))
    code = f"from workers.app import app; app.control.broadcast('revoke', arguments={{'task_id': '{job_id}'}})"
    subprocess.run(
        [str(script("python")), "-c", code], env=platform.stack.environment(), check=True, cwd=platform.scratch
    )
    assert platform.wait(job_id)["state"] == "succeeded"


def in_seconds(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def test_a_queue_that_is_deleted_and_declared_again_is_consumed_again(platform: Platform) -> None:
    head = platform.head("worker-gpu")
    with connected(rabbitmq.url(platform.stack.instance), name="test") as connection:
        connection.channel().queue_delete("gpu")
    platform.stack.run("broker", "apply")
    job = platform.wait(platform.submit("acme.resize", {"width": 2, "height": 2}))
    assert job["status"] == "completed" and platform.head("worker-gpu") == head


def test_a_duplicate_of_a_real_message_runs_nothing(platform: Platform) -> None:
    path = platform.file("duplicate")
    job_id = platform.submit("acme.sleep", {"path": path, "seconds": 1})
    platform.started(path)
    with connected(rabbitmq.url(platform.stack.instance), name="test") as connection:
        channel = connection.channel()
        for _ in range(20):
            headers = {"task": "acme.sleep", "id": job_id, "dispatch_no": 1}
            message = amqp.Message(b"[[], {}, {}]", content_type="application/json", content_encoding="utf-8",
                                   application_headers=headers)  # fmt: skip
            channel.basic_publish(message, exchange="jobs", routing_key="gpu")
        channel.close()
    job = platform.wait(job_id)
    assert (job["state"], len(platform.calls(path))) == ("succeeded", 1)


@pytest.mark.skipif(not os.environ.get(CHOICE), reason="a drill covers it on the distribution's RabbitMQ")
def test_a_broker_restart_loses_nothing_and_runs_nothing_twice(platform: Platform) -> None:
    path = platform.file("through-the-restart")
    long = platform.submit("acme.sleep", {"path": path, "seconds": 6})
    platform.started(path)
    waiting = [platform.submit("acme.resize", {"width": n, "height": n}) for n in range(20)]
    instance = platform.stack.instance
    node = rabbitmq.start_rabbitmq(instance)  # stops the old one first
    during = platform.submit("acme.resize", {"width": 8, "height": 8})
    assert platform.job(during)["state"] in ("available", "dispatched"), "accepted without a broker"
    rabbitmq.wait_until_up(instance, node)
    for job_id in [*waiting, during]:
        assert platform.wait(job_id)["status"] == "completed"
    assert platform.wait(long)["state"] == "succeeded"
    assert len(platform.calls(path)) == 1, "the run continued while the broker was down"


def test_a_worker_that_has_stopped_consuming_is_restarted(platform: Platform) -> None:
    """As after a silent cancel of its consumer: the worker sends heartbeats, answers pings, and receives nothing."""
    head = platform.head("worker-gpu")
    control = Celery("test", broker=platform.stack.broker_url_of("monitor"), set_as_current=False).control
    asked = {"arguments": {"queue": "gpu"}, "reply": True, "timeout": 5, "pattern": "worker-gpu@*", "matcher": "glob"}
    (answer,) = control.broadcast("shop_stops_consuming", **asked)
    assert list(answer.values()) == [{"ok": "gpu"}]
    job_id = platform.submit("acme.resize", {"width": 2, "height": 2})
    eventually(lambda: head not in platform.pids("worker-gpu"), 30, "the worker ends itself")
    platform.stack.start_celery("worker-gpu", "gpu", "-c", "4")
    assert platform.wait(job_id)["status"] == "completed"
    platform.stack.wait_for_workers(WORKERS)


def test_a_run_beyond_rabbitmqs_time_limit_continues_once_and_its_worker_takes_more(platform: Platform) -> None:
    """RabbitMQ 4.3 cancels the consumer of a quorum queue whose message is not acknowledged in time, and redelivers the
    message. Older versions close the channel."""
    instance = platform.stack.instance
    with connected(rabbitmq.url(instance), name="test") as connection:
        if server_version(connection) < "4.3":
            pytest.skip("a queue's own consumer time-out came with RabbitMQ 4.3")
        platform.wait(platform.submit("acme.resize", {"width": 2, "height": 2}))  # its worker consumes
        channel = connection.channel()
        channel.queue_delete("gpu")
        arguments = {**job_queue_arguments("quorum"), "x-consumer-timeout": 1000}
        channel.queue_declare("gpu", durable=True, auto_delete=False, arguments=arguments)
        channel.queue_bind("gpu", JOBS_EXCHANGE, "gpu")
        path = platform.file("too-slow-for-rabbitmq")
        job_id = platform.submit("acme.sleep", {"path": path, "seconds": 5})
        job = platform.wait(job_id)
        assert (job["state"], len(platform.calls(path)), platform.outcomes(job_id)) == ("succeeded", 1, ["succeeded"])
        given_away = "SELECT count(*)::int FROM dead_messages WHERE job_id = CAST(:id AS uuid) AND reason = 'stale'"
        eventually(lambda: platform.sql(given_away, id=job_id)[0] >= 1, 10, "its redelivered message ran nothing")
        assert platform.wait(platform.submit("acme.resize", {"width": 2, "height": 2}))["status"] == "completed"
        channel.queue_delete("gpu")
    platform.stack.run("broker", "apply")


def test_the_audit_is_clean_after_all_faults(platform: Platform) -> None:
    platform.stack.run("audit", "--json")


def test_conservation_holds_after_all_faults(platform: Platform) -> None:
    rows = platform.sql(
        "SELECT c.queue, c.accepted - c.finished, coalesce(l.live, 0) FROM "
        "(SELECT queue, sum(accepted) AS accepted, sum(finished) AS finished FROM queue_counters GROUP BY queue) c "
        "LEFT JOIN (SELECT queue, count(*) AS live FROM jobs GROUP BY queue) l USING (queue)"
    )
    assert rows and all(counted == live for _, counted, live in rows)
