"""The doctor reports each problem that keeps jobs from running, with the command that fixes it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from jobplatform.broker.connection import connected
from jobplatform.cli.main import cli
from jobplatform.config import QueueSettings, Settings, settings
from jobplatform.devstack import rabbitmq
from jobplatform.devstack.instance import Instance
from jobplatform.doctor.broker_checks import check_broker
from jobplatform.doctor.examine import examine
from jobplatform.doctor.finding import Finding
from jobplatform.doctor.ledger_checks import check_ledger, check_processes
from jobplatform.doctor.outside_checks import check_outside, check_settings
from jobplatform.domain.kinds import Kind, KindRegistry, load_kinds
from jobplatform.ledger import dispatching
from jobplatform.ledger.ids import new_id
from jobplatform.ledger.session import open_ledger
from jobplatform.usecases.track_workers import register
from tests.support.desk import submit
from tests.support.ledger_harness import Anything, LedgerHarness, card
from tests.support.waiting import eventually


@pytest.fixture
def config(harness: LedgerHarness, broker_url: str, instance: Instance, tmp_path: Path) -> Settings:
    return Settings(
        database_url=harness.url,
        broker_url=broker_url,
        management_url=f"http://{rabbitmq.USER}:{instance.secret}@127.0.0.1:{instance.ports['management']}",
        artifact_url=(tmp_path / "artifacts").as_uri(),
    )


def by_check(result: Iterator[Finding]) -> dict[str, Finding]:
    return {item.check: item for item in result}


def registry(*kinds: tuple[str, str]) -> KindRegistry:
    kind_registry = KindRegistry()
    for name, queue in kinds:
        kind_registry.add(Kind(name=name, queue=queue, payload=Anything, handler=lambda payload, ctx: None))
    return kind_registry


def beat(harness: LedgerHarness, error: str | None = None) -> None:
    with harness.ledger.statement() as connection:
        dispatching.record_dispatcher_heartbeat(connection, new_id(), "host", 1, error)


# --- the ledger


def test_a_healthy_ledger_passes_its_checks(harness: LedgerHarness, config: Settings) -> None:
    result = by_check(check_ledger(harness.ledger, config))
    assert set(result) == {"database", "migrated", "clock", "connections", "snapshots", "bloat"}
    assert {item.level for item in result.values()} == {"ok"}


def test_an_unreachable_ledger_is_one_finding(config: Settings) -> None:
    ledger = open_ledger("postgresql+psycopg2://x:y@127.0.0.1:9/none", name="doctor")
    (item,) = check_ledger(ledger, config)
    assert (item.check, item.level) == ("database", "failed") and "JOBPLATFORM_DATABASE_URL" in item.remedy


@pytest.mark.parametrize(("revision", "remedy"), [(None, "jobplatform migrate"), ("9999", "deploy the version")])
def test_a_ledger_of_another_version_is_reported(
    harness: LedgerHarness, config: Settings, revision: str | None, remedy: str
) -> None:
    harness.do("DELETE FROM alembic_version")
    if revision is not None:
        harness.do("INSERT INTO alembic_version VALUES (:r)", r=revision)
    result = by_check(check_ledger(harness.ledger, config))["migrated"]
    assert result.level == "failed" and result.remedy.startswith(remedy)


def test_other_roles_that_may_create_functions_in_the_schema_are_reported(
    harness: LedgerHarness, config: Settings
) -> None:
    assert "schema" not in {result.check for result in check_ledger(harness.ledger, config)}
    harness.do("GRANT CREATE ON SCHEMA public TO PUBLIC")
    result = {result.check: result for result in check_ledger(harness.ledger, config)}["schema"]
    assert (result.level, result.remedy) == ("warning", "REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    harness.do(result.remedy)
    assert "schema" not in {result.check for result in check_ledger(harness.ledger, config)}


def test_an_old_snapshot_is_reported(harness: LedgerHarness, config: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobplatform.doctor.ledger_checks.OLD_SNAPSHOT_SECONDS", -1)
    with harness.ledger.transaction() as connection:
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        connection.exec_driver_sql("SELECT 1")
        pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        result = by_check(check_ledger(harness.ledger, config))["snapshots"]
    assert result.level == "warning" and str(pid) in result.remedy


# --- processes


def test_healthy_processes_pass_their_checks(harness: LedgerHarness, config: Settings) -> None:
    beat(harness)
    register(harness.ledger, card())
    kinds = registry(("test.echo", "email"))
    config = config.model_copy(update={"queues": {"email": QueueSettings(), "video": QueueSettings()}})
    result = by_check(check_processes(harness.ledger, config, kinds))
    for name in ("llm", "webhooks"):
        assert result.pop(f"queue {name}").level == "warning", "the queue is in the ledger but not in the settings"
    assert {item.level for item in result.values()} == {"ok"}, result


def test_a_missing_dispatcher_and_one_without_a_broker_are_reported(harness: LedgerHarness, config: Settings) -> None:
    result = by_check(check_processes(harness.ledger, config, None))["dispatcher"]
    assert (result.level, result.remedy) == ("failed", "jobplatform dispatch")
    beat(harness, "no route to host")
    result = by_check(check_processes(harness.ledger, config, None))["dispatcher"]
    assert result.level == "failed" and "no route to host" in result.message
    beat(harness)
    assert by_check(check_processes(harness.ledger, config, None))["dispatcher"].level == "ok"


def test_waiting_jobs_are_reported_with_their_cause(harness: LedgerHarness, config: Settings) -> None:
    def queue(name: str) -> Finding:
        kinds = registry(("test.echo", "email"), ("new.one", "email"))
        return by_check(check_processes(harness.ledger, config, kinds))[name]

    assert queue("queue llm").level == "warning", "no worker consumes the queue, but no job waits"
    job_id = submit(harness, queue="llm")
    result = queue("queue llm")
    assert result.level == "failed" and "-Q llm" in result.remedy
    harness.do("UPDATE jobs SET queue = 'email', state_at = state_at - interval '5 min' WHERE id = :id", id=job_id)
    result = queue("queue email")
    assert result.level == "warning" and "slots are free" in result.message
    harness.do("UPDATE queues SET paused_at = now() WHERE name = 'email'")
    assert queue("queue email").remedy == "jobplatform queues resume email"
    assert queue("kind new.one").level == "failed"
    harness.do("UPDATE jobs SET state = 'scheduled', run_at = now() - interval '1 h' WHERE id = :id", id=job_id)
    assert queue("scheduled").level == "failed"
    harness.do("UPDATE jobs SET state = 'dead', error = '{}' WHERE id = :id", id=job_id)
    assert "1 jobs need an operator" in queue("dead letters").message
    harness.do("DELETE FROM queues WHERE name = 'video'")
    assert queue("queue video").level == "failed"


# --- RabbitMQ


def test_a_healthy_broker_passes_its_checks(harness: LedgerHarness, config: Settings) -> None:
    result = by_check(check_broker(harness.ledger, config))
    assert {name: item.level for name, item in result.items()} == {
        "rabbitmq": "ok",
        "epoch": "failed",  # no dispatcher has declared the sentinel of this test's vhost
        "alarms": "ok",
        "consumers": "failed",  # the ledger has a worker here that RabbitMQ has never seen
        "topology": "ok",
    }
    assert "1 workers say that they consume it, RabbitMQ has 0 consumers" in result["consumers"].message
    harness.do("UPDATE workers SET stopped_at = now()")
    assert "consumers" not in by_check(check_broker(harness.ledger, config))


def test_a_policy_that_drops_messages_is_reported(harness: LedgerHarness, config: Settings, instance: Instance) -> None:
    vhost = config.broker_url.get_secret_value().rpartition("/")[2]
    policy = {"pattern": "^email$", "definition": {"max-length": 5}, "apply-to": "queues"}
    rabbitmq.call_management(instance, f"/api/policies/{vhost}/shrink", "PUT", policy)
    try:
        result = eventually(lambda: by_check(check_broker(harness.ledger, config)).get("policies"))
    finally:
        rabbitmq.call_management(instance, f"/api/policies/{vhost}/shrink", "DELETE")
    assert result.level == "failed" and "email (max-length=5, by policy 'shrink')" in result.message


def test_an_unreachable_broker_is_one_finding(harness: LedgerHarness, config: Settings) -> None:
    (item,) = check_broker(harness.ledger, config.model_copy(update={"broker_url": secret("amqp://x:y@127.0.0.1:9/v")}))
    assert (item.check, item.level) == ("rabbitmq", "failed")
    assert "RabbitMQ at 127.0.0.1:9 can't be reached" in item.message


def secret(text: str) -> Any:
    from pydantic import SecretStr

    return SecretStr(text)


def test_a_missing_queue_and_a_queue_with_other_arguments_are_reported(
    harness: LedgerHarness, config: Settings
) -> None:
    url = config.broker_url.get_secret_value()
    with connected(url, name="test") as connection:
        connection.channel().queue_delete("video")
    result = by_check(check_broker(harness.ledger, config))["topology"]
    assert (result.level, result.remedy) == ("failed", "jobplatform broker apply") and "video" in result.message
    with connected(url, name="test") as connection:
        connection.channel().queue_declare("video", durable=True, auto_delete=False)
    result = by_check(check_broker(harness.ledger, config))["topology"]
    assert result.level == "failed" and "x-dead-letter-exchange is None, expected 'jobs.dead'" in result.message


def test_without_the_management_api_the_skipped_checks_are_reported(harness: LedgerHarness, config: Settings) -> None:
    result = by_check(check_broker(harness.ledger, config.model_copy(update={"management_url": None})))
    assert result["management"].level == "warning" and "topology" not in result


# --- external services, settings


def test_services_that_the_kinds_need_are_checked(config: Settings, tmp_path: Path) -> None:
    kinds = load_kinds(("workers.handlers.builtin",), config.pools)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
    closed = config.model_copy(
        update={
            "smtp_url": secret(f"smtp://127.0.0.1:{port}"),
            "llm_base_url": f"http://127.0.0.1:{port}/v1",
            "artifact_url": "file:///proc/nowhere",
        }
    )
    result = by_check(check_outside(closed, kinds))
    assert {name: item.level for name, item in result.items() if name != "ffmpeg"} == {
        "storage": "failed",
        "mail": "failed",
        "model server": "failed",
    }
    assert by_check(check_outside(config, registry()))["storage"].level == "ok"
    assert list((tmp_path / "artifacts").iterdir()) == [], "the check leaves no file behind"


@pytest.mark.parametrize(
    ("kind", "queue", "words"),
    [
        ({"hard_limit_seconds": 50_000.0}, {"prefetch": 2}, "RabbitMQ takes a message back"),
        ({"hard_limit_seconds": 7200.0}, {"prefetch": 2}, "jobs of hours"),
    ],
)
def test_contradictory_settings_are_reported(config: Settings, kind: Any, queue: Any, words: str) -> None:
    kinds = KindRegistry()
    kinds.add(Kind(name="a.b", queue="slow", payload=Anything, handler=lambda payload, ctx: None, **kind))
    changed = config.model_copy(update={"queues": {"slow": QueueSettings(**queue)}})
    assert any(setting.level == "warning" and words in setting.message for setting in check_settings(changed, kinds))
    assert [setting.level for setting in check_settings(config, registry(("x.y", "email")))] == ["ok"]


# --- all checks


def test_a_ledger_without_tables_is_reported_and_the_other_checks_run(harness: LedgerHarness, config: Settings) -> None:
    harness.do("DROP TABLE alembic_version")
    harness.do("DROP TABLE broker_epochs CASCADE")
    result = by_check(examine(harness.ledger, config))
    assert result["migrated"].remedy == "jobplatform migrate"
    assert "epoch" not in result and result["rabbitmq"].level == "ok"


def test_a_module_that_cannot_be_loaded_does_not_stop_the_other_checks(
    harness: LedgerHarness, config: Settings
) -> None:
    result = by_check(examine(harness.ledger, config.model_copy(update={"kind_modules": ("no.such.module",)})))
    assert result["kinds"].level == "failed" and "no.such.module" in result["kinds"].message
    assert {"database", "rabbitmq", "dispatcher"} <= set(result)


def test_the_command_explains_a_job(harness: LedgerHarness, config: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = harness.submit()
    for name in ("database_url", "broker_url", "management_url", "artifact_url"):
        value: Any = getattr(config, name)
        monkeypatch.setenv(f"JOBPLATFORM_{name.upper()}", str(getattr(value, "get_secret_value", lambda v=value: v)()))
    settings.cache_clear()
    try:
        done = CliRunner().invoke(cli, ["doctor", str(job_id)])
        answer = CliRunner().invoke(cli, ["doctor", "--json", str(new_id())])
    finally:
        settings.cache_clear()
    assert done.exit_code == 1
    for words in (
        "✗ dispatcher: none is alive",
        "→ jobplatform dispatch",
        "✓ database",
        "job: ahead of it",
        "failed",
    ):
        assert words in done.output, done.output
    assert '"code": "job_not_found"' in answer.output
