"""Limits, shares and quotas over HTTP: permissions, answers, and the effects on callers."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from jobplatform.ledger import keys
from tests.contract.conftest import EMAIL, Client
from tests.support.ledger_harness import LedgerHarness


@pytest.fixture
def operator(app: Any, harness: LedgerHarness) -> Client:
    with harness.ledger.transaction() as connection:
        return Client(
            app.test_client(), keys.create_key(connection, harness.tenant_id, "operator", keys.Grants(is_operator=True))
        )


@pytest.fixture
def lowly(app: Any, harness: LedgerHarness) -> Client:
    with harness.ledger.transaction() as connection:
        return Client(
            app.test_client(), keys.create_key(connection, harness.tenant_id, "lowly", keys.Grants(max_priority=4))
        )


def test_a_limit_is_set_seen_and_removed(operator: Client) -> None:
    status, limit, _ = operator.call("PUT", "/v1/limits/domain:*", {"max_concurrent": 5})
    assert (status, limit["name"], limit["max_concurrent"], limit["updated_by"]) == (200, "domain:*", 5, "operator")
    operator.call("PUT", "/v1/limits/provider:openai", {"rate_units": 60, "rate_seconds": 60, "sliding": True})
    assert [item["name"] for item in operator.get("/v1/limits")[1]["limits"]] == ["domain:*", "provider:openai"]
    assert operator.call("DELETE", "/v1/limits/domain:*")[0] == 204
    status, problem, _ = operator.call("DELETE", "/v1/limits/domain:*")
    assert (status, problem["code"]) == (404, "limit_not_found") and "provider:openai" in problem["detail"]


def test_the_list_shows_usage_and_waiting_tenants(operator: Client, harness: LedgerHarness) -> None:
    operator.call("PUT", "/v1/limits/domain:*", {"max_concurrent": 1})
    job = operator.submit()
    operator.submit()
    harness.dispatch(UUID(job["id"]))
    (limit,) = operator.get("/v1/limits")[1]["limits"]
    (key,) = limit["keys"]
    assert (key["key"], key["dispatched"], key["waiting_lines"], key["waiting_tenants"]) == (
        "domain:example.com",
        1,
        1,
        1,
    )
    assert key["oldest_seconds"] >= 0
    status, hold, _ = operator.call("PUT", "/v1/limits/domain:example.com/pause", {"seconds": 60, "reason": "moving"})
    assert status == 200 and hold["paused_until"]
    (key,) = operator.get("/v1/limits")[1]["limits"][0]["keys"]
    assert key["paused_reason"] == "moving (operator)"
    operator.call("PUT", "/v1/limits/domain:example.com/pause", {"seconds": 0})
    (key,) = operator.get("/v1/limits")[1]["limits"][0]["keys"]
    assert key["paused_until"] is None


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/limits/Bad Name", {"max_concurrent": 1}, "name"),
        ("/v1/limits/a:1", {}, "max_concurrent"),
        ("/v1/limits/a:1", {"rate_units": 1}, "rate_units"),
        ("/v1/limits/a:1", {"max_concurrent": 1, "burst_units": 5}, "rate_units"),
        ("/v1/limits/a:1", {"rate_units": 1, "rate_seconds": 1, "burst_units": 2, "sliding": True}, "burst_units"),
        ("/v1/limits/a:1", {"max_concurrent": -1}, "max_concurrent"),
        ("/v1/limits/a:1", {"max_concurent": 1}, "max_concurent"),
        ("/v1/limits/a:*/pause", {"seconds": 1}, "key"),
        ("/v1/quotas/*/nowhere", {"max_waiting": 1}, "queue"),
        ("/v1/tenants/x", {"weight": 0}, "weight"),
    ],
)
def test_invalid_values_are_reported_by_field(operator: Client, path: str, body: Any, field: str) -> None:
    status, problem, _ = operator.call("PUT", path, body)
    assert status == 422, problem
    assert field in [error["field"] for error in problem["errors"]]
    assert operator.get("/v1/limits")[1]["limits"] == []


def test_only_operators_see_and_change_what_concerns_all_tenants(api: Client) -> None:
    for method, path, body in (
        ("GET", "/v1/limits", None),
        ("PUT", "/v1/limits/a:1", {"max_concurrent": 1}),
        ("DELETE", "/v1/limits/a:1", None),
        ("PUT", "/v1/limits/a:1/pause", {"seconds": 1}),
        ("GET", "/v1/tenants", None),
        ("PUT", "/v1/tenants/test", {"weight": 2}),
        ("GET", "/v1/quotas", None),
        ("PUT", "/v1/quotas/*/*", {"max_waiting": 1}),
        ("DELETE", "/v1/quotas/*/*", None),
    ):
        status, problem, _ = api.call(method, path, body)
        assert (status, problem["code"]) == (403, "not_allowed"), (method, path)
        assert "jobplatform keys create --operator" in problem["detail"]


def test_weights_are_set_and_listed(operator: Client, harness: LedgerHarness) -> None:
    (name,) = harness.all("SELECT name FROM tenants")
    assert operator.call("PUT", f"/v1/tenants/{name}", {"weight": 2.5})[:2] == (200, {"name": name, "weight": 2.5})
    assert operator.get("/v1/tenants")[1] == {"tenants": [{"name": name, "weight": 2.5}], "next_cursor": None}
    assert operator.call("PUT", "/v1/tenants/nobody", {"weight": 2.5})[0] == 404


def test_a_key_can_not_exceed_its_maximum_priority(lowly: Client, harness: LedgerHarness) -> None:
    for path, body in (
        ("/v1/jobs", {**EMAIL, "priority": 5}),
        ("/v1/workflows", {"name": "w", "flow": {"chain": [{**EMAIL, "priority": 5}]}}),
    ):
        status, problem, _ = lowly.post(path, body)
        assert (status, problem["code"]) == (403, "priority_too_high"), problem
        assert "at most 4" in problem["detail"]
    assert lowly.call("PUT", "/v1/schedules/s", {**EMAIL, "every_seconds": 60, "priority": 9})[0] == 403
    job = lowly.submit(priority=4)
    assert lowly.call("PATCH", f"/v1/jobs/{job['id']}", {"priority": 5})[0] == 403
    assert harness.all("SELECT priority FROM jobs") == [4]


def test_jobs_over_quota_are_refused_with_retry_after_and_repetitions_are_not(
    operator: Client, api: Client, harness: LedgerHarness
) -> None:
    assert operator.call("PUT", "/v1/quotas/*/email", {"max_waiting": 2})[0] == 204
    key = {"headers": {"Idempotency-Key": "first"}}
    first = api.post("/v1/jobs", EMAIL, **key)[1]["id"]
    api.submit()
    status, problem, headers = api.post("/v1/jobs", EMAIL, headers={"Idempotency-Key": "third"})
    assert (status, problem["code"]) == (429, "quota_exceeded") and int(headers["Retry-After"]) > 0
    assert api.post("/v1/jobs", EMAIL, **key)[1]["id"] == first, "the job exists already"
    status, problem, _ = api.post("/v1/workflows", {"name": "w", "flow": {"chain": [EMAIL]}})
    assert (status, problem["code"]) == (429, "quota_exceeded")
    harness.dispatch(UUID(first))
    assert api.post("/v1/jobs", EMAIL, headers={"Idempotency-Key": "third"})[0] == 202, "a job in flight is not waiting"
    (name,) = harness.all("SELECT name FROM tenants")
    operator.call("PUT", f"/v1/quotas/{name}/email", {"max_waiting": 1000})
    api.submit()
    assert len(operator.get("/v1/quotas")[1]["quotas"]) == 2
    assert operator.call("DELETE", f"/v1/quotas/{name}/email")[0] == 204
    assert operator.call("DELETE", f"/v1/quotas/{name}/email")[0] == 404
    assert api.post("/v1/jobs", EMAIL)[0] == 429


def test_live_jobs_across_all_queues_have_their_own_quota(
    operator: Client, api: Client, harness: LedgerHarness
) -> None:
    """Whatever their state (waiting, in flight or dead), and however they are submitted."""
    chat = {"kind": "llm.chat", "payload": {"messages": [{"role": "user", "content": "hi"}]}}
    assert operator.call("PUT", "/v1/quotas/*/+", {"max_waiting": 4})[0] == 204
    job = api.submit()
    assert api.post("/v1/jobs", chat)[0] == 202
    batch = [EMAIL, chat, chat, EMAIL]
    status, problem, _ = api.post("/v1/jobs/batch", batch)
    assert (status, problem["code"]) == (429, "quota_exceeded"), problem
    status, answer, _ = api.post("/v1/jobs/batch?per_item=true", batch)
    assert status == 202 and ["problem" in item for item in answer["jobs"]] == [False, False, True, True], answer
    status, problem, _ = api.post("/v1/workflows", {"flow": {"chain": [EMAIL]}})
    assert (status, problem["code"]) == (429, "quota_exceeded") and "more live jobs" in problem["detail"]
    harness.dispatch(UUID(job["id"]))
    assert api.post("/v1/jobs", chat)[0] == 429, "a job in flight is still live"
    assert api.post(f"/v1/jobs/{job['id']}/cancel")[0] in (200, 202)
    assert api.post("/v1/jobs", chat)[0] == 202
    (name,) = harness.all("SELECT name FROM tenants")
    assert operator.call("PUT", f"/v1/quotas/{name}/+", {"max_waiting": 6})[0] == 204
    status, problem, _ = api.post("/v1/workflows", {"flow": {"chain": [EMAIL, chat, EMAIL]}})
    assert status == 429, "no single queue gets too many of them, but all together do"
    assert api.post("/v1/workflows", {"flow": {"chain": [EMAIL, chat]}})[0] == 202
    harness.assert_conserved()


def test_retry_after_follows_the_measured_rate(operator: Client, api: Client, harness: LedgerHarness) -> None:
    operator.call("PUT", "/v1/quotas/*/*", {"max_waiting": 0})
    assert "a guess" in api.post("/v1/jobs", EMAIL)[1]["detail"]
    # ten jobs have ended in the last hundred seconds: six for each minute
    harness.do("UPDATE quota_samples SET old_at = old_at - interval '100 s'")
    harness.do(
        "INSERT INTO queue_counters (tenant_id, queue, slot, finished, accepted) VALUES (:t, 'email', 0, 10, 10)",
        t=harness.tenant_id,
    )
    status, problem, headers = api.post("/v1/jobs", EMAIL)
    assert status == 429 and headers["Retry-After"] in ("10", "11") and "a guess" not in problem["detail"]


def test_names_that_postgres_can_not_store_are_not_found(operator: Client) -> None:
    for method, path, body in (
        ("DELETE", "/v1/limits/%00", None),
        ("DELETE", "/v1/quotas/%00/email", None),
        ("PUT", "/v1/quotas/%00/email", {"max_waiting": 1}),
        ("PUT", "/v1/tenants/%00", {"weight": 1}),
    ):
        assert operator.call(method, path, body)[0] == 404, path
