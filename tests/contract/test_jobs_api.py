"""Endpoints for jobs: what they return, and what they refuse."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import UTC, datetime, timedelta
from itertools import islice
from uuid import UUID

import pytest

from jobplatform.ledger.ids import new_id
from tests.contract.conftest import EMAIL, Client
from tests.support.ledger_harness import LedgerHarness

FIELDS = {
    *("id", "kind", "queue", "state", "status", "priority", "attempt", "max_attempts", "progress", "result", "error"),
    *("tags", "created_at", "run_at", "started_at", "completed_at"),
}


def test_a_job_is_accepted_with_its_location(api: Client, harness: LedgerHarness) -> None:
    status, job, headers = api.post("/v1/jobs", {**EMAIL, "tags": ["a"], "priority": 9})
    assert (status, headers["Location"]) == (202, f"/v1/jobs/{job['id']}")
    assert set(job) >= FIELDS
    assert (job["state"], job["status"], job["priority"], job["tags"]) == ("available", "pending", 9, ["a"])
    assert api.get(headers["Location"])[1] == job
    assert harness.all("SELECT count(*)::int FROM jobs") == [1]


def test_a_scheduled_job_is_pending_until_its_time(api: Client) -> None:
    moment = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    job = api.submit(run_at=moment)
    assert (job["state"], job["status"]) == ("scheduled", "pending")


DEEP: dict = {}
for _ in range(400):
    DEEP = {"a": DEEP}
FUTURE = "2099-01-01T00:00:00Z"
BAD = [
    ("unknown kind", {"kind": "email.sent", "payload": {}}, 422, "unknown_kind", {"kind"}),
    ("no kind", {"payload": {}}, 422, "invalid_request", {"kind"}),
    ("no payload", {"kind": "email.send"}, 422, "invalid_request", {"payload"}),
    ("payload not an object", {**EMAIL, "payload": [1]}, 422, "invalid_request", {"payload"}),
    ("priority too high", {**EMAIL, "priority": 10}, 422, "invalid_request", {"priority"}),
    ("priority too low", {**EMAIL, "priority": -1}, 422, "invalid_request", {"priority"}),
    ("priority as text", {**EMAIL, "priority": "5"}, 422, "invalid_request", {"priority"}),
    ("priority as bool", {**EMAIL, "priority": True}, 422, "invalid_request", {"priority"}),
    ("run_at in the past", {**EMAIL, "run_at": "2001-01-01T00:00:00Z"}, 422, "invalid_request", {"run_at"}),
    ("run_at without zone", {**EMAIL, "run_at": "2099-01-01T00:00:00"}, 422, "invalid_request", {"run_at"}),
    ("run_at a number", {**EMAIL, "run_at": 4070908800}, 422, "invalid_request", {"run_at"}),
    ("run_at no time", {**EMAIL, "run_at": "tomorrow"}, 422, "invalid_request", {"run_at"}),
    ("start_by before run_at", {**EMAIL, "run_at": FUTURE, "start_by": "2098-01-01T00:00:00Z"}, 422, "invalid_request",
     {"start_by"}),
    ("max_attempts zero", {**EMAIL, "max_attempts": 0}, 422, "invalid_request", {"max_attempts"}),
    ("tags not a list", {**EMAIL, "tags": "a"}, 422, "invalid_request", {"tags"}),
    ("empty tag", {**EMAIL, "tags": [""]}, 422, "invalid_request", {"tags.0"}),
    ("two fields at once", {**EMAIL, "priority": 99, "colour": "red"}, 422, "invalid_request", {"priority", "colour"}),
    ("payload against its schema", {"kind": "email.send", "payload": {"to": ["nobody"], "colour": 1, "text": "x"}}, 422,
     "invalid_payload", {"payload.to.0", "payload.subject", "payload.colour"}),
    ("envelope and payload at once", {"kind": "email.send", "payload": {"to": "x", "subject": 5, "text": "x"},
     "priority": 99}, 422, "invalid_request", {"priority", "payload.to", "payload.subject"}),
    ("header injection", {"kind": "email.send", "payload": {"to": ["a@b.c"], "subject": "a\nBcc: x@y.z", "text": "x"}},
     422, "invalid_payload", {"payload.subject"}),
    ("path outside the root", {"kind": "video.transcode", "payload": {"source": {"path": "/etc/passwd"},
     "preset": "h264-360p"}}, 422, "invalid_payload", {"payload.source.path"}),
    ("path with dots", {"kind": "video.transcode", "payload": {"source": {"path": "../../etc/passwd"},
     "preset": "h264-360p"}}, 422, "invalid_payload", {"payload.source.path"}),
    ("unknown preset", {"kind": "video.transcode", "payload": {"source": {"path": "a.mp4"}, "preset": "8k"}}, 422,
     "invalid_payload", {"payload.preset"}),
    ("empty conversation", {"kind": "llm.chat", "payload": {"messages": []}}, 422, "invalid_payload",
     {"payload.messages"}),
    ("NUL character", {"kind": "llm.chat", "payload": {"messages": [{"role": "user", "content": "a\x00b"}]}}, 422,
     "invalid_request", {"payload.messages.0.content"}),
    ("NUL character in a tag", {**EMAIL, "tags": ["a\x00"]}, 422, "invalid_request", {"tags.0"}),
    ("can't be written as JSON", {"kind": "email.send", "payload": {"to": ["a@b.c"], "subject": "x", "text": "x",
     "variables": DEEP}}, 422, "invalid_payload", {"payload"}),
    ("run_at out of range", {**EMAIL, "run_at": "9999-12-31T23:59:59-12:00"}, 422, "invalid_request", {"run_at"}),
    ("a time as digits", {**EMAIL, "run_at": "1900000000"}, 422, "invalid_request", {"run_at"}),
]  # fmt: skip


@pytest.mark.parametrize(("body", "status", "code", "fields"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_bad_submissions_are_refused_and_change_nothing(
    api: Client, harness: LedgerHarness, body, status, code, fields
) -> None:
    got, problem, headers = api.post("/v1/jobs", body)
    assert (got, problem["code"]) == (status, code), problem
    assert headers["Content-Type"] == "application/problem+json"
    assert {error["field"] for error in problem["errors"]} == fields
    assert all(error["expected"] for error in problem["errors"])
    for table in ("jobs", "job_events", "queue_counters", "idempotency_keys"):
        assert harness.all(f"SELECT count(*)::int FROM {table}") == [0]


def test_an_unknown_kind_suggests_the_nearest_one(api: Client) -> None:
    _, problem, _ = api.post("/v1/jobs", {"kind": "email.sned", "payload": {}})
    assert "did you mean 'email.send'?" in problem["detail"]


@pytest.mark.parametrize(
    ("data", "content_type", "status", "code"),
    [
        (b"", "application/json", 400, "not_json"),
        (b"{", "application/json", 400, "not_json"),
        (b"[]", "application/json", 400, "not_json"),
        (b'"x"', "application/json", 400, "not_json"),
        (b"\xff\xfe", "application/json", 400, "not_json"),
        (b'{"kind": NaN}', "application/json", 400, "not_json"),
        (b"kind=email.send", "application/x-www-form-urlencoded", 415, "unsupported_media_type"),
        (b'{"a": "' + b"x" * 60_000 + b'"}', "application/json", 413, "body_too_large"),
    ],
)
def test_bodies_that_are_not_json_or_too_large(api: Client, data, content_type, status, code) -> None:
    got, problem, _ = api.call("POST", "/v1/jobs", data=data, headers={"Content-Type": content_type})
    assert (got, problem["code"]) == (status, code)


def test_a_repetition_is_safe_even_after_its_run_at(api: Client, harness: LedgerHarness, monkeypatch) -> None:
    from jobplatform.usecases import submit_job

    soon = (datetime.now(UTC) + timedelta(seconds=60)).isoformat()
    headers = {"Idempotency-Key": "timed"}
    _, first, _ = api.post("/v1/jobs", {**EMAIL, "run_at": soon}, headers=headers)
    monkeypatch.setattr(submit_job, "CLOCK_TOLERANCE", timedelta(seconds=-3600))  # an hour has gone by
    status, again, _ = api.post("/v1/jobs", {**EMAIL, "run_at": soon}, headers=headers)
    assert (status, again["id"]) == (202, first["id"])
    status, _, _ = api.post("/v1/jobs", {**EMAIL, "run_at": soon}, headers={"Idempotency-Key": "another"})
    assert status == 422
    assert harness.all("SELECT count(*)::int FROM idempotency_keys") == [1], "a refused submission uses up no key"


def test_filters_take_any_time_and_refuse_null_characters(api: Client) -> None:
    assert api.get("/v1/jobs?created_before=1960-01-01T00:00:00Z")[0] == 200
    for wrong in ("tag=%00", "kind=a%00", "queue=%00"):
        assert api.get(f"/v1/jobs?{wrong}")[0] == 422
    job = api.submit()
    assert api.post(f"/v1/jobs/{job['id']}/cancel", {"reason": "a\x00"})[0] == 422


def test_text_that_only_looks_like_a_null_character_is_text(api: Client) -> None:
    text = "the escape \\u0000 in JSON"
    payload = {"to": ["a@b.c"], "subject": "x", "text": text}
    assert api.post("/v1/jobs", {"kind": "email.send", "payload": payload})[0] == 202


def test_an_idempotency_key_makes_retries_safe(api: Client, stranger: Client) -> None:
    headers = {"Idempotency-Key": "order-1"}
    _, first, _ = api.post("/v1/jobs", EMAIL, headers=headers)
    status, again, said = api.post("/v1/jobs", EMAIL, headers=headers)
    assert (status, again["id"], said["Idempotent-Replayed"]) == (202, first["id"], "true")
    status, problem, _ = api.post("/v1/jobs", {**EMAIL, "priority": 1}, headers=headers)
    assert (status, problem["code"]) == (422, "idempotency_key_reused")
    _, other, _ = stranger.post("/v1/jobs", EMAIL, headers=headers)
    assert other["id"] != first["id"], "keys of different tenants are independent"
    assert api.post("/v1/jobs", EMAIL, headers={"Idempotency-Key": "x" * 256})[0] == 422


@pytest.mark.parametrize("path", ["", "/runs", "/events", "/artifacts", "/cancel"])
def test_foreign_and_unknown_ids_are_the_same_404(api: Client, stranger: Client, path: str) -> None:
    job = api.submit()
    method = "POST" if path == "/cancel" else "GET"
    status, problem, _ = stranger.call(method, f"/v1/jobs/{job['id']}{path}")
    assert (status, problem["code"]) == (404, "job_not_found")
    for unknown in ("01890000-0000-7000-8000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"):
        assert api.call(method, f"/v1/jobs/{unknown}{path}")[0] == 404
    assert api.call(method, f"/v1/jobs/17{path}")[0] == 404
    assert api.get(f"/v1/jobs/{job['id']}")[1]["state"] == "available"


def test_cancel_is_immediate_and_idempotent_and_too_late_is_a_409(api: Client, harness: LedgerHarness) -> None:
    job = api.submit()
    status, cancelled, _ = api.post(f"/v1/jobs/{job['id']}/cancel", {"reason": "changed my mind"})
    assert (status, cancelled["state"], cancelled["status"]) == (200, "cancelled", "failed")
    assert cancelled["error"]["message"] == "changed my mind"
    assert api.post(f"/v1/jobs/{job['id']}/cancel")[0] == 200
    done, lease_id = harness.running()
    harness.settle(done, lease_id)
    status, problem, _ = api.post(f"/v1/jobs/{done}/cancel")
    assert (status, problem["code"]) == (409, "not_cancellable")
    running, _ = harness.running()
    status, body, _ = api.post(f"/v1/jobs/{running}/cancel")
    assert (status, body["state"]) == (202, "running") and body["cancel_requested_at"]
    assert api.post(f"/v1/jobs/{running}/cancel", {"colour": 1})[0] == 422


def test_lists_return_the_requested_fields_and_filter_by_error(api: Client, harness: LedgerHarness) -> None:
    dead = api.submit()["id"]
    api.submit()
    harness.dispatch(UUID(dead))
    lease = new_id()
    harness.claim(UUID(dead), lease, kind="email.send")
    harness.settle(UUID(dead), lease, "failed", "dead", error={"code": "bad_smell", "message": "x", "retryable": False})
    _, page, _ = api.get("/v1/jobs?error_code=bad_smell&fields=id,error")
    assert page["jobs"] == [{"id": dead, "error": {"code": "bad_smell", "message": "x", "retryable": False}}]
    assert api.get("/v1/jobs?error_code=none")[1]["jobs"] == []
    assert api.get(f"/v1/jobs/{dead}?fields=state, status")[1] == {"state": "dead", "status": "failed"}
    status, problem, _ = api.get("/v1/jobs?fields=id,payload")
    assert (status, problem["errors"][0]["field"]) == (422, "fields") and "'payload'" in str(problem["errors"])


def test_an_unchanged_job_is_not_sent_again(api: Client) -> None:
    job = api.submit()
    path = f"/v1/jobs/{job['id']}"
    _, _, headers = api.get(path)
    tag = {"If-None-Match": headers["ETag"]}
    status, body, again = api.get(path, headers=tag)
    assert (status, body, again["ETag"]) == (304, b"", headers["ETag"])
    api.post(f"{path}/cancel")
    status, rows, changed = api.get(path, headers=tag)
    assert (status, rows["state"]) == (200, "cancelled") and changed["ETag"] != headers["ETag"]
    assert "private" in changed["Cache-Control"]


def test_lists_filter_and_page(api: Client, stranger: Client) -> None:
    ids = [api.submit(tags=[f"t{number % 2}"])["id"] for number in range(5)]
    status, page, _ = api.get("/v1/jobs?limit=3")
    assert status == 200 and [job["id"] for job in page["jobs"]] == ids[:1:-1]
    _, rest, _ = api.get(f"/v1/jobs?limit=3&cursor={page['next_cursor']}")
    assert [job["id"] for job in rest["jobs"]] == ids[1::-1] and rest["next_cursor"] is None
    assert len(api.get("/v1/jobs?tag=t1&state=available&kind=email.send&queue=email")[1]["jobs"]) == 2
    assert api.get("/v1/jobs?created_after=2099-01-01T00:00:00Z")[1]["jobs"] == []
    assert stranger.get("/v1/jobs")[1] == {"jobs": [], "next_cursor": None}
    for wrong in ("state=lost", "limit=0", "limit=9999", "cursor=17", "colour=red", "created_after=yesterday"):
        status, problem, _ = api.get(f"/v1/jobs?{wrong}")
        assert (status, problem["errors"][0]["field"]) == (422, wrong.split("=")[0])


def test_events_and_runs_are_the_history(api: Client, harness: LedgerHarness) -> None:
    job_id, lease_id = harness.running()
    harness.settle(job_id, lease_id, usage={"total_tokens": 3})
    _, rows, _ = api.get(f"/v1/jobs/{job_id}/events")
    assert [event["event"] for event in rows["events"]] == ["submitted", "dispatched", "started", "succeeded"]
    _, rest, _ = api.get(f"/v1/jobs/{job_id}/events?after={rows['events'][1]['id']}")
    assert [event["event"] for event in rest["events"]] == ["started", "succeeded"]
    _, runs, _ = api.get(f"/v1/jobs/{job_id}/runs")
    assert [(run["run_no"], run["outcome"], run["usage"]) for run in runs["runs"]] == [
        (1, "succeeded", {"total_tokens": 3})
    ]


def test_waiting_without_an_event_loop_is_bounded_and_ends_with_the_job(api: Client, harness: LedgerHarness) -> None:
    job_id, lease_id = harness.running()
    with ThreadPoolExecutor(4) as pool:
        waits = [pool.submit(api.get, f"/v1/jobs/{job_id}?wait=30") for _ in range(4)]
        # two may wait (the default): the other two get the current state at once
        early = [wait.result()[1]["state"] for wait in islice(as_completed(waits), 2)]
        harness.settle(job_id, lease_id)
        states = sorted(wait.result()[1]["state"] for wait in waits)
    assert early == ["running", "running"]
    assert states == ["running", "running", "succeeded", "succeeded"]


@pytest.mark.parametrize("wait", ["-1", "61", "soon"])
def test_waits_out_of_range_are_refused(api: Client, wait: str) -> None:
    job = api.submit()
    status, problem, _ = api.get(f"/v1/jobs/{job['id']}?wait={wait}")
    assert (status, problem["errors"][0]["field"]) == (422, "wait")


def test_an_unavailable_ledger_is_a_503_with_retry_after(app, api: Client) -> None:
    from dataclasses import replace

    from jobplatform.ledger.session import open_ledger

    services = app.extensions["services"]
    away = open_ledger("postgresql+psycopg2://x:x@127.0.0.1:1/x", name="away")
    app.extensions["services"] = replace(services, ledger=away)
    for method, path, body in (("POST", "/v1/jobs", EMAIL), ("GET", "/v1/jobs", None), ("GET", "/readyz", None)):
        status, problem, headers = api.call(method, path, body)
        assert (status, problem["code"]) == (503, "ledger_unavailable")
        assert headers["Retry-After"]
    assert api.get("/healthz")[0] == 200
    app.extensions["services"] = services
