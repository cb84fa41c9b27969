"""The fast path of `POST /v1/jobs` and `GET /v1/jobs/{id}`: groups of requests, and the same responses as Flask."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from api.app import create_app
from api.fast_path import FastPath
from jobplatform.config import Settings
from jobplatform.devstack.proxy import proxied
from jobplatform.domain.access import Scope as Access
from jobplatform.errors import LedgerUnavailable, OutcomeUnknown
from jobplatform.ledger import keys
from jobplatform.ledger.ids import new_id
from jobplatform.ledger.session import open_ledger
from tests.support.ledger_harness import LedgerHarness, registry
from tests.support.waiting import eventually


class Scope(SimpleNamespace):
    """The part of granian's request scope that the fast path reads."""


def scope(key: str, **headers: str) -> Scope:
    given = {"authorization": f"Bearer {key}", "content-type": "application/json", **headers}
    return Scope(path="/v1/jobs", method="POST", headers=given)


def read_scope(key: str, job_id: object, query: str = "", **headers: str) -> Scope:
    given = {"authorization": f"Bearer {key}", **headers}
    return Scope(path=f"/v1/jobs/{job_id}", method="GET", query_string=query, headers=given)


def read(fast_path: FastPath, *scopes: Scope) -> list[Any]:
    return play(fast_path, [(item, b"") for item in scopes])


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
    with proxied(harness.url) as (url, proxy):
        fast_path = make_fast_path(open_ledger(url, name="cut"))
        assert play(fast_path, [(scope(key), body())])[0][0] == 202
        proxy.losing_answers.set()
        replies = play(fast_path, [(scope(key), body()) for _ in range(5)])
        assert {(reply[0], orjson.loads(reply[2])["code"]) for reply in replies} == {(503, OutcomeUnknown.code)}
        proxy.losing_answers.clear()
        assert play(fast_path, [(scope(key), body())])[0][0] == 202


def test_an_unavailable_ledger_is_503_with_retry_after(harness: LedgerHarness, key: str) -> None:
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


# --- reads


def test_concurrent_reads_share_statements_and_each_gets_its_job(harness: LedgerHarness, key: str) -> None:
    live, (done, lease) = harness.submit(), harness.running()
    harness.settle(done, lease, result={"r": 1})
    harness.do("UPDATE api_keys SET last_used_at = NULL")
    wanted = [live, done] * 100
    before = harness.all("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()")[0]
    replies = read(make_fast_path(harness.ledger), *[read_scope(key, job_id) for job_id in wanted])
    assert [orjson.loads(reply[2])["id"] for reply in replies] == list(map(str, wanted))
    assert {orjson.loads(reply[2])["state"] for reply in replies} == {"available", "succeeded"}
    eventually(lambda: harness.all("SELECT pg_stat_force_next_flush()"))
    commits = harness.all("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()")[0] - before
    assert commits < 100, "reads per statement depend on the load of the machine"
    assert harness.all("SELECT last_used_at IS NOT NULL FROM api_keys") == [True]


def test_a_read_has_the_status_headers_and_body_of_flasks_answer(
    harness: LedgerHarness, key: str, tmp_path: Path
) -> None:
    job_id = harness.submit(tags=["a"])
    client = create_app(Settings(database_url=harness.url, artifact_url=tmp_path.as_uri())).test_client()
    for given in ({}, {"if-none-match": "*"}, {"if-none-match": '"other"'}):
        expected = client.get(f"/v1/jobs/{job_id}", headers={"Authorization": f"Bearer {key}", **given})
        ((status, headers, content),) = read(make_fast_path(harness.ledger), read_scope(key, job_id, **given))
        assert (status, content) == (expected.status_code, expected.data)
        names = {name.lower(): value for name, value in expected.headers.items()}
        assert dict(headers) == {name: value for name, value in names.items() if name not in ("content-length", "date")}


def test_an_unchanged_job_is_304_until_it_changes(harness: LedgerHarness, key: str) -> None:
    job_id, fast_path = harness.submit(), make_fast_path(harness.ledger)
    ((_, headers, _),) = read(fast_path, read_scope(key, job_id))
    tag = dict(headers)["etag"]
    ((status, headers, content),) = read(fast_path, read_scope(key, job_id, **{"if-none-match": f'"x", {tag}'}))
    assert (status, dict(headers)["etag"], content) == (304, tag, b"")
    harness.do("UPDATE jobs SET progress = '{\"done\": 1}' WHERE id = :id", id=job_id)
    ((status, _, _),) = read(fast_path, read_scope(key, job_id, **{"if-none-match": tag}))
    assert status == 200


def test_reads_that_need_more_are_left_to_flask(harness: LedgerHarness, key: str) -> None:
    job_id = harness.submit()
    with harness.ledger.transaction() as connection:
        other = keys.create_key(connection, keys.create_tenant(connection, "other"), "test")
        limited = keys.create_key(connection, harness.tenant_id, "limited", keys.Grants(requests_per_minute=60))
        submits = keys.create_key(connection, harness.tenant_id, "submits", keys.Grants(scopes=(Access.SUBMIT,)))
        revoked = keys.create_key(connection, harness.tenant_id, "revoked")
    harness.do("UPDATE api_keys SET revoked_at = clock_timestamp() WHERE name = 'revoked'")
    scopes = [
        read_scope(key, job_id, "wait=1"),
        read_scope(key, job_id, prefer="wait=1"),
        read_scope(key, new_id()),
        *(read_scope(item, job_id) for item in (other, limited, submits, revoked, "jp_wrong")),
        Scope(path=f"/v1/jobs/{job_id}", method="GET", query_string="", headers={}),
        Scope(path=f"/v1/jobs/{job_id}/runs", method="GET", query_string="", headers={}),
        Scope(path=f"/v1/jobs/{job_id}", method="DELETE", query_string="", headers={}),
    ]
    replies = read(make_fast_path(harness.ledger), *scopes, read_scope(key, job_id))
    assert replies[:-1] == [None] * len(scopes)
    assert replies[-1][0] == 200


def test_a_read_without_a_ledger_is_503(harness: LedgerHarness, key: str) -> None:
    fast_path = make_fast_path(open_ledger(harness.url.replace("127.0.0.1:", "127.0.0.1:1"), name="away"))
    ((status, headers, content),) = read(fast_path, read_scope(key, new_id()))
    assert (status, orjson.loads(content)["code"]) == (503, LedgerUnavailable.code)
    assert dict(headers)["retry-after"]
