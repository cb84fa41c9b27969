"""The client's rules: which calls are retried, idempotency keys, classes of problems; both clients alike."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from jobplatform import client as package
from jobplatform.client import AsyncClient, Client, Invalid, JobRequest, NoAnswer, Problem, TooManyRequests, Unavailable
from jobplatform.client.calls import LONGEST_PAUSE, Call, RetryState, next_pause
from jobplatform.client.errors import problem_of

JOB = {
    "id": "01890000-0000-7000-8000-000000000000",
    **dict.fromkeys(("kind", "queue"), "x"),
    "state": "available",
    "status": "pending",
    **dict.fromkeys(("priority", "attempt", "max_attempts"), 1),
    **dict.fromkeys(("progress", "result", "error", "started_at", "completed_at")),
    "tags": [],
    **dict.fromkeys(("created_at", "run_at"), "2026-01-01T00:00:00Z"),
}
DOWN = problem_of(503, {"code": "ledger_unavailable"}, None)
UNKNOWN = problem_of(503, {"code": "outcome_unknown"}, None)
PROXY = problem_of(502, "<html>", None)
BUSY = problem_of(429, {"code": "rate_limited"}, "7")
SAFE, UNSAFE = Call("GET", "/"), Call("POST", "/", safe=False)


@pytest.mark.parametrize(
    ("call", "failure", "is_repeated"),
    [
        (SAFE, NoAnswer(), True),
        (SAFE, DOWN, True),
        (SAFE, UNKNOWN, True),
        (SAFE, PROXY, True),
        (SAFE, BUSY, True),
        (UNSAFE, NoAnswer(), False),
        (UNSAFE, DOWN, True),
        (UNSAFE, UNKNOWN, False),
        (UNSAFE, PROXY, False),
        (UNSAFE, BUSY, True),
        (SAFE, problem_of(409, {"code": "idempotency_in_progress"}, "2"), True),
        (SAFE, problem_of(500, {"code": "internal_error"}, None), False),
        (SAFE, problem_of(404, {"code": "job_not_found"}, None), False),
        (SAFE, problem_of(409, {"code": "not_cancellable"}, None), False),
        (SAFE, problem_of(422, {"code": "invalid_request"}, None), False),
    ],
)
def test_which_failures_are_retried(call: Call, failure: Any, is_repeated: bool) -> None:
    assert (next_pause(call, failure, 0, 30.0) is not None) is is_repeated


def test_pauses_double_and_retry_after_takes_precedence() -> None:
    pauses = [next_pause(SAFE, NoAnswer(), tries, 30.0) for tries in range(10)]
    for tries, pause in enumerate(pauses):
        longest = min(LONGEST_PAUSE, 0.2 * 2**tries)
        assert pause is not None and longest / 2 <= pause <= longest
    assert next_pause(SAFE, BUSY, 0, 30.0) == 7
    assert next_pause(SAFE, BUSY, 0, 6.9) is None, "the pause is longer than the retry time"


def answers(*result: Any) -> tuple[Client, list[httpx2.Request]]:
    seen: list[httpx2.Request] = []
    left = list(result)

    def handle(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        item = left.pop(0)
        if isinstance(item, Exception):
            raise item
        return item

    return Client("http://jobs", "jp_x", transport=httpx2.MockTransport(handle)), seen


def test_a_submission_is_one_job_however_often_it_is_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    gone = httpx2.ReadTimeout("gone")
    unknown = httpx2.Response(503, json={"code": "outcome_unknown"})
    client, seen = answers(gone, unknown, httpx2.ConnectError("no"), httpx2.Response(202, json=JOB))
    assert client.submit("x", {"a": 1}).state == "available"
    assert len(seen) == 4
    assert len({(item.headers["Idempotency-Key"], item.content) for item in seen}) == 1
    client, again = answers(httpx2.Response(202, json=JOB), httpx2.Response(202, json=JOB))
    client.submit("x")
    client.submit("x", idempotency_key="mine")
    assert again[0].headers["Idempotency-Key"] != again[1].headers["Idempotency-Key"] == "mine"


def test_a_refused_batch_ends_the_submission(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = httpx2.Response(202, json={"jobs": [{"id": JOB["id"]}, {"id": JOB["id"]}]})
    client, seen = answers(
        batch, httpx2.Response(422, json={"code": "invalid_request", "errors": [{"field": "0.kind"}]})
    )
    taken = []

    def requests():
        for number in range(5):
            taken.append(number)
            yield JobRequest("x", {"n": number})

    ids = client.submit_many(requests(), batch_size=2)
    assert taken == [], "nothing is sent before the first id is requested"
    next(ids), next(ids)
    assert taken == [0, 1], "and no more is taken than has to be"
    with pytest.raises(Invalid, match=r"0\.kind"):
        next(ids)
    assert seen[0].content.count(b"\n") == 1 and len({item.headers["Idempotency-Key"] for item in seen}) == 2


def test_the_retry_time_begins_with_the_first_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait that breaks off after half a minute is retried just like one that breaks off at once."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    retry_state = RetryState(30.0)
    now[0] += 3600
    assert retry_state.pause(SAFE, NoAnswer()) < 1
    now[0] += 29
    assert retry_state.pause(SAFE, NoAnswer()) < 1
    now[0] += 2
    with pytest.raises(NoAnswer):
        retry_state.pause(SAFE, NoAnswer())
    retry_state.reset()
    assert retry_state.pause(SAFE, NoAnswer()) < 1


def test_a_missing_answer_is_logged_once_while_the_call_is_retried(caplog: pytest.LogCaptureFixture) -> None:
    retry_state = RetryState(30.0)
    for _ in range(3):
        retry_state.pause(SAFE, NoAnswer("GET /: refused"))
    assert caplog.messages == ["GET /: refused: asking again for up to 30 s"]
    retry_state.reset()
    retry_state.pause(SAFE, BUSY)
    assert len(caplog.messages) == 1, "the API asks for a pause, nothing is wrong"


def test_a_stream_that_was_followed_to_its_end_ends_with_the_job() -> None:
    client, seen = answers(httpx2.Response(204), httpx2.Response(200, json=JOB))
    (end,) = client.stream(JOB["id"], last_id="7")
    assert end.name == "end" and end.job is not None and str(end.job.id) == JOB["id"]
    assert seen[0].headers["Last-Event-ID"] == "7"


def test_a_server_without_long_polling_is_polled_with_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    done = httpx2.Response(200, json={**JOB, "status": "completed", "state": "succeeded"})
    client, _ = answers(httpx2.Response(200, json=JOB), httpx2.Response(200, json=JOB), done)
    assert client.wait(JOB["id"]).succeeded
    assert len(pauses) == 2 and min(pauses) > 0.1


def test_a_pause_beyond_the_retry_time_raises_the_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    client, _ = answers(*[httpx2.Response(429, json={"code": "quota_exceeded"}, headers={"Retry-After": "31"})])
    with pytest.raises(TooManyRequests) as caught:
        client.submit("x")
    assert caught.value.retry_after == 31


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (503, {"code": "ledger_unavailable", "detail": "away"}, Unavailable),
        (502, "<html>a proxy</html>", Unavailable),
        (418, {"code": "teapot"}, Problem),
        (422, {"code": "invalid_request", "errors": [{"field": "a", "expected": "b", "got": "c"}]}, Invalid),
    ],
)
def test_each_problem_has_its_class(status: int, body: Any, kind: type[Problem]) -> None:
    problem = problem_of(status, body, None)
    assert type(problem) is kind and problem.status == status
    if isinstance(body, dict) and body.get("errors"):
        assert "a: expected b; got c" in str(problem)


def test_a_payload_that_is_not_json_is_refused_before_anything_is_sent() -> None:
    client, seen = answers()
    with pytest.raises(TypeError, match="expected JSON values"):
        client.submit("x", {"a": object()})
    assert seen == []


def test_both_clients_have_the_same_methods() -> None:
    def methods(kind: type) -> dict[str, Callable[..., Any]]:
        return {name: result for name, result in vars(kind).items() if inspect.isfunction(result) and name[0] != "_"}

    def shape(function: Callable[..., Any]) -> Any:
        return [
            (parameter.name, parameter.kind, parameter.default)
            for parameter in inspect.signature(function).parameters.values()
        ]

    plain, awaited = methods(Client), methods(AsyncClient)
    assert set(plain) == set(awaited)
    for name, function in plain.items():
        assert shape(function) == shape(awaited[name]), name
        assert function.__doc__ == awaited[name].__doc__, name
    assert {"Client", "AsyncClient"} <= set(package.__all__)


def test_the_client_imports_no_dependencies_of_the_servers() -> None:
    import subprocess
    import sys

    code = (
        "import sys, jobplatform.client\n"
        "heavy = {'sqlalchemy', 'celery', 'flask', 'psycopg2', 'kombu'} & set(sys.modules)\nsys.exit(bool(heavy))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
