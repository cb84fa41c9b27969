"""What an API key may do: scopes, kinds, rates, expiry, rotation; isolation of tenants; the audit log."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from api.v1 import OPERATIONS
from jobplatform.domain.access import Scope, is_mistyped, new_key
from jobplatform.ledger import keys
from jobplatform.ledger.keys import Grants
from tests.contract.conftest import EMAIL, Client
from tests.support.ledger_harness import LedgerHarness
from tests.support.waiting import eventually

ADMIN = tuple(Scope)


def client_of(app: Any, harness: LedgerHarness, tenant: str | None = None, name: str = "k", **grants: Any) -> Client:
    with harness.ledger.transaction() as connection:
        tenant_id = harness.tenant_id if tenant is None else keys.create_tenant(connection, tenant)
        return Client(app.test_client(), keys.create_key(connection, tenant_id, name, Grants(**grants)))


@pytest.fixture
def admin(app: Any, harness: LedgerHarness) -> Client:
    return client_of(app, harness, name="admin", scopes=ADMIN)


# --- every operation


def path_of(operation: Any, things: dict[str, Any]) -> str:
    def value(match: re.Match[str]) -> str:
        return str(things[match.group(1)])

    return "/v1" + re.sub(r"<(?:\w+:)?(\w+)>", value, operation.path)


def things_of(api: Client, admin: Client) -> dict[str, Any]:
    """Create one of everything that a tenant can have; return the ids by argument name."""
    job = api.submit()
    step = {"name": "a", "kind": "email.send", "payload": EMAIL["payload"]}
    status, workflow, _ = api.post("/v1/workflows", {"steps": [step]})
    assert status == 202, workflow
    schedule = {"kind": "email.send", "payload": EMAIL["payload"], "every_seconds": 3600}
    status, made, _ = api.call("PUT", "/v1/schedules/mine", schedule)
    assert status == 200, made
    status, upload, _ = api.post("/v1/uploads?filename=a.txt", data=b"text")
    assert status == 201, upload
    status, key, _ = admin.post("/v1/keys", {"name": "mine"})
    assert status == 201, key
    status, hook, _ = admin.post("/v1/webhooks", {"url": "https://example.com/hook"})
    assert status == 201, hook
    status, message, _ = admin.post(f"/v1/webhooks/{hook['id']}/test")
    assert status == 202, message
    return {
        "webhook_id": hook["id"],
        "message_id": message["id"],
        "job_id": job["id"],
        "workflow_id": workflow["id"],
        "artifact_id": upload["id"],
        "key_id": key["id"],
        "effect_key": "x",
        "key": "x",
        "name": "mine",
        "replay_id": "01890000-0000-7000-8000-000000000000",
        "tenant": "t",
        "queue": "email",
    }


#: operations that list or create objects of the calling tenant only
OF_ONES_OWN = frozenset({"put_schedule", "create_key", "list_actions"})
#: valid bodies of operations for which {} is invalid
BODIES: dict[str, Any] = {
    "change_job": {"priority": 1},
    "replay_webhook": {"since": "2026-01-31T12:00:00Z"},
    "discard_job": {"reason": "no"},
    "resolve_effect": {"effect": "x", "happened": True},
}


def test_no_tenant_sees_or_changes_the_objects_of_another(
    app: Any, harness: LedgerHarness, api: Client, admin: Client
) -> None:
    things = things_of(api, admin)
    before = api.get(f"/v1/jobs/{things['job_id']}")[1]
    stranger = client_of(app, harness, "other", scopes=ADMIN)
    seen = 0
    for operation in OPERATIONS:
        if operation.scope is None or operation.endpoint.__name__ in OF_ONES_OWN:
            continue
        path = path_of(operation, things)
        body = BODIES.get(operation.endpoint.__name__, {}) if operation.body is not None else None
        status, answer, _ = stranger.call(operation.method, path, body)
        where = f"{operation.method} {path}"
        if "<" in operation.path:
            seen += 1
            assert status == 404, (where, status, answer)
            nothing = path_of(operation, things | {"job_id": things["replay_id"], "name": "none", **NOBODYS})
            again = stranger.call(operation.method, nothing, body)
            assert (again[0], again[1]["code"]) == (status, answer["code"]), f"{where} reveals that it exists"
        for value in (things["job_id"], things["workflow_id"], things["key_id"], things["webhook_id"]):
            assert value not in str(answer) or value in path, where
    assert seen >= 25
    assert api.get(f"/v1/jobs/{things['job_id']}")[1] == before
    assert api.get("/v1/schedules/mine")[0] == 200
    assert [item["revoked_at"] for item in admin.get("/v1/keys")[1]["keys"]] == [None] * 3


NOBODYS = dict.fromkeys(("workflow_id", "artifact_id", "key_id", "webhook_id"), "01890000-0000-7000-8000-000000000000")


def test_every_operation_requires_its_scope(app: Any, harness: LedgerHarness, api: Client, admin: Client) -> None:
    things = things_of(api, admin)
    for operation in OPERATIONS:
        scopes = tuple(scope for scope in Scope if scope is not operation.scope)
        without = client_of(app, harness, scopes=scopes)
        status, problem, _ = without.call(
            operation.method, path_of(operation, things), EMAIL if operation.body is not None else None
        )
        assert (status, problem["code"]) == (403, "not_allowed"), operation.endpoint.__name__
        assert str(operation.scope or "operator") in problem["detail"]


# --- what a key may submit


def test_a_key_submits_only_its_permitted_kinds(app: Any, harness: LedgerHarness) -> None:
    mail = client_of(app, harness, kinds=("email.*",))
    assert mail.post("/v1/jobs", EMAIL)[0] == 202
    video = {"kind": "llm.chat", "payload": {"messages": [{"role": "user", "content": "hi"}]}}
    step = {"name": "a", **video}
    for method, path, body in (
        ("POST", "/v1/jobs", video),
        ("POST", "/v1/workflows", {"steps": [step]}),
        ("PUT", "/v1/schedules/x", {**video, "every_seconds": 60}),
    ):
        status, problem, _ = mail.call(method, path, body)
        assert (status, problem["code"]) == (403, "kind_not_allowed"), path
        assert "email.*" in problem["detail"] and "llm.chat" in problem["detail"]
    assert harness.all("SELECT kind FROM jobs") == ["email.send"]


def test_only_keys_that_may_submit_its_jobs_can_run_a_schedule(app: Any, harness: LedgerHarness, admin: Client) -> None:
    schedule = {"kind": "llm.chat", "payload": {"messages": [{"role": "user", "content": "hi"}]}, "every_seconds": 3600}
    assert admin.call("PUT", "/v1/schedules/s", {**schedule, "priority": 8})[0] == 200
    for grants, code in (({"kinds": ("email.*",)}, "kind_not_allowed"), ({"max_priority": 7}, "priority_too_high")):
        status, problem, _ = client_of(app, harness, **grants).post("/v1/schedules/s/run")
        assert (status, problem["code"]) == (403, code)
    assert harness.all("SELECT count(*) FROM jobs") == [0]
    assert admin.post("/v1/schedules/s/run")[0] == 202


def test_the_history_of_a_job_names_the_submitting_key(app: Any, harness: LedgerHarness) -> None:
    caller = client_of(app, harness, name="shop")
    job = caller.submit()
    (event,) = caller.get(f"/v1/jobs/{job['id']}/events")[1]["events"]
    assert (event["event"], event["data"]) == ("submitted", {"by": "shop"})


# --- rates


def test_a_rate_limited_key_gets_its_remaining_requests_and_retry_after(app: Any, harness: LedgerHarness) -> None:
    caller = client_of(app, harness, requests_per_minute=3)
    left = []
    for call in (
        lambda: caller.get("/v1/kinds"),
        lambda: caller.post("/v1/jobs", EMAIL),
        lambda: caller.get("/v1/queues"),
    ):
        status, _, headers = call()
        assert status in (200, 202)
        assert headers["RateLimit-Policy"] == '"key";q=3;w=60'
        left.append(re.fullmatch(r'"key";r=(\d+);t=(\d+)', headers["RateLimit"]).group(1))
    assert left == ["2", "1", "0"]
    for method, path, body in (("GET", "/v1/kinds", None), ("POST", "/v1/jobs", EMAIL), ("POST", "/v1/jobs", {})):
        status, problem, headers = caller.call(method, path, body)
        assert (status, problem["code"]) == (429, "rate_limited")
        assert 1 <= int(headers["Retry-After"]) <= 20
        assert headers["RateLimit"].startswith('"key";r=0;t=')
    assert harness.all("SELECT count(*) FROM jobs") == [1]


def test_repeated_requests_do_not_prolong_the_wait(app: Any, harness: LedgerHarness) -> None:
    caller = client_of(app, harness, requests_per_minute=600)
    harness.do(
        "INSERT INTO key_rates (key_id, level, level_at) SELECT id, 0, clock_timestamp() FROM api_keys "
        "WHERE requests_per_minute IS NOT NULL"
    )
    eventually(lambda: caller.get("/v1/kinds")[0] == 200, seconds=5)


def test_a_request_refused_for_another_reason_is_counted_once(app: Any, harness: LedgerHarness) -> None:
    caller = client_of(app, harness, requests_per_minute=1)
    harness.do("INSERT INTO quotas (tenant, queue, max_waiting, updated_by) VALUES ('*', 'email', 0, 'test')")
    status, problem, _ = caller.post("/v1/jobs", EMAIL)
    assert (status, problem["code"]) == (429, "quota_exceeded"), "the true reason, not the rate"
    assert caller.get("/v1/kinds")[1]["code"] == "rate_limited"


# --- expiry, rotation


def test_a_key_expires_at_its_time(app: Any, harness: LedgerHarness, admin: Client) -> None:
    until = datetime.now(UTC) + timedelta(hours=1)
    status, made, headers = admin.post("/v1/keys", {"name": "short", "expires_at": until.isoformat()})
    assert status == 201 and headers["Cache-Control"] == "no-store"
    short = Client(app.test_client(), made["key"])
    assert short.post("/v1/jobs", EMAIL)[0] == 202
    harness.do("UPDATE api_keys SET expires_at = clock_timestamp() WHERE id = :id", id=made["id"])
    for method, path, body in (("GET", "/v1/kinds", None), ("POST", "/v1/jobs", EMAIL)):
        status, problem, _ = short.call(method, path, body)
        assert (status, problem["code"]) == (401, "unauthorized")


def test_both_keys_are_valid_during_the_overlap(app: Any, harness: LedgerHarness, admin: Client) -> None:
    _, old, _ = admin.post(
        "/v1/keys", {"name": "shop", "scopes": ["jobs:submit"], "kinds": ["email.*"], "max_priority": 5}
    )
    status, new, _ = admin.post(f"/v1/keys/{old['id']}/rotate", {"overlap_seconds": 3600})
    assert status == 201 and new["key"] != old["key"]
    grants = ("name", "scopes", "kinds", "max_priority", "requests_per_minute", "expires_at")
    assert {name: new[name] for name in grants} == {name: old[name] for name in grants}
    assert new["replaces"] == old["id"]
    callers = [Client(app.test_client(), item["key"]) for item in (old, new)]
    assert [caller.post("/v1/jobs", EMAIL)[0] for caller in callers] == [202, 202]
    (left,) = harness.all(
        "SELECT extract(epoch FROM expires_at - now())::float8 FROM api_keys WHERE id = :id", id=old["id"]
    )
    assert 3500 < left <= 3600
    assert admin.post(f"/v1/keys/{new['id']}/rotate", {"overlap_seconds": 0})[0] == 201
    assert [caller.post("/v1/jobs", EMAIL)[0] for caller in callers] == [202, 401]
    status, problem, _ = admin.post(f"/v1/keys/{new['id']}/rotate")
    assert (status, problem["code"]) == (404, "key_not_found"), "an expired key can't be rotated"


def test_rotating_a_key_again_creates_none_that_expires(admin: Client) -> None:
    """The first answer was lost: the old key has an expiry by now, which the new one must not inherit."""
    _, old, _ = admin.post("/v1/keys", {"name": "shop"})
    for _ in range(2):
        status, new, _ = admin.post(f"/v1/keys/{old['id']}/rotate", {"overlap_seconds": 3600})
        assert (status, new["expires_at"]) == (201, None)


def test_no_key_creates_a_key_with_more_rights(app: Any, harness: LedgerHarness) -> None:
    small = client_of(app, harness, scopes=ADMIN, max_priority=5, kinds=("email.*",))
    for body, code in (
        ({"max_priority": 9, "kinds": ["email.send"]}, "priority_too_high"),
        ({"max_priority": 5}, "kind_not_allowed"),
        ({"max_priority": 5, "kinds": ["llm.*"]}, "kind_not_allowed"),
        ({"max_priority": 5, "kinds": ["email.send"], "operator": True}, "not_allowed"),
        ({"max_priority": 5, "kinds": ["email.send"], "tenant": "other"}, "not_allowed"),
    ):
        status, problem, _ = small.post("/v1/keys", {"name": "more", **body})
        assert (status, problem["code"]) == (403, code), body
    assert small.post("/v1/keys", {"name": "as much", "max_priority": 5, "kinds": ["email.*"]})[0] == 201
    with harness.ledger.transaction() as connection:
        boss, _ = keys.make_key(connection, harness.tenant_id, "boss", Grants(is_operator=True), by="")
    admin = client_of(app, harness, scopes=ADMIN)
    status, problem, _ = admin.post(f"/v1/keys/{boss}/rotate")
    assert (status, problem["code"]) == (403, "not_allowed"), "an operator's key can't be obtained by rotating it"


def test_an_operator_makes_keys_for_other_tenants(app: Any, harness: LedgerHarness) -> None:
    boss = client_of(app, harness, scopes=ADMIN, is_operator=True)
    status, made, _ = boss.post("/v1/keys", {"name": "first", "tenant": "new-team", "scopes": ["admin"]})
    assert (status, made["tenant"]) == (201, "new-team")
    theirs = Client(app.test_client(), made["key"])
    assert [item["name"] for item in theirs.get("/v1/keys")[1]["keys"]] == ["first"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "x", "scopes": []}, "scopes"),
        ({"name": "x", "scopes": ["jobs:delete"]}, "scopes.0"),
        ({"name": "x", "kinds": []}, "kinds"),
        ({"name": "x", "kinds": ["email.*.x", "*"]}, "kinds.0"),
        ({"name": "x", "requests_per_minute": 0}, "requests_per_minute"),
        ({"name": "x", "expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"name": "x", "max_priority": 10}, "max_priority"),
    ],
)
def test_invalid_definitions_of_keys_are_refused(admin: Client, body: Any, field: str) -> None:
    status, problem, _ = admin.post("/v1/keys", body)
    assert status == 422
    assert problem["errors"][0]["field"] == field


def test_neither_the_row_nor_the_listing_of_a_key_contains_its_secret(harness: LedgerHarness, admin: Client) -> None:
    _, made, _ = admin.post("/v1/keys", {"name": "x"})
    secret = made["key"]
    assert secret not in str(admin.get("/v1/keys")[1])
    (row,) = harness.all("SELECT api_keys::text FROM api_keys WHERE id = :id", id=made["id"])
    assert secret not in row and secret[10:] not in row


def test_the_last_use_is_shown(harness: LedgerHarness, admin: Client, app: Any) -> None:
    _, made, _ = admin.post("/v1/keys", {"name": "x"})
    assert made["last_used_at"] is None
    Client(app.test_client(), made["key"]).submit()
    used = {item["id"]: item["last_used_at"] for item in admin.get("/v1/keys")[1]["keys"]}
    assert datetime.now(UTC) - datetime.fromisoformat(used[made["id"]]) < timedelta(minutes=1)


def test_keys_come_in_pages(admin: Client) -> None:
    for number in range(5):
        admin.post("/v1/keys", {"name": f"k{number}"})
    names, cursor = [], ""
    while cursor is not None:
        page = admin.get(f"/v1/keys?limit=2{f'&cursor={cursor}' if cursor else ''}")[1]
        names += [item["name"] for item in page["keys"]]
        cursor = page["next_cursor"]
    assert names == ["admin", *(f"k{number}" for number in range(5))]


# --- their format


def test_a_mistyped_key_is_detected_by_its_checksum() -> None:
    key = new_key()
    assert re.fullmatch(r"jp_[0-9A-Za-z]{38}", key)
    assert not is_mistyped(key)
    for position in range(3, len(key)):
        wrong = key[:position] + ("a" if key[position] != "a" else "b") + key[position + 1 :]
        assert is_mistyped(wrong), position
    assert is_mistyped(key[:5] + key[6] + key[5] + key[7:]) or key[5] == key[6]
    assert not is_mistyped("jp_" + "x" * 43), "keys older than the checksum stay valid"


def test_a_mistyped_key_is_reported_as_mistyped(app: Any) -> None:
    key = new_key()
    wrong = Client(app.test_client(), key[:-1] + ("a" if key[-1] != "a" else "b"))
    for status, problem, _ in (wrong.get("/v1/kinds"), wrong.post("/v1/jobs", EMAIL)):
        assert (status, problem["code"]) == (401, "unauthorized") and "mistyped" in problem["detail"]


# --- the audit log


def test_every_request_that_changes_something_is_in_the_audit_log(
    app: Any, harness: LedgerHarness, api: Client, admin: Client
) -> None:
    job = api.submit()
    api.get(f"/v1/jobs/{job['id']}")
    api.post(f"/v1/jobs/{job['id']}/cancel")
    api.post(f"/v1/jobs/{job['id']}/cancel")
    api.post(f"/v1/jobs/{job['id']}/discard", {"reason": "no"})
    _, made, _ = admin.post("/v1/keys", {"name": "x"})
    admin.call("DELETE", f"/v1/keys/{made['id']}")
    page = admin.get("/v1/audit-log?limit=3")[1]
    assert [(item["key_name"], item["action"], item["status"], item["code"]) for item in page["actions"]] == [
        ("admin", "revoke_key", 200, None),
        ("admin", "create_key", 201, None),
        ("test", "discard_job", 409, "not_discardable"),
    ]
    page = admin.get(f"/v1/audit-log?cursor={page['next_cursor']}")[1]
    assert [(item["action"], item["path"]) for item in page["actions"]] == [
        ("cancel_job", f"/v1/jobs/{job['id']}/cancel")
    ] * 2
    assert page["next_cursor"] is None
    mine = next(item["id"] for item in admin.get("/v1/keys")[1]["keys"] if item["name"] == "admin")
    assert {item["action"] for item in admin.get(f"/v1/audit-log?key_id={mine}")[1]["actions"]} == {
        "create_key",
        "revoke_key",
    }
    stranger = client_of(app, harness, "other", scopes=ADMIN)
    assert stranger.get("/v1/audit-log")[1]["actions"] == []


def test_operations_that_are_not_logged_create_jobs_or_change_nothing() -> None:
    free = {item.endpoint.__name__ for item in OPERATIONS if item.method != "GET" and not item.logged}
    assert free == {"submit_job", "submit_batch", "submit_workflow", "preview_definition"}


def test_the_audit_log_is_written_before_anything_is_changed(
    app: Any, harness: LedgerHarness, api: Client, admin: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that dies in between leaves an entry without an outcome, never a change without an entry."""
    from jobplatform.errors import LedgerUnavailable
    from jobplatform.ledger import audit_log

    job = api.submit()

    def away(*_: Any) -> None:
        raise LedgerUnavailable()

    monkeypatch.setattr(audit_log, "end_action", away)
    assert api.post(f"/v1/jobs/{job['id']}/cancel")[0] == 200
    assert harness.all("SELECT action, status FROM audit_log") == [("cancel_job", None)]
    monkeypatch.setattr(audit_log, "begin_action", lambda *_, **__: away())
    assert api.post(f"/v1/jobs/{job['id']}/discard", {"reason": "no"})[0] == 503
