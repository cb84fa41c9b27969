"""Requests with a hundred thousand errors: few are reported, with little CPU time and memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from api import create_app
from jobplatform.config import Settings
from jobplatform.domain.submissions import SubmitBody, check
from jobplatform.domain.validation import MAX_ERRORS
from jobplatform.errors import InvalidPayload, InvalidRequest
from jobplatform.ledger import keys
from tests.contract.conftest import Client
from tests.support.ledger_harness import LedgerHarness

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def api(harness: LedgerHarness, tmp_path: Path) -> Iterator[Client]:
    """The API with the limits it ships with."""
    app = create_app(Settings(database_url=harness.url, artifact_url=tmp_path.as_uri()))
    with harness.ledger.transaction() as connection:
        key = keys.create_key(connection, harness.tenant_id, "test")
    yield Client(app.test_client(), key)
    app.extensions["services"].ledger.close()


def fields(count: int) -> dict[str, int]:
    return {f"k{n}": 1 for n in range(count)}


SUBMISSION = {"kind": "email.send", "payload": {"to": ["ada@example.com"], "subject": "s", "text": "t"}}


def test_one_job_with_70_000_unknown_fields(api: Client) -> None:
    status, problem = api.call("POST", "/v1/jobs", {"kind": "email.send", "payload": fields(70_000)})[:2]
    assert (status, problem["code"], len(problem["errors"])) == (422, "invalid_payload", MAX_ERRORS)
    assert "70,002 errors in all" in problem["detail"]
    status, problem = api.call("POST", "/v1/jobs", {**SUBMISSION, **fields(70_000)})[:2]
    assert status == 422 and 90 < len(problem["errors"]) <= MAX_ERRORS
    assert problem["detail"].endswith("and 69,995 more")


def test_the_required_fields_are_among_the_reported_ones(api: Client) -> None:
    body = {"kind": "email.send", "payload": fields(70_000) | {"subject": 7}}
    errors = {error["field"]: error for error in api.call("POST", "/v1/jobs", body)[1]["errors"]}
    assert errors["payload.subject"]["got"] == "7"


def test_a_batch_of_one_submission_with_600_000_fields(api: Client) -> None:
    body = [{"kind": "email.send", "payload": fields(600_000)}]
    for query in ("", "?per_item=true"):
        status, answer = api.call("POST", f"/v1/jobs/batch{query}", body)[:2]
        problem = answer["jobs"][0]["problem"] if query else answer
        assert (status, len(problem["errors"])) == (202 if query else 422, MAX_ERRORS)


def test_a_batch_of_3_000_000_empty_submissions_is_counted_before_any_is_read(api: Client) -> None:
    raw = b"[" + b"{}," * 3_000_000 + b"{}]"
    tracemalloc.start()
    try:
        status, problem = api.call("POST", "/v1/jobs/batch?per_item=true", data=raw, headers=JSON)[:2]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (status, problem["code"]) == (413, "body_too_large")
    assert "at most 2,000,000 values" in problem["detail"]
    assert peak < 8 * len(raw)


def test_a_batch_of_too_many_submissions_is_refused_unread(api: Client) -> None:
    status, problem = api.call(
        "POST", "/v1/jobs/batch?per_item=true", data=b"[" + b"{}," * 500_000 + b"{}]", headers=JSON
    )[:2]
    assert (status, problem["detail"]) == (422, "expected 1 to 10000 job requests")


def test_ten_thousand_invalid_submissions_name_few_fields(api: Client) -> None:
    bad = {"kind": "email.send", "payload": {"nothing": 1, "of": 2, "this": 3}}
    status, answer = api.call("POST", "/v1/jobs/batch?per_item=true", [bad] * 10_000)[:2]
    assert (status, answer["refused"]) == (202, 10_000)
    named = [len(item["problem"]["errors"]) for item in answer["jobs"]]
    assert min(named) == 1 and sum(named) <= 10_000 + MAX_ERRORS
    status, problem = api.call("POST", "/v1/jobs/batch", [bad] * 10_000)[:2]
    assert (status, len(problem["errors"])) == (422, MAX_ERRORS)
    assert "of 10000 submissions are not as expected" in problem["detail"]


@pytest.mark.parametrize(
    "payload",
    [
        {"to": ["x"] * 150_000, "subject": "s", "text": "t"},
        {"to": [{"a": n} for n in range(50_000)]},
        {"attachments": [fields(100)] * 500, "to": ["ada@example.com"], "subject": "s", "text": "t"},
        {"to": [[[[fields(50_000)]]]]},
    ],
)
def test_errors_within_lists_and_objects_are_few_as_well(api: Client, payload: dict[str, Any]) -> None:
    kinds = api.flask.application.extensions["services"].kinds
    with pytest.raises(InvalidPayload) as refused:
        kinds.get("email.send").parse(payload)
    assert 0 < len(refused.value.errors) <= MAX_ERRORS
    assert len(orjson.dumps([error.as_dict() for error in refused.value.errors])) < 100_000


def test_an_unknown_field_suggests_the_nearest_one(api: Client) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check(SubmitBody, {**SUBMISSION, "runat": "x", "prioriti": 3})
    expected = {error.field: error.expected for error in refused.value.errors}
    assert expected == {
        "runat": "no such field; did you mean 'run_at'?",
        "prioriti": "no such field; did you mean 'priority'?",
    }
    body = {"kind": "email.send", "payload": SUBMISSION["payload"], "timezone": "Europe/Berlin", "cron": "0 9 * * *"}
    problem = api.call("PUT", "/v1/schedules/daily", body)[1]
    assert "did you mean 'time_zone'?" in str(problem["errors"])
