"""Webhooks over HTTP: what can be set, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from jobplatform.domain.access import Scope
from tests.contract.conftest import Client
from tests.contract.test_access_api import client_of
from tests.support.ledger_harness import LedgerHarness

HOOK = {"url": "https://example.com/hook", "description": "ours"}


@pytest.fixture
def admin(app: Any, harness: LedgerHarness) -> Client:
    return client_of(app, harness, name="admin", scopes=tuple(Scope))


def test_the_life_of_a_webhook(admin: Client) -> None:
    status, made, headers = admin.post("/v1/webhooks", HOOK)
    assert status == 201 and made["secret"].startswith("whsec_")
    assert headers["Location"] == f"/v1/webhooks/{made['id']}" and headers["Cache-Control"] == "no-store"
    assert made["events"] == ["job.succeeded", "job.dead", "job.cancelled", "job.expired"]
    path = headers["Location"]
    view = {name: value for name, value in made.items() if name != "secret"}
    assert admin.get(path)[1] == view
    assert admin.get("/v1/webhooks")[1] == {"webhooks": [view]}
    status, changed, _ = admin.call(
        "PATCH", path, {"events": ["job.dead"], "kinds": ["email.*"], "contact": "a@b.test"}
    )
    assert status == 200
    assert changed == view | {"events": ["job.dead"], "kinds": ["email.*"], "contact": "a@b.test"}
    assert admin.call("PATCH", path, {"kinds": None})[1]["kinds"] is None
    assert admin.call("PATCH", path, {"enabled": False})[1]["disabled_reason"] == "disabled by hand"
    status, problem, _ = admin.post(f"{path}/replay", {"since": "2026-01-01T00:00:00Z"})
    assert status == 422 and "enable it first" in problem["detail"]
    assert admin.call("PATCH", path, {"enabled": True})[1]["enabled"]
    assert admin.post(f"{path}/replay", {"since": "2026-01-01T00:00:00Z"})[0] == 202
    status, rotated, _ = admin.post(f"{path}/rotate")
    assert status == 200 and rotated["secret"] != made["secret"]
    status, message, _ = admin.post(f"{path}/test")
    assert status == 202 and (message["type"], message["state"], message["about"]) == (
        "webhook.test",
        "available",
        None,
    )
    assert admin.get(f"{path}/messages")[1] == {"messages": [message], "next_cursor": None}
    assert admin.get(f"/v1/jobs/{message['job_id']}")[1]["kind"] == "webhook.deliver"
    assert admin.call("DELETE", path)[0] == 204
    assert admin.get(path)[0] == 404


@pytest.mark.parametrize(
    ("body", "field", "expected"),
    [
        ({"url": "http://example.com"}, "url", "https://"),
        ({"url": "https://127.0.0.1/x"}, "url", "a public address"),
        ({"url": "https://[::ffff:10.0.0.1]/x"}, "url", "a public address"),
        ({"url": "nonsense"}, "url", "a URL like"),
        ({"url": "https://a:b@example.com"}, "url", "password"),
        ({"events": ["job.finished"]}, "events.0", "job.succeeded"),
        ({"events": []}, "events", "at least 1"),
        ({"kinds": []}, "kinds", "1 to 50 kinds"),
        ({"kinds": ["e*"]}, "kinds.0", "email.*"),
        ({"contact": "nobody"}, "contact", "an e-mail address"),
        ({"secret": "mine"}, "secret", "no such field"),
    ],
)
def test_a_refusal_says_what_was_expected(admin: Client, body: Any, field: str, expected: str) -> None:
    _, made, _ = admin.post("/v1/webhooks", HOOK)
    for method, path, whole in (
        ("POST", "/v1/webhooks", {**HOOK, **body}),
        ("PATCH", f"/v1/webhooks/{made['id']}", body),
    ):
        status, problem, _ = admin.call(method, path, whole)
        assert status == 422, problem
        (error,) = problem["errors"]
        assert error["field"] == field and expected in error["expected"]


def test_deliveries_can_not_be_submitted_as_jobs() -> None:
    """In a separate process, as the API is: workers know more kinds."""
    code = (
        "from jobplatform.config import settings; from jobplatform.domain.kinds import load_kinds; import api; "
        "print([kind.name for kind in load_kinds(settings().kind_modules, settings().pools)])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "['email.send', 'llm.chat', 'video.transcode']"
