"""The fast path of `POST /v1/jobs`: group commit, and the same responses as Flask."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from api.fast_path import FastPath
from jobplatform.devstack.proxy import proxied
from jobplatform.errors import LedgerUnavailable, OutcomeUnknown
from jobplatform.ledger import keys
from tests.support.ledger_harness import LedgerHarness, registry


class Scope(SimpleNamespace):
    """The part of granian's request scope that the fast path reads."""


def scope(key: str, **headers: str) -> Scope:
    given = {"authorization": f"Bearer {key}", "content-type": "application/json", **headers}
    return Scope(path="/v1/jobs", method="POST", headers=given)


def body(**order: Any) -> bytes:
    return orjson.dumps({"kind": "test.echo", "payload": {"n": 1}, **order})


@pytest.fixture
def key(harness: LedgerHarness) -> str:
    with harness.ledger.transaction() as connection:
        return keys.create_key(connection, harness.tenant_id, "test")


def make_fast_path(ledger) -> FastPath:
    services: Any = SimpleNamespace(ledger=ledger, hints=None, kinds=registry())
    return FastPath(services)


def play(fast_path: FastPath, requests: list[tuple[Any, bytes]]) -> list[Any]:
    async def all_at_once() -> list[Any]:
        return list(await asyncio.gather(*[fast_path.answer(*request) for request in requests]))

    return asyncio.run(all_at_once())


def test_many_concurrent_submissions_are_accepted_in_few_commits(harness: LedgerHarness, key: str) -> None:
    before = harness.all("SELECT pg_current_xact_id()::text::bigint")[0]
    replies = play(
        make_fast_path(harness.ledger), [(scope(key), body(priority=n % 10, tags=[f"t{n}"])) for n in range(300)]
    )
    commits = harness.all("SELECT pg_current_xact_id()::text::bigint")[0] - before
    assert {reply[0] for reply in replies} == {202}
    assert commits < 100, "submissions per commit depend on the load of the machine"
    jobs = [orjson.loads(reply[2]) for reply in replies]
    assert len({job["id"] for job in jobs}) == 300
    assert [job["tags"] for job in jobs] == [[f"t{n}"] for n in range(300)], "each request gets its own job"
    assert dict(replies[0][1])["location"] == f"/v1/jobs/{jobs[0]['id']}"
    assert harness.all("SELECT count(*)::int FROM jobs") == [300]
    assert set(harness.all("SELECT event FROM job_events")) == {"submitted"}
    harness.assert_conserved()


def test_special_and_invalid_submissions_are_left_to_flask_and_affect_no_others(
    harness: LedgerHarness, key: str
) -> None:
    long_ago = "2001-01-01T00:00:00Z"
    strange = [
        (scope(key), b"{not json"),
        (scope(key), body(kind="no.such")),
        (scope(key), body(priority=77)),
        (scope(key), body(run_at=long_ago)),
        (scope("jp_wrong"), body()),
        (scope(key, **{"idempotency-key": "k"}), body()),
        (scope(key), body(payload={"a": "x\x00y"})),
        (scope(key), body(payload={"a": "x" * 20_000})),
    ]
    replies = play(make_fast_path(harness.ledger), [*strange, (scope(key), body()), (scope(key), body())])
    assert replies[: len(strange)] == [None] * len(strange)
    assert [reply[0] for reply in replies[len(strange) :]] == [202, 202]
    assert harness.all("SELECT count(*)::int FROM jobs") == [2]
    harness.assert_conserved()


def test_a_submission_that_the_ledger_refuses_fails_no_other_submission(harness: LedgerHarness, key: str) -> None:
    harness.do("ALTER TABLE jobs ADD CONSTRAINT poison CHECK (NOT tags @> '{poison}')")
    fast_path = make_fast_path(harness.ledger)
    first = play(fast_path, [(scope(key), body()), (scope(key), body(tags=["poison"])), (scope(key), body())])
    assert None in first, "the submissions of a failed batch are left to Flask, one by one"
    assert play(fast_path, [(scope(key), body())])[0][0] == 202


def test_after_a_lost_response_every_caller_of_the_batch_gets_outcome_unknown(harness: LedgerHarness, key: str) -> None:
    from jobplatform.ledger.session import open_ledger

    with proxied(harness.url) as (url, proxy):
        fast_path = make_fast_path(open_ledger(url, name="cut"))
        assert play(fast_path, [(scope(key), body())])[0][0] == 202
        proxy.losing_answers.set()
        replies = play(fast_path, [(scope(key), body()) for _ in range(5)])
        assert {(reply[0], orjson.loads(reply[2])["code"]) for reply in replies} == {(503, OutcomeUnknown.code)}
        proxy.losing_answers.clear()
        assert play(fast_path, [(scope(key), body())])[0][0] == 202


def test_an_unavailable_ledger_is_503_with_retry_after(harness: LedgerHarness, key: str) -> None:
    from jobplatform.ledger.session import open_ledger

    fast_path = make_fast_path(open_ledger(harness.url.replace("127.0.0.1:", "127.0.0.1:1"), name="away"))
    ((status, headers, content),) = play(fast_path, [(scope(key), body())])
    assert (status, orjson.loads(content)["code"]) == (503, LedgerUnavailable.code)
    assert dict(headers)["retry-after"]


def test_a_quota_of_live_jobs_applies_to_all_queues_together(harness: LedgerHarness, key: str) -> None:
    harness.do("INSERT INTO quotas (tenant, queue, max_waiting, updated_by) VALUES ('*', '+', 3, 'test')")
    fast_path = make_fast_path(harness.ledger)
    play(
        fast_path, [(scope(key), body(kind=kind)) for kind in ("test.echo", "test.video", "test.llm") for _ in range(4)]
    )
    assert harness.all("SELECT count(*) <= 3 FROM jobs") == [True], "submissions left to Flask check the quota again"
    play(fast_path, [(scope(key), body()) for _ in range(5)])
    assert harness.all("SELECT count(*) <= 3 FROM jobs") == [True]
    harness.assert_conserved()
