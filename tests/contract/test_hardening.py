"""Attacks from outside: extreme dates, deep nesting, page headers, redirects, endless schedules."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import text

from tests.contract.conftest import EMAIL, Client
from tests.support.ledger_harness import LedgerHarness

DAILY = {"kind": "email.send", "payload": EMAIL["payload"], "cron": "0 9 * * *"}


@pytest.mark.parametrize("moment", ["9999-12-31T00:00:00Z", "3500-01-01T00:00:00Z", "0001-01-01T00:00:00+05:00"])
def test_times_outside_the_calendar_are_refused(api: Client, moment: str) -> None:
    for method, path, body in (
        ("POST", "/v1/jobs", {**EMAIL, "run_at": moment}),
        ("PUT", "/v1/schedules/far", {**DAILY, "start_at": moment}),
        ("PUT", "/v1/schedules/far", {**DAILY, "cron": None, "times": [moment]}),
    ):
        status, problem, _ = api.call(method, path, body)
        assert (status, problem["code"]) == (422, "invalid_request"), (path, problem)
        assert "between the years 1901 and 2998" in str(problem["errors"])


def test_a_preview_may_reach_the_end_of_the_calendar(api: Client) -> None:
    rare = {**DAILY, "cron": "0 0 29 2 mon", "start_at": "2990-01-01T00:00:00Z"}
    assert api.call("PUT", "/v1/schedules/rare", rare)[0] == 200
    status, preview, _ = api.get("/v1/schedules/rare/preview?count=1000")
    assert status == 200 and len(preview["times"]) > 0
    often = {**DAILY, "cron": None, "every_seconds": 366 * 86_400, "start_at": "2990-01-01T00:00:00Z"}
    assert api.call("PUT", "/v1/schedules/often", often)[0] == 200
    assert api.get("/v1/schedules/often/preview?count=1000")[0] == 200


@pytest.mark.parametrize("depth", [50, 120, 200, 240, 300])
@pytest.mark.parametrize("form", ["chain", "group"])
def test_nested_parts_are_accepted_or_refused_and_never_a_server_error(api: Client, depth: int, form: str) -> None:
    flow: dict[str, Any] = EMAIL
    for _ in range(depth):
        flow = {form: [flow]}
    for headers in ({}, {"Idempotency-Key": f"{form}-{depth}"}):
        status, answer, _ = api.post("/v1/workflows", {"flow": flow}, headers=headers)
        assert status in (202, 400, 422), answer
    if depth <= 50:
        assert status == 202


def test_a_step_that_depends_on_itself_is_refused(api: Client) -> None:
    steps = [{"name": "a", **EMAIL, "after": ["a"]}, {"name": "b", **EMAIL, "after": ["a"]}]
    status, problem, _ = api.post("/v1/workflows", {"steps": steps})
    assert (status, problem["errors"][0]["field"]) == (422, "steps.0.after.0")
    assert problem["errors"][0]["expected"] == "another part: none comes after itself"


def test_a_row_that_python_can_not_represent_breaks_no_list(api: Client, harness: LedgerHarness) -> None:
    job = api.submit()
    harness.do("UPDATE jobs SET run_at = '294276-01-01', start_by = 'infinity' WHERE id = :id", id=job["id"])
    status, page, _ = api.get("/v1/jobs")
    assert status == 200 and page["jobs"][0]["run_at"].startswith("9999-12-31")
    assert api.get(f"/v1/jobs/{job['id']}")[0] == 200


@pytest.mark.parametrize(
    "more",
    ["p_run_at => '294276-01-01'", "p_start_by => 'infinity'", "p_run_at => '0044-03-15 BC'", "p_tags => '{{a,b}}'"],
)
def test_submissions_by_sql_are_validated_as_by_the_api(harness: LedgerHarness, api: Client, more: str) -> None:
    from jobplatform.ledger.keys import hash_key

    harness.do("INSERT INTO kinds VALUES ('email.send', 'email', 5, 3, 50) ON CONFLICT DO NOTHING")
    statement = text(f"SELECT code, detail FROM submit_job(:hash, 'email.send', '{{}}', {more})")
    with harness.ledger.transaction() as connection:
        row = connection.execute(statement, {"hash": hash_key(api.key or "").hex()}).one()
    assert row.code == "invalid_request" and "between the years 1901 and 2998" in row.detail
    assert api.get("/v1/jobs")[0] == 200


def test_pages_have_security_headers(api: Client) -> None:
    for path in ("/docs", "/docs/errors"):
        _, _, headers = api.get(path)
        assert headers["X-Content-Type-Options"] == "nosniff" and headers["X-Frame-Options"] == "DENY"
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert "unsafe-inline' 'self'" not in headers["Content-Security-Policy"]
    assert b"persistAuthorization: false" in api.get("/docs")[1]
    assert api.get("/v1/jobs")[2]["X-Content-Type-Options"] == "nosniff"


def test_double_slashes_are_not_redirected(api: Client) -> None:
    status, _, headers = api.get("/v1//jobs", headers={"Host": "evil.example"})
    assert status == 404 and "Location" not in headers


def test_the_number_of_a_tenants_schedules_is_limited(api: Client, app: Any) -> None:
    has = app.extensions["services"]
    app.extensions["services"] = type(has)(
        **{**vars(has), "settings": has.settings.model_copy(update={"max_schedules": 2})}
    )
    for name in ("a", "b"):
        assert api.call("PUT", f"/v1/schedules/{name}", DAILY)[0] == 200
    status, problem, _ = api.call("PUT", "/v1/schedules/c", DAILY)
    assert (status, problem["code"]) == (409, "too_many_schedules")
    assert api.call("PUT", "/v1/schedules/a", {**DAILY, "priority": 7})[0] == 200, "an existing one can be changed"


def test_a_standby_serves_reads_and_reports_that_it_is_read_only(api: Client, app: Any, harness: LedgerHarness) -> None:
    job = api.submit()
    name = harness.url.rpartition("/")[2]
    ledger = app.extensions["services"].ledger
    harness.do("UPDATE api_keys SET last_used_at = NULL")  # its next use would be recorded
    harness.do(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    ledger.close()
    try:
        assert api.get(f"/v1/jobs/{job['id']}")[0] == 200
        assert api.get("/v1/jobs")[1]["jobs"][0]["id"] == job["id"]
        assert api.get("/v1/queues")[0] == 200
        status, problem, _ = api.post("/v1/jobs", EMAIL)
        assert (status, problem["code"]) == (503, "ledger_read_only")
        status, problem, _ = api.get("/readyz")
        assert (status, problem["code"]) == (503, "read_only") and "primary" in problem["detail"]
    finally:
        ledger.close()
        harness.do(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
