"""Following jobs and a tenant's events live, over the real API."""

from __future__ import annotations

import os
import signal
import threading
import uuid
from typing import Any
from urllib.request import urlopen
from uuid import UUID

import pytest

from jobplatform.ledger import keys
from jobplatform.ledger.keys import Grants
from tests.e2e.conftest import Platform
from tests.support.streaming import Sent, Stream
from tests.support.waiting import eventually


def stream(platform: Platform, path: str, last: str | None = None, key: str | None = None) -> Stream:
    return Stream(platform.stack.local_url("api"), key or platform.api._key, path, last)


def history(platform: Platform, job_id: str) -> list[Any]:
    return platform.api.call("GET", f"/v1/jobs/{job_id}/events")["events"]


def make_key(platform: Platform, tenant: str, **grants: Any) -> tuple[UUID, str]:
    ledger = platform.stack.open_ledger()
    with ledger.transaction() as connection:
        made = keys.make_key(connection, keys.create_tenant(connection, tenant), "stream", Grants(**grants), by="")
    ledger.close()
    return made


def test_a_job_is_followed_to_its_end(platform: Platform) -> None:
    job_id = platform.submit("acme.sleep", {"path": platform.file("followed"), "seconds": 1.5})
    with stream(platform, f"/v1/jobs/{job_id}/events") as following:
        assert following.answer.getheader("Content-Type") == "text/event-stream; charset=utf-8"
        came = list(following)
    changes = [item for item in came if item.name not in ("progress", "end")]
    assert [(change.id, change.name, change.data) for change in changes] == [
        (str(event["id"]), event["event"], event) for event in history(platform, job_id)
    ]
    assert [change.name for change in changes] == ["submitted", "dispatched", "started", "succeeded"]
    assert any(item.data["message"] == "sleeping" for item in came if item.name == "progress")
    assert came[-1].name == "end" and came[-1].data == platform.job(job_id)
    with stream(platform, f"/v1/jobs/{job_id}/events", last=came[-1].id) as again:
        assert again.status == 204, "after 204 an EventSource stops reconnecting"
    with stream(platform, f"/v1/jobs/{job_id}/events", last=changes[1].id) as resumed:
        assert [item.name for item in resumed] == ["started", "succeeded", "end"]


def test_the_chunks_of_a_model_answer_are_streamed(platform: Platform) -> None:
    messages = [{"role": "user", "content": "tell me something"}]
    job_id = platform.submit("llm.chat", {"messages": messages})
    with stream(platform, f"/v1/jobs/{job_id}/events") as following:
        came = list(following)
    job = platform.wait(job_id)
    pieces = [item.data["data"]["text"] for item in came if item.name == "output"]
    assert "".join(pieces) == job["result"]["content"]
    assert came[-1].data["result"] == job["result"]


def test_a_feed_delivers_every_event_once_however_often_it_is_cut(platform: Platform) -> None:
    path = "/v1/events?kind=acme.resize&event=succeeded"
    page = platform.api.call("GET", f"{path}&after=now")
    ended: list[Sent] = []
    last = page["next"]
    submitted: list[str] = []

    def submit() -> None:
        for _ in range(40):
            submitted.append(platform.submit("acme.resize", {"width": 1, "height": 1}))

    submitting = threading.Thread(target=submit)
    submitting.start()
    while len(ended) < 40:
        with stream(platform, path, last=last) as following:
            for item in following:
                ended.append(item)
                last = item.id
                if len(ended) % 7 == 0 or len(ended) == 40:
                    break
    submitting.join()
    assert [item.name for item in ended] == ["succeeded"] * 40
    assert sorted(item.data["job_id"] for item in ended) == sorted(submitted)
    read = platform.api.call("GET", f"{path}&after={page['next']}")
    assert [item["id"] for item in read["events"]] == [item.id for item in ended], (
        "the same events as in pages, in the same order"
    )
    assert {(item["kind"], item["queue"]) for item in read["events"]} == {("acme.resize", "gpu")}


