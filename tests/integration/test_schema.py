"""Migrations: up → down → up, equality with the table definitions, named constraints, concurrent deployments."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from click.testing import CliRunner
from sqlalchemy import create_engine, text
from sqlalchemy.exc import IntegrityError

from jobplatform.cli.migrate import migrate
from jobplatform.config import read_settings
from jobplatform.devstack import postgres
from jobplatform.errors import ConfigurationError
from jobplatform.ledger import dispatching, schema
from jobplatform.ledger.tables import metadata
from migrations.naming import is_ours
from tests.support.ledger_harness import LedgerHarness, _administer


@pytest.fixture
def empty_url(instance):
    name = f"t_{uuid.uuid4().hex[:12]}"
    _administer(instance, f'CREATE DATABASE "{name}"')
    yield postgres.url(instance, name)
    _administer(instance, f'DROP DATABASE "{name}" WITH (FORCE)')


def test_migrating_up_down_and_up_gives_the_defined_tables(empty_url: str) -> None:
    schema.upgrade(empty_url)
    schema.downgrade(empty_url, "base")
    engine = create_engine(empty_url)
    with engine.connect() as connection:
        left = connection.execute(
            text("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')")
        ).scalars()
        assert set(left) == {"alembic_version"}
        functions = connection.execute(text("SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace"))
        assert functions.scalars().all() == []
    schema.upgrade(empty_url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "include_name": is_ours})
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_the_command_downgrades_only_on_request(harness: LedgerHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBPLATFORM_DATABASE_URL", harness.url)
    monkeypatch.setattr("jobplatform.config.settings", lambda: read_settings())
    harness.submit()

    def ask(*arguments: str) -> Any:
        return CliRunner().invoke(migrate, arguments)

    assert isinstance(ask("--revision", "base").exception, ConfigurationError)
    assert harness.all("SELECT version_num FROM alembic_version") == [schema.head()], "nothing has changed"
    assert "0001" in str(ask("--revision", "9999").exception)
    assert ask("--down").exit_code == 2
    assert ask("--down", "--revision", "base").exit_code == 0
    assert harness.all("SELECT to_regclass('jobs')::text") == [None]
    assert f"revision {schema.head()}" in ask().output
    assert harness.all("SELECT count(*)::int FROM jobs") == [0]


def test_a_ledger_of_another_version_is_left_alone(harness: LedgerHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBPLATFORM_DATABASE_URL", harness.url)
    monkeypatch.setattr("jobplatform.config.settings", lambda: read_settings())
    harness.do("UPDATE alembic_version SET version_num = '9999'")
    for arguments in ([], ["--down", "--revision", "base"]):
        refused = CliRunner().invoke(migrate, arguments).exception
        assert isinstance(refused, ConfigurationError), refused
        for words in ("9999", f"newest is {schema.head()}", "run the version that migrated it"):
            assert words in str(refused)
    assert harness.all("SELECT version_num FROM alembic_version") == ["9999"]


def test_a_function_of_an_older_version_that_returns_other_columns_is_replaced(harness: LedgerHarness) -> None:
    with harness.ledger.transaction() as connection:
        (signature,) = connection.execute(text("SELECT 'claim_run'::regproc::regprocedure::text")).one()
        connection.execute(text(f"DROP FUNCTION {signature}"))
        old = "(p uuid, n integer, k text, l uuid, w uuid, o text, OUT verdict text) LANGUAGE sql AS 'SELECT NULL'"
        connection.execute(text(f"CREATE FUNCTION claim_run{old}"))
    schema.upgrade(harness.url)
    job_id, _ = harness.running()
    assert harness.row(job_id).state == "running"


def test_two_deployments_can_migrate_concurrently(empty_url: str) -> None:
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: _upgrade_in_a_process(empty_url), range(2)))
    engine = create_engine(empty_url)
    with engine.connect() as connection:
        assert schema.revision_of(connection) == schema.head()
    engine.dispose()


def _upgrade_in_a_process(url: str) -> None:
    import subprocess
    import sys

    code = f"from jobplatform.ledger import schema; schema.upgrade({url!r})"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("broken", "constraint"),
    [
        ("state = 'succeeded'", "jobs_state_is_live"),
        ("state = 'running'", "jobs_lease_iff_running"),
        ("state = 'dispatched'", "jobs_dispatched_has_epoch"),
        ("state = 'dead'", "jobs_dead_has_reason"),
        ("priority = 10", "jobs_priority_in_range"),
        ("attempt = 99, run_no = 99", "jobs_attempt_in_range"),
        ("attempt = 1", "jobs_run_no_covers_attempts"),
        ("lease_id = gen_random_uuid()", "jobs_lease_iff_running"),
        ("cancel_requested_at = now()", "jobs_cancel_request_is_running"),
        ("result = '1'", "jobs_live_has_no_result"),
    ],
)
def test_named_constraints_enforce_the_state_machine(harness: LedgerHarness, broken: str, constraint: str) -> None:
    harness.submit()
    with pytest.raises(IntegrityError, match=constraint):
        harness.do(f"UPDATE jobs SET {broken}")


def test_partitions_are_created_ahead_and_a_missing_partition_loses_no_data(harness: LedgerHarness) -> None:
    with harness.ledger.transaction() as connection:
        assert dispatching.ensure_partitions(connection) > 0
        assert dispatching.ensure_partitions(connection) == 0
    for table in ("job_history", "job_runs", "job_events"):
        names = harness.all(
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = CAST(:t AS regclass)", t=table
        )
        assert f"{table}_default" in names and len(names) >= 14
        for name in names:
            if not name.endswith("default"):
                harness.do(f"DROP TABLE {name}")
    job_id, lease_id = harness.running()
    assert harness.settle(job_id, lease_id) == ("settled", "succeeded")
    assert harness.row(job_id).state == "succeeded"


def test_a_plain_url_is_read_as_psycopg2() -> None:
    from jobplatform.config import Settings

    for plain in ("postgresql://a:b@h/d", "postgres://a:b@h/d"):
        assert Settings(database_url=plain).database_url.get_secret_value() == "postgresql+psycopg2://a:b@h/d"
