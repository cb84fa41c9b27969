"""Callers in another language: Node.js, with amqplib over AMQP and with fetch over HTTP."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import orjson
import pytest

from jobplatform.devstack import rabbitmq
from tests.e2e.conftest import Platform
from tests.support.waiting import eventually

NODE = Path(__file__).resolve().parents[2] / ".local" / "node"
RESIZE = {"kind": "acme.resize", "payload": {"width": 2, "height": 4}}


@pytest.fixture(scope="module", autouse=True)
def _installed() -> None:
    if not (NODE / ".installed").exists():
        subprocess.run(["sh", str(NODE.parents[1] / "deploy" / "setup-node.sh")], check=True)


def play(program: str, *arguments: str, stdin: Any = None, **variables: str) -> Any:
    done = subprocess.run(
        ["node", str(NODE / program), *arguments],
        env={**os.environ, **variables},
        input=orjson.dumps(stdin) if stdin is not None else None,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return orjson.loads(done.stdout)


@pytest.fixture
def producer(platform: Platform) -> Iterator[str]:
    """The AMQP URL of a user who is named like a tenant, and may only publish submissions."""
    instance = platform.stack.instance
    vhost = urlsplit(platform.stack.broker_url).path.lstrip("/")
    rabbitmq.call_management(instance, "/api/users/default", "PUT", {"password": "x", "tags": ""})
    rights = {"configure": "^$", "write": r"^jobs\.submit$", "read": "^$"}
    rabbitmq.call_management(instance, f"/api/permissions/{quote(vhost, safe='')}/default", "PUT", rights)
    yield f"amqp://default:x@127.0.0.1:{instance.ports['amqp']}/{quote(vhost, safe='')}"
    rabbitmq.call_management(instance, "/api/users/default", "DELETE")


def submission(submission: Any = RESIZE, **properties: Any) -> dict[str, Any]:
    return {"properties": {"userId": "default", "messageId": str(uuid.uuid4()), **properties}, "submission": submission}


def test_submissions_over_amqp(platform: Platform, producer: str) -> None:
    good, twice = submission(), submission(priority=9)
    unfit = submission({**RESIZE, "payload": {"width": "x"}})
    unknown, no_json = submission({"kind": "acme.resise", "payload": {}}), submission("{")
    submissions = [good, twice, unfit, unknown, no_json]
    answers = play("over_amqp.mjs", stdin=submissions, AMQP_URL=producer)
    of = {name: answers[item["properties"]["messageId"]] for name, item in (
        ("good", good), ("twice", twice), ("unfit", unfit), ("unknown", unknown), ("no_json", no_json))}  # fmt: skip
    assert of["good"]["accepted"] and of["good"]["state"] == "available"
    assert platform.wait(of["good"]["id"])["result"] == {"width": 1, "height": 2}
    events = platform.api.call("GET", f"/v1/jobs/{of['good']['id']}/events")["events"]
    assert events[0]["data"] == {"by": "amqp default"}
    again = play("over_amqp.mjs", stdin=[twice], AMQP_URL=producer)
    assert again[twice["properties"]["messageId"]]["id"] == of["twice"]["id"], "one message_id, one submission"
    assert [of[name]["code"] for name in ("unfit", "unknown", "no_json")] == [
        "invalid_payload",
        "unknown_kind",
        "not_json",
    ]
    assert {item["field"] for item in of["unfit"]["errors"]} == {"payload.width", "payload.height"}
    assert "did you mean 'acme.resize'?" in of["unknown"]["detail"]
    dead = platform.sql("SELECT reason, detail FROM dead_messages WHERE queue = 'jobs.submit' ORDER BY id")
    assert [reason for reason, _ in dead][-3:] == ["refused", "refused", "malformed"]


def test_a_submission_without_user_or_message_id_is_refused(platform: Platform, producer: str) -> None:
    nobody = submission(userId=None)
    nameless = submission(messageId=None, correlationId="nameless")
    answers = play("over_amqp.mjs", stdin=[nobody, nameless], AMQP_URL=producer)
    assert {answer["code"] for answer in answers.values()} == {"unnamed_submission"}
    with pytest.raises(AssertionError, match="user_id property set to 'payments' but authenticated user was 'default'"):
        play("over_amqp.mjs", stdin=[submission(userId="payments")], AMQP_URL=producer)


def test_a_user_without_a_tenant_is_refused(platform: Platform) -> None:
    instance = platform.stack.instance
    url = platform.stack.broker_url
    name = urlsplit(url).username or ""
    answers = play("over_amqp.mjs", stdin=[submission(userId=name)], AMQP_URL=url)
    assert [answer["code"] for answer in answers.values()] == ["tenant_unknown"], instance


def test_a_reply_is_never_published_to_a_job_queue(platform: Platform, producer: str) -> None:
    before = platform.sql("SELECT count(*) FROM dead_messages WHERE queue = 'email'")
    lost, answered = submission(replyTo="email"), submission()
    play_without_answer = [lost, answered]
    answers = play("over_amqp.mjs", stdin=[answered], AMQP_URL=producer)
    assert len(answers) == 1
    program = (
        "import amqp from 'amqplib'; const c = await amqp.connect(process.env.AMQP_URL); "
        "const h = await c.createConfirmChannel(); const [o] = JSON.parse(process.argv[1]); "
        "h.publish('jobs.submit', '', Buffer.from(JSON.stringify(o.submission)), o.properties); "
        "await h.waitForConfirms(); await c.close()"
    )
    done = subprocess.run(
        ["node", "--input-type=module", "-e", program, orjson.dumps(play_without_answer).decode()],
        cwd=NODE, env={**os.environ, "AMQP_URL": producer}, capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    key = f"amqp:{lost['properties']['messageId']}"
    (job_id,) = eventually(lambda: platform.sql("SELECT job_id FROM idempotency_keys WHERE key = :key", key=key))
    platform.wait(str(job_id))
    assert platform.sql("SELECT count(*) FROM dead_messages WHERE queue = 'email'") == before


def test_over_http(platform: Platform) -> None:
    where = {"JOBPLATFORM_URL": platform.stack.local_url("api"), "JOBPLATFORM_API_KEY": platform.api._key}
    done = play("over_http.mjs", orjson.dumps(RESIZE).decode(), **where)
    assert (done["status"], done["job"]["result"]) == (202, {"width": 1, "height": 2})
    refused = play("over_http.mjs", '{"kind": "acme.resize"}', **where)
    assert (refused["status"], refused["problem"]["code"]) == (422, "invalid_request")
