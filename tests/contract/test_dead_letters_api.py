"""Endpoints for dead letters, changes of jobs, explanations and effects."""

from __future__ import annotations

from uuid import uuid4

import pytest

from tests.contract.conftest import Client
from tests.support.ledger_harness import LedgerHarness

ERROR = {"code": "boom", "message": "boom", "retryable": False}


@pytest.fixture
def dead(api: Client, harness: LedgerHarness) -> str:
    job_id, lease_id = harness.running()
    harness.settle(job_id, lease_id, "failed", "dead", error=ERROR)
    return str(job_id)


def test_a_dead_letter_is_replayed_with_its_history(api: Client, dead: str) -> None:
    status, job, _ = api.post(f"/v1/jobs/{dead}/replay", {"reason": "fixed"})
    assert (status, job["state"], job["attempt"]) == (202, "available", 0)
    status, problem, _ = api.post(f"/v1/jobs/{dead}/replay")
    assert (status, problem["code"]) == (409, "not_replayable")
    events = api.get(f"/v1/jobs/{dead}/events")[1]["events"]
    assert events[-1]["data"] == {"by": "test", "reason": "fixed"}


def test_a_dead_letter_is_discarded_with_a_reason(api: Client, dead: str) -> None:
    assert api.post(f"/v1/jobs/{dead}/discard")[0] == 400
    assert api.post(f"/v1/jobs/{dead}/discard", {"reason": ""})[0] == 422
    status, job, _ = api.post(f"/v1/jobs/{dead}/discard", {"reason": "obsolete"})
    assert (status, job["state"], job["status"]) == (200, "discarded", "failed")
    live = api.submit()["id"]
    assert api.post(f"/v1/jobs/{live}/discard", {"reason": "x"})[1]["code"] == "not_discardable"


def test_many_dead_letters_are_previewed_then_replayed_and_tracked(api: Client, dead: str, stranger: Client) -> None:
    status, rows, _ = api.post("/v1/dead-letters/replay", {"preview": True})
    assert (status, rows["jobs"], rows["groups"][0]["code"]) == (200, 1, "boom")
    assert stranger.post("/v1/dead-letters/replay", {"preview": True})[1]["jobs"] == 0
    status, replay, headers = api.post("/v1/dead-letters/replay", {"filter": {"code": "boom"}, "rate_per_second": 5})
    assert (status, replay["chosen"], replay["state"]) == (202, 1, "running")
    assert api.get(headers["Location"])[1] == replay
    assert stranger.get(headers["Location"])[0] == 404
    assert api.get(f"/v1/replays/{uuid4()}")[1]["code"] == "replay_not_found"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 100_000}, "limit"),
        ({"rate_per_second": 0}, "rate_per_second"),
        ({"filter": {"colour": "red"}}, "filter.colour"),
        ({"filter": {"died_after": 5}}, "filter.died_after"),
        ({"preview": "yes"}, "preview"),
    ],
)
def test_an_invalid_replay_names_the_field(api: Client, dead: str, body: dict, field: str) -> None:
    status, problem, _ = api.post("/v1/dead-letters/replay", body)
    assert (status, [item["field"] for item in problem["errors"]]) == (422, [field])
    assert api.get(f"/v1/jobs/{dead}")[1]["state"] == "dead"


def test_priority_and_time_can_be_changed_until_it_runs(api: Client, harness: LedgerHarness) -> None:
    job = api.submit()
    status, changed, _ = api.call("PATCH", f"/v1/jobs/{job['id']}", {"priority": 9, "run_at": "2099-01-01T00:00:00Z"})
    assert (status, changed["priority"], changed["state"]) == (200, 9, "scheduled")
    assert api.call("PATCH", f"/v1/jobs/{job['id']}", {})[0] == 422
    assert api.call("PATCH", f"/v1/jobs/{job['id']}", {"priority": 10})[0] == 422
    running, _ = harness.running()
    assert api.call("PATCH", f"/v1/jobs/{running}", {"priority": 1})[1]["code"] == "not_changeable"


def test_a_unique_submission_returns_the_existing_job(api: Client) -> None:
    first = api.submit(unique={"key": "daily"})
    assert api.submit(unique={"key": "daily"})["id"] == first["id"]
    submission = {"kind": "email.send", "payload": {"to": ["a@example.com"], "subject": "s", "text": "t"}}
    status, problem, _ = api.post("/v1/jobs", {**submission, "unique": {"key": "daily", "on_conflict": "refuse"}})
    assert (status, problem["code"], problem["job_id"]) == (409, "duplicate_job", first["id"])
    assert api.post("/v1/jobs", {**submission, "unique": {"key": ""}})[0] == 422


def explained(api: Client, job_id: object) -> list[str]:
    status, rows, _ = api.get(f"/v1/jobs/{job_id}/explain")
    assert status == 200, rows
    return [reason["code"] for reason in rows["reasons"]]


