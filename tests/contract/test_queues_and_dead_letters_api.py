"""Queues with exact counts by state, and the list of dead letters."""

from __future__ import annotations

from typing import Any

from tests.contract.conftest import Client
from tests.support.ledger_harness import LedgerHarness


def queue(api: Client, name: str = "email") -> dict[str, Any]:
    return next(item for item in api.get("/v1/queues")[1]["queues"] if item["name"] == name)


def test_jobs_are_counted_by_state(api: Client, harness: LedgerHarness) -> None:
    states = ["available"] * 3 + ["scheduled"] * 4 + ["blocked"] * 5 + ["held"] * 2 + ["dead"] * 6
    for state in states:
        api.submit()
        error = '\'{"code": "x"}\'' if state in ("dead", "held") else "NULL"
        harness.do(
            f"UPDATE jobs SET state = '{state}', error = {error} "
            "WHERE id = (SELECT id FROM jobs WHERE state = 'available' ORDER BY id DESC LIMIT 1)"
        )
    result = queue(api)
    counted = {name: result[name] for name in ("waiting", "scheduled", "blocked", "held", "dead", "live")}
    assert counted == {"waiting": 3, "scheduled": 4, "blocked": 5, "held": 2, "dead": 6, "live": 20}
    assert result["counts_are_capped"] is False


def test_dead_letters_beyond_any_count_are_not_reported_as_waiting(api: Client, harness: LedgerHarness) -> None:
    api.submit()
    harness.do(
        "INSERT INTO jobs (id, tenant_id, queue, kind, state, priority, payload, max_attempts, crash_limit, "
        "lost_limit, run_at, error) SELECT gen_random_uuid(), tenant_id, queue, kind, 'dead', 4, '{}', 5, 3, 50, "
        "now(), "
        '\'{"code": "smtp_refused"}\' FROM jobs, generate_series(1, 24000)'
    )
    harness.do("UPDATE jobs SET state = 'dead', error = '{\"code\": \"x\"}' WHERE state = 'available'")
    harness.do("UPDATE queue_counters SET accepted = accepted + 24000")
    result = queue(api)
    assert (result["dead"], result["waiting"]) == (24_001, 0)


def kill(harness: LedgerHarness, job: dict[str, Any], code: str) -> None:
    harness.do(
        "UPDATE jobs SET state = 'dead', state_at = now(), error = jsonb_build_object('code', CAST(:code AS text), "
        "'message', 'because') WHERE id = :id",
        id=job["id"],
        code=code,
    )


def test_dead_letters_have_their_own_list(api: Client, stranger: Client, harness: LedgerHarness) -> None:
    jobs = [api.submit(tags=[f"t{n}"]) for n in range(5)]
    for number, job in enumerate(jobs[:4]):
        kill(harness, job, "smtp_refused" if number % 2 else "smtp_unreachable")
    letters = api.get("/v1/dead-letters")[1]["dead_letters"]
    assert [letter["id"] for letter in letters] == [job["id"] for job in reversed(jobs[:4])]
    assert (letters[0]["code"], letters[0]["message"], letters[0]["tags"]) == ("smtp_refused", "because", ["t3"])
    refused = api.get("/v1/dead-letters?code=smtp_refused")[1]["dead_letters"]
    assert [letter["id"] for letter in refused] == [jobs[3]["id"], jobs[1]["id"]]
    first = api.get("/v1/dead-letters?limit=3")[1]
    rest = api.get(f"/v1/dead-letters?limit=3&cursor={first['next_cursor']}")[1]
    assert [letter["id"] for letter in first["dead_letters"] + rest["dead_letters"]] == [
        letter["id"] for letter in letters
    ]
    assert rest["next_cursor"] is None
    assert stranger.get("/v1/dead-letters")[1] == {"dead_letters": [], "next_cursor": None}
    assert api.get("/v1/dead-letters?stat=dead")[0] == 422


def test_cron_macros_are_accepted(api: Client) -> None:
    body = {"kind": "email.send", "payload": {"to": ["a@example.com"], "subject": "s", "text": "t"}}
    for macro, times in (("@daily", 1), ("@hourly", 24), ("@Weekly", 1)):
        assert api.call("PUT", "/v1/schedules/macro", {**body, "cron": macro})[0] == 200
        assert len(api.get(f"/v1/schedules/macro/preview?count={times}")[1]["times"]) == times
    status, problem, _ = api.call("PUT", "/v1/schedules/macro", {**body, "cron": "@reboot"})
    assert status == 422 and "@daily" in str(problem["errors"])
