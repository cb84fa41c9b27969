"""Operator commands on a real ledger: output, effects and exit codes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest
from click.testing import CliRunner, Result

from jobplatform.broker.publisher import Publisher
from jobplatform.cli.main import cli
from jobplatform.config import Settings
from jobplatform.dispatch.guard import guard_epoch
from jobplatform.errors import InvalidRequest, JobNotFound, LimitNotFound, NotReplayable
from jobplatform.ledger import dead_messages, effects
from jobplatform.ledger.ids import new_id
from tests.support.ledger_harness import LedgerHarness

Ask = Callable[..., Result]


@pytest.fixture
def ask(harness: LedgerHarness, broker_url: str, monkeypatch: pytest.MonkeyPatch) -> Ask:
    config = Settings(database_url=harness.url, broker_url=broker_url)
    monkeypatch.setattr("jobplatform.config.settings", lambda: config)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("JOBPLATFORM_API_KEY", raising=False)

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(cli, [str(argument) for argument in arguments])

    return run


def dead(harness: LedgerHarness, **order: Any) -> UUID:
    job_id, lease_id = harness.running(**order)
    harness.settle(
        job_id, lease_id, "failed", "dead", error={"code": "smtp_refused", "message": "550", "retryable": False}
    )
    return job_id


def test_a_job_is_explained_as_a_table_and_as_json(harness: LedgerHarness, ask: Ask) -> None:
    job_id = dead(harness)
    shown = ask("jobs", "explain", job_id)
    assert shown.exit_code == 0 and "replay or discard it" in shown.output and "running" in shown.output
    result = orjson.loads(ask("jobs", "explain", job_id, "--json").output)
    assert (result["state"], [item["code"] for item in result["reasons"]]) == ("dead", ["dead"])
    assert isinstance(ask("jobs", "explain", uuid4()).exception, JobNotFound)
    assert ask("jobs", "explain", "x").exit_code == 2


def test_a_job_is_cancelled_replayed_changed_and_discarded_and_its_events_name_the_actor(
    harness: LedgerHarness, ask: Ask
) -> None:
    job_id = harness.submit()
    assert ask("jobs", "cancel", job_id, "--reason", "late").output == f"{job_id} is cancelled\n"
    assert ask("jobs", "replay", job_id).output == f"{job_id} is available\n"
    assert isinstance(ask("jobs", "replay", job_id).exception, NotReplayable)
    assert ask("jobs", "change", job_id).exit_code == 2
    assert ask("jobs", "change", job_id, "--run-at", "2099-01-31T12:00:00Z").output == f"{job_id} is scheduled\n"
    assert ask("jobs", "change", job_id, "--priority", "10").exit_code == 2
    gone = dead(harness)
    assert ask("jobs", "discard", gone).exit_code == 2, "a reason is required"
    assert ask("jobs", "discard", gone, "--reason", "wrong address").output == f"{gone} is discarded\n"
    by = harness.all("SELECT DISTINCT data ->> 'by' FROM job_events WHERE data ? 'by'")
    assert [item.partition(":")[0] for item in by] == ["cli"]


def test_a_held_job_is_resolved(harness: LedgerHarness, ask: Ask) -> None:
    job_id, lease_id = harness.running()
    effects.begin_effect(harness.ledger, job_id, lease_id, "charge", new_id(), "hold")
    harness.settle(
        job_id, lease_id, "held", "held", error={"code": "effect_unknown", "message": "?", "retryable": False}
    )
    assert ask("jobs", "resolve", job_id, "charge", "--happened", "--receipt", "{").exit_code == 2
    done = ask("jobs", "resolve", job_id, "charge", "--happened", "--receipt", '{"n": 1}')
    assert done.output == f"{job_id} is available\n"
    assert harness.all("SELECT state, receipt FROM effects") == [("done", {"n": 1})]


def test_dead_letters_are_previewed_and_replayed_only_with_yes(harness: LedgerHarness, ask: Ask) -> None:
    ids = [dead(harness, tags=["a"]), dead(harness, tags=["b"])]
    preview = ask("dead", "replay", "--tenant", "acme", "--tag", "a")
    assert "1 dead letters" in preview.output and "smtp_refused" in preview.output
    assert {harness.row(item).state for item in ids} == {"dead"}
    assert ask("dead", "replay", "--tenant", "nobody").exit_code == 1
    assert "1 jobs" in ask("dead", "replay", "--tenant", "acme", "--tag", "a", "--yes").output
    assert [harness.row(item).state for item in ids] == ["available", "dead"]
    assert (
        "1 jobs" in ask("dead", "replay", "--tenant", "acme", "--code", "smtp_refused", "--rate", "1", "--yes").output
    )


def test_dead_messages_are_listed_and_shown(harness: LedgerHarness, ask: Ask) -> None:
    kept = {
        "queue": "email",
        "reason": "malformed",
        "detail": "no headers",
        "job_id": None,
        "dispatch_no": None,
        "kind": None,
        "message": {"headers": {}},
        "body": b"\xff!",
        "body_bytes": 2,
    }
    with harness.ledger.transaction() as connection:
        dead_messages.put_dead_messages(connection, [kept])
    (number,) = harness.all("SELECT id FROM dead_messages")
    assert "no headers" in ask("dead", "messages").output
    assert "no headers" not in ask("dead", "messages", "--reason", "stale").output
    assert orjson.loads(ask("dead", "message", number).output)["body"] == "\ufffd!"
    assert ask("dead", "message", number + 1).exit_code == 1


def test_queues_are_paused_until_a_time_and_resumed(harness: LedgerHarness, ask: Ask) -> None:
    assert "queues: email" in ask("queues", "pause", "nowhere").output
    assert ask("queues", "pause", "email", "--until", "2020-01-01T00:00:00Z").exit_code == 2
    assert "until 2099-01-31" in ask("queues", "pause", "email", "--until", "2099-01-31T12:00:00Z").output
    assert harness.all("SELECT paused_until IS NOT NULL FROM queues WHERE name = 'email'") == [True]
    assert ask("queues", "resume", "email").output == "email is resumed\n"


def test_the_audit_exits_with_0_without_findings_and_with_1_otherwise(
    harness: LedgerHarness, ask: Ask, broker_url: str
) -> None:
    publisher = Publisher(broker_url)
    guard_epoch(harness.ledger, publisher)
    publisher.close()
    job_id, lease_id = harness.running()
    harness.settle(job_id, lease_id)
    clean = ask("audit", "--json")
    assert (clean.exit_code, orjson.loads(clean.output)["findings"]) == (0, [])
    assert "all adds up" in ask("audit").output
    harness.do("DELETE FROM job_history WHERE id = :id", id=job_id)
    wrong = ask("audit", "--json", "--without-broker")
    assert wrong.exit_code == 1 and orjson.loads(wrong.output)["findings"]
    assert "findings" in ask("audit", "--without-broker").output


def test_the_audit_reports_ledger_findings_when_rabbitmq_is_down(
    harness: LedgerHarness, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, lease_id = harness.running()
    harness.settle(job_id, lease_id)
    harness.do("DELETE FROM job_history WHERE id = :id", id=job_id)
    config = Settings(database_url=harness.url, broker_url="amqp://x:y@127.0.0.1:9/v")
    monkeypatch.setattr("jobplatform.config.settings", lambda: config)
    result = ask("audit", "--json")
    codes = [load["code"] for load in orjson.loads(result.output)["findings"]]
    assert result.exit_code == 1 and len(codes) > 1 and codes[-1] == "broker_unavailable"


def test_a_rebuild_makes_dispatched_jobs_available_again(harness: LedgerHarness, ask: Ask) -> None:
    job_id = harness.submit()
    harness.dispatch(job_id)
    assert "queues: email" in ask("rebuild", "nowhere").output
    done = ask("rebuild", "email")
    assert done.output == "1 dispatched jobs of email go out again\n"
    assert harness.row(job_id).state == "available"


def test_limits_are_set_listed_with_waiting_tenants_paused_and_removed(harness: LedgerHarness, ask: Ask) -> None:
    assert ask("limits", "set", "domain:*", "--max-concurrent", 5).exit_code == 0
    assert ask("limits", "set", "t:1", "--rate", 10, "--seconds", 60, "--burst", 20).exit_code == 0
    wrong = ask("limits", "set", "Bad Name", "--rate", 1).exception
    assert isinstance(wrong, InvalidRequest) and {item.field for item in wrong.errors} == {"name", "rate_units"}
    job_id = harness.submit()
    harness.do("UPDATE jobs SET limit_keys = '{domain:a.example}' WHERE id = :id", id=job_id)
    assert "is paused until" in ask("limits", "pause", "t:1", 60, "--reason", "[moving]").output
    shown = ask("limits", "list").output
    for words in ("domain:*  5 at once", "10 in 60 s, burst 20", "domain:a.example", "1 tenants", "[moving]", "20.0"):
        assert words in shown, shown
    (first, second) = orjson.loads(ask("limits", "list", "--json").output)["limits"]
    assert (first["keys"][0]["waiting_tenants"], second["keys"][0]["paused_reason"]) == (1, "[moving]")
    assert ask("limits", "resume", "t:1").exit_code == 0
    assert ask("limits", "remove", "t:1").exit_code == 0
    assert isinstance(ask("limits", "remove", "t:1").exception, LimitNotFound)


def test_weights_and_quotas_of_tenants_are_set_and_listed(harness: LedgerHarness, ask: Ask) -> None:
    (name,) = harness.all("SELECT name FROM tenants")
    assert ask("tenants", "weight", name, 2.5).output == f"{name} has weight 2.5\n"
    assert ask("tenants", "quota", name, "email", 100).output == f"100 jobs of {name} may wait in email\n"
    assert isinstance(ask("tenants", "quota", name, "nowhere", 1).exception, InvalidRequest)
    assert isinstance(ask("tenants", "weight", "nobody", 1).exception, LimitNotFound)
    assert ask("tenants", "quota", name, "email").exit_code == 2
    shown = ask("tenants", "list").output
    assert "2.5" in shown and "100" in shown
    assert ask("tenants", "quota", name, "email", "--remove").exit_code == 0