def test_a_stream_ends_soon_when_its_key_is_revoked(platform: Platform) -> None:
    key_id, key = make_key(platform, "default")
    with stream(platform, "/v1/events", key=key) as following:
        assert following.status == 200
        eventually(lambda: platform.sql("SELECT last_used_at FROM api_keys WHERE id = :id", id=key_id)[0])
        platform.sql("UPDATE api_keys SET revoked_at = clock_timestamp() WHERE id = :id RETURNING id", id=key_id)
        assert list(following) is not None, "the stream ends"
    with stream(platform, "/v1/events", key=key) as refused:
        assert (refused.status, refused.problem()["code"]) == (401, "unauthorized")


@pytest.mark.parametrize(
    ("path", "last", "status", "code"),
    [
        (f"/v1/jobs/{uuid.uuid4()}/events", None, 404, "job_not_found"),
        ("/v1/events?kind=", None, 422, "invalid_request"),
        ("/v1/events?event=exploded", None, 422, "invalid_request"),
        ("/v1/events?state=exploded", None, 422, "invalid_request"),
        ("/v1/events?after=x", None, 422, "invalid_request"),
        ("/v1/events?no=1", None, 422, "invalid_request"),
        ("/v1/events", "12", 422, "invalid_request"),
    ],
)
def test_a_stream_that_can_not_be_opened_names_the_reason(
    platform: Platform, path: str, last: str | None, status: int, code: str
) -> None:
    with stream(platform, path, last=last) as refused:
        assert (refused.status, refused.problem()["code"]) == (status, code)


def test_streams_require_the_jobs_tenant_and_the_right_to_read(platform: Platform) -> None:
    job_id = platform.submit("acme.resize", {"width": 1, "height": 1})
    _, other = make_key(platform, "stream-other")
    with stream(platform, f"/v1/jobs/{job_id}/events", key=other) as refused:
        assert (refused.status, refused.problem()["code"]) == (404, "job_not_found")
    with stream(platform, f"/v1/jobs/{job_id}/events", last="x") as refused:
        assert (refused.status, refused.problem()["code"]) == (422, "invalid_request")
    _, writer = make_key(platform, "default", scopes=("jobs:submit",))
    with stream(platform, "/v1/events", key=writer) as refused:
        assert (refused.status, refused.problem()["code"]) == (403, "not_allowed")


def test_many_streams_occupy_no_thread_and_closed_ones_are_dropped(platform: Platform) -> None:
    """Each API process has few threads. With more streams than threads, every request is still served."""

    job_id = platform.submit("acme.sleep", {"path": platform.file("many"), "seconds": 2.0})
    following = [stream(platform, f"/v1/jobs/{job_id}/events") for _ in range(60)]
    feeds = [stream(platform, "/v1/events") for _ in range(20)]
    assert platform.wait(job_id)["state"] == "succeeded"
    assert {list(item)[-1].name for item in following} == {"end"}
    eventually(lambda: open_streams(platform) == 20, what="the feeds are open")
    for item in (*following, *feeds):
        item.close()
    eventually(lambda: open_streams(platform) == 0, what="all streams are closed")


def open_streams(platform: Platform) -> float:
    with urlopen(platform.stack.local_url("api") + "/metrics", timeout=10) as answer:
        lines = [line for line in answer.read().decode().splitlines() if line.startswith("jobplatform_open_streams")]
    return sum(float(line.split()[-1]) for line in lines)


def test_an_api_process_that_shuts_down_ends_its_streams(platform: Platform) -> None:
    """A deployment must not wait for streams: they end, and callers reconnect."""
    following = [stream(platform, "/v1/events") for _ in range(8)]
    os.kill(platform.head("api"), signal.SIGTERM)
    for item in following:
        list(item)
        item.close()
    eventually(lambda: not platform.pids("api"))
    process = platform.stack.start_api()
    platform.stack.wait_answers("the API", platform.stack.local_url("api", "/readyz"), process, "api")