def test_an_explanation_lists_all_reasons_in_order(api: Client, harness: LedgerHarness) -> None:
    job_id = harness.submit("test.llm")
    harness.do("UPDATE queues SET paused_at = clock_timestamp() WHERE name = 'llm'")
    assert explained(api, job_id) == ["paused", "waiting", "no_worker", "no_dispatcher"]
    harness.do("UPDATE queues SET paused_at = NULL")
    harness.do("INSERT INTO dispatchers (id, host, pid, broker_error) VALUES (gen_random_uuid(), 'h', 1, 'refused')")
    assert explained(api, job_id) == ["waiting", "no_worker", "broker_down"]
    harness.do("UPDATE dispatchers SET broker_error = NULL")
    harness.do("UPDATE workers SET queues = '{llm}'")
    assert explained(api, job_id) == ["waiting", "kind_unknown"]
    harness.do("UPDATE workers SET kinds = '{test.llm}', slots = 1")
    ahead = [harness.submit("test.llm", priority=9) for _ in range(5)]
    harness.dispatch(*ahead[:4])
    assert explained(api, job_id) == ["waiting", "window_full"]
    assert (
        "ahead of it in queue llm: 1 jobs of higher priority, 0 jobs of its own"
        in api.get(f"/v1/jobs/{job_id}/explain")[1]["reasons"][0]["message"]
    )
    assert explained(api, ahead[0]) == ["in_rabbitmq"]


def test_an_explanation_of_a_final_state_names_actor_and_reason(api: Client, harness: LedgerHarness, dead: str) -> None:
    assert explained(api, dead) == ["dead"]
    cancelled = api.submit()["id"]
    api.post(f"/v1/jobs/{cancelled}/cancel", {"reason": "too late"})
    (reason,) = api.get(f"/v1/jobs/{cancelled}/explain")[1]["reasons"]
    assert reason["code"] == "cancelled" and "by test" in reason["message"] and "too late" in reason["message"]
    later = api.submit(run_at="2099-01-01T00:00:00Z")["id"]
    assert explained(api, later) == ["scheduled"]
    running, lease_id = harness.running()
    assert explained(api, running) == ["running"]
    harness.settle(running, lease_id)
    result = api.get(f"/v1/jobs/{running}/explain")[1]
    assert [reason["code"] for reason in result["reasons"]] == ["succeeded"]
    assert set(result["seconds_in"]) == {"available", "dispatched", "running", "succeeded"}
    assert api.get(f"/v1/jobs/{uuid4()}/explain")[0] == 404


def test_an_explanation_of_problems_of_a_run_and_of_other_final_states(
    api: Client, harness: LedgerHarness, dead: str
) -> None:
    silent, _ = harness.running()
    harness.do("UPDATE workers SET heartbeat_at = clock_timestamp() - interval '100 s'")
    assert explained(api, silent) == ["running", "worker_silent"]
    api.post(f"/v1/jobs/{silent}/cancel", {"reason": "enough"})
    assert explained(api, silent) == ["running", "worker_silent", "cancel_requested"]
    api.post(f"/v1/jobs/{dead}/discard", {"reason": "wrong address"})
    (reason,) = api.get(f"/v1/jobs/{dead}/explain")[1]["reasons"]
    assert reason["code"] == "discarded" and "wrong address" in reason["message"]
    late = harness.submit()
    harness.do("UPDATE jobs SET start_by = clock_timestamp() - interval '1 s' WHERE id = :i", i=late)
    harness.do("SELECT * FROM wake_jobs(10, NULL)")
    assert explained(api, late) == ["expired"]
    waiting = harness.submit("test.llm")
    harness.do(
        "UPDATE queues SET paused_at = clock_timestamp(), paused_until = '2099-01-01T00:00:00Z' WHERE name = 'llm'"
    )
    reasons = api.get(f"/v1/jobs/{waiting}/explain")[1]["reasons"]
    assert reasons[0]["code"] == "paused" and "until 2099-01-01" in reasons[0]["message"]


def test_a_held_job_shows_its_effect_and_is_resolved(api: Client, harness: LedgerHarness) -> None:
    job_id, lease_id = harness.running()
    harness.do(
        "INSERT INTO effects (job_id, key, tenant_id, state, run_no, token) "
        "SELECT id, 'charge', tenant_id, 'intended', 1, gen_random_uuid() FROM jobs WHERE id = :i",
        i=job_id,
    )
    harness.settle(
        job_id, lease_id, "held", "held", error={"code": "effect_unknown", "message": "?", "retryable": False}
    )
    assert explained(api, job_id) == ["held"]
    assert [item["state"] for item in api.get(f"/v1/jobs/{job_id}/effects")[1]["effects"]] == ["intended"]
    wrong = {"effect": "other", "happened": True}
    assert api.post(f"/v1/jobs/{job_id}/resolve", wrong)[1]["code"] == "effect_not_found"
    assert api.post(f"/v1/jobs/{job_id}/resolve", {"effect": "charge", "happened": "yes"})[0] == 422
    status, job, _ = api.post(f"/v1/jobs/{job_id}/resolve", {"effect": "charge", "happened": True, "receipt": {"n": 1}})
    assert (status, job["state"]) == (202, "available")
    assert api.get(f"/v1/jobs/{job_id}/effects")[1]["effects"][0]["receipt"] == {"n": 1}
