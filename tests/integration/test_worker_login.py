"""The worker login has the rights for jobs from claim to retention, and no others."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Iterator

import psycopg2
import psycopg2.errors
import pytest

from jobplatform.ledger import retention
from jobplatform.ledger.logins import WORKER_GROUP, put_login
from jobplatform.ledger.session import open_ledger
from tests.support.ledger_harness import LIMITS, LedgerHarness, _administer


@pytest.fixture
def login(harness: LedgerHarness, instance) -> Iterator[str]:
    """The URL of a worker's login; roles are server-wide, so it is dropped afterwards."""
    name, password = f"worker_{uuid.uuid4().hex[:8]}", secrets.token_urlsafe(8)
    with harness.ledger.transaction() as connection:
        put_login(connection, name, password, WORKER_GROUP, {})
    head, _, rest = harness.url.partition("://")
    yield f"{head}://{name}:{password}@{rest.partition('@')[2]}"
    harness.ledger.close()
    _administer(instance, f"DROP ROLE {name}")


def test_the_worker_login_can_run_jobs_and_drop_old_history(harness: LedgerHarness, login: str) -> None:
    ledger = open_ledger(login, name="test", limits=LIMITS)
    theirs = LedgerHarness(ledger, login, harness.tenant_id, harness.epoch, harness.worker)
    try:
        job_id, lease_id = theirs.running()
        assert theirs.settle(job_id, lease_id) == ("settled", "succeeded")
        theirs.do("SELECT ensure_partitions('job_runs', 7, now() - interval '90 days', now())")
        with ledger.transaction() as connection:
            old = [name for name in retention.old_partitions(connection, 30) if name.startswith("job_runs_")]
            for name in old:
                retention.drop_partition(connection, name)
            assert old and not set(old) & set(retention.old_partitions(connection, 30))

        for name in ("jobs", "api_keys", "job_runs", "job_runs_default", "job_runs_pkey", *partitions(theirs)):
            assert theirs.all(f"SELECT drop_partition('{name}')") == [False], "only past partitions may be dropped"
    finally:
        ledger.close()


def test_the_worker_login_cannot_change_tables_keys_or_the_audit_log(login: str) -> None:
    connection = psycopg2.connect(login.replace("+psycopg2", ""))
    connection.autocommit = True
    with connection.cursor() as cursor:
        for forbidden in (
            "DROP TABLE jobs",
            "ALTER TABLE jobs ADD COLUMN x integer",
            "CREATE TABLE x ()",
            "CREATE FUNCTION now() RETURNS timestamptz LANGUAGE sql AS 'SELECT NULL::timestamptz'",
            "TRUNCATE jobs",
            "UPDATE api_keys SET is_operator = true",
            "INSERT INTO api_keys SELECT * FROM api_keys",
            "DELETE FROM audit_log",
            "UPDATE alembic_version SET version_num = '0001'",
            "ALTER FUNCTION drop_partition SET lock_timeout = 0",
        ):
            with pytest.raises(psycopg2.errors.InsufficientPrivilege):
                cursor.execute(forbidden)
    connection.close()


def partitions(harness: LedgerHarness) -> list[str]:
    """Return the partitions of runs for the present and the future."""
    return harness.all(
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relname ~ '^job_runs_[0-9]{8}$' "
        "AND to_date(right(relname, 8), 'YYYYMMDD') + 7 > now()"
    )
