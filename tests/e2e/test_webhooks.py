"""Webhooks end to end: a receiver, signatures checked by the Standard Webhooks library, retries and final failures."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from standardwebhooks import Webhook

from jobplatform.devstack.demo import Caller
from tests.e2e.conftest import Platform
from tests.support.receiver import Receiver, say
from tests.support.waiting import eventually


@pytest.fixture
def receive() -> Iterator[Callable[..., Receiver]]:
    opened: list[Receiver] = []

    def start(*statuses: int) -> Receiver:
        rest = itertools.chain(statuses[:-1], itertools.repeat(statuses[-1]))
        opened.append(Receiver(lambda request: say(next(rest), b"so be it")(request)))
        return opened[-1]

    yield start
    for item in opened:
        item.close()


@pytest.fixture
def admin(platform: Platform) -> Caller:
    """A caller of a separate tenant, which gets no events of other tests' jobs."""
    printed = platform.stack.run("keys", "create", "--tenant", "hooks", "--name", "hooks", "--scope", "admin",
                                 "--scope", "jobs:submit", "--scope", "jobs:read")  # fmt: skip
    return Caller(platform.stack.local_url("api"), printed.strip().splitlines()[-1])


def bodies(receiver: Receiver) -> list[dict[str, Any]]:
    return [orjson.loads(body) for _, _, body in receiver.requests]


def resize(admin: Caller, **payload: Any) -> str:
    return admin.call("POST", "/v1/jobs", {"kind": "acme.resize", "payload": {"width": 2, "height": 2, **payload}})[
        "id"
    ]


def test_the_end_of_a_job_is_delivered_signed_and_retried_until_accepted(admin: Caller, receive: Any) -> None:
    receiver = receive(500, 204)
    hook = admin.call("POST", "/v1/webhooks", {"url": f"{receiver.url}/jobs", "kinds": ["acme.*"]})
    good, bad = resize(admin), resize(admin, factor=0)
    eventually(lambda: len(receiver.requests) >= 3, seconds=30, what="two messages, one of them twice")
    events = [Webhook(hook["secret"]).verify(body, headers) for _, headers, body in receiver.requests]
    assert {(item["type"], item["data"]["job_id"]) for item in events} == {("job.succeeded", good), ("job.dead", bad)}
    ids = [headers["webhook-id"] for _, headers, _ in receiver.requests]
    assert len(ids) == 3 and len(set(ids)) == 2, "a retry has the same id"
    assert receiver.requests[0][2] in [body for _, _, body in receiver.requests[1:]], "and the same bytes"
    path = f"/v1/webhooks/{hook['id']}"
    messages = eventually(
        lambda: [m for m in admin.call("GET", f"{path}/messages")["messages"] if m["state"] == "succeeded"][1:] and
        admin.call("GET", f"{path}/messages")["messages"]
    )  # fmt: skip
    assert sorted(message["attempts"] for message in messages) == [1, 2]
    assert all(message["answer"]["status"] == 204 for message in messages)
    twice = next(message for message in messages if message["attempts"] == 2)
    runs = admin.call("GET", f"/v1/jobs/{twice['job_id']}/runs")["runs"]
    assert [run["outcome"] for run in runs] == ["failed", "succeeded"]
    assert "answered 500: so be it" in runs[0]["error"]["message"]
    assert admin.call("GET", path)["failing_since"] is None

    before = len(receiver.requests)
    admin.call("POST", f"{path}/messages/{twice['id']}/replay")
    eventually(lambda: len(receiver.requests) > before)
    assert receiver.requests[-1][1]["webhook-id"] == f"msg_{twice['id']}"
    since = (datetime.now(UTC) - timedelta(minutes=5)).isoformat()
    admin.call("POST", f"{path}/replay", {"since": since, "everything": True})
    eventually(lambda: len(receiver.requests) >= before + 3, what="both messages again")
    rotated = admin.call("POST", f"{path}/rotate")
    admin.call("POST", f"{path}/test")
    eventually(lambda: bodies(receiver)[-1]["type"] == "webhook.test")
    for secret in (hook["secret"], rotated["secret"]):
        _, headers, body = receiver.requests[-1]
        Webhook(secret).verify(body, headers)
    admin.call("DELETE", path)


def test_redirects_are_failures_and_410_disables_the_endpoint(admin: Caller, receive: Any) -> None:
    receiver = receive(302, 410)
    hook = admin.call("POST", "/v1/webhooks", {"url": receiver.url, "events": ["job.succeeded"]})
    path = f"/v1/webhooks/{hook['id']}"
    made = admin.call("POST", f"{path}/test")

    def ended() -> Any:
        (message,) = [row for row in admin.call("GET", f"{path}/messages")["messages"] if row["id"] == made["id"]]
        return message if message["state"] == "dead" else None

    assert eventually(ended)["error"]["code"] == "webhook_redirected"
    resize(admin)
    eventually(lambda: not admin.call("GET", path)["enabled"])
    assert "410" in admin.call("GET", path)["disabled_reason"]
    count = len(receiver.requests)
    assert count == 2
    admin.call("DELETE", path)
