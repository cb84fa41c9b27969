"""Named locks are rows that only the platform's own logins can lock; any login can take advisory locks."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg2
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import Engine

from jobplatform.ledger import markers, retention, schema
from jobplatform.ledger.dispatching import ensure_partitions
from tests.support.ledger_harness import LedgerHarness

QUEUES = "unnest(array['email', 'llm', 'video', 'webhooks']) q"
ATTACK = (
    f"SELECT pg_advisory_lock(hashtext('jobplatform.dispatch'), hashtext(q)) FROM {QUEUES}",
    "SELECT pg_advisory_lock(hashtext(name)) FROM unnest(array['jobplatform.epoch', 'jobplatform.markers', "
    "'jobplatform.partitions']) AS name",
    "SELECT pg_advisory_lock(7163201)",
)


@pytest.fixture
def reporter(harness: LedgerHarness) -> Iterator[Engine]:
    """A login with the reporting role, such as an analyst's."""
    harness.do("DROP ROLE IF EXISTS analyst")
    harness.do("CREATE ROLE analyst LOGIN PASSWORD 'analyst' IN ROLE jobplatform_reporting, jobplatform_submit")
    url = harness.url.split("@")[1]
    engine = create_engine(f"postgresql+psycopg2://analyst:analyst@{url}", isolation_level="AUTOCOMMIT")
    try:
        yield engine
    finally:
        engine.dispose()
        harness.do("DROP ROLE analyst")


def test_locks_of_a_reporting_login_block_nothing(harness: LedgerHarness, reporter: Engine) -> None:
    with reporter.connect() as session:
        for statement in ATTACK:
            session.execute(text(statement))
        job_id = harness.submit()
        harness.dispatch(job_id)
        assert read_verdict(harness) == "ready"
        with harness.ledger.transaction() as connection:
            connection.execute(text("SET LOCAL lock_timeout = '2s'"))
            markers.due_markers(connection, 1, 1)
            ensure_partitions(connection)
            connection.execute(text("SELECT take_lock('epoch')"))
        schema.upgrade(harness.url)
        with pytest.raises(Exception, match="permission denied"):
            session.execute(text("SELECT * FROM locks FOR UPDATE"))
        with pytest.raises(Exception, match="permission denied"):
            session.execute(text("BEGIN; LOCK TABLE alembic_version IN SHARE UPDATE EXCLUSIVE MODE"))


def read_verdict(harness: LedgerHarness) -> str:
    """Read queue `email` as a dispatcher does; return the verdict."""
    with harness.ledger.transaction() as connection:
        return str(
            connection.execute(
                text("SELECT verdict FROM read_queue('email', NULL, NULL, NULL, ARRAY['a', 'b'], 10)")
            ).scalar_one()
        )


def test_a_lock_is_held_until_the_transaction_ends_and_try_locks_never_waits(harness: LedgerHarness) -> None:
    harness.do("INSERT INTO broker_epochs (epoch, current) VALUES (gen_random_uuid(), true) ON CONFLICT DO NOTHING")
    assert read_verdict(harness) == "ready"
    with harness.ledger.transaction() as connection:
        taken = connection.execute(text("SELECT try_locks(ARRAY['dispatch/email', 'limit/a'])")).scalars().all()
        assert sorted(taken) == ["dispatch/email", "limit/a"]
        assert read_verdict(harness) == "elsewhere"
        with harness.ledger.transaction() as other:
            assert other.execute(text("SELECT try_locks(ARRAY['limit/a', 'limit/b'])")).scalars().all() == ["limit/b"]
    assert read_verdict(harness) == "ready"


def test_locks_of_limit_keys_are_deleted_when_no_transaction_holds_them(harness: LedgerHarness) -> None:
    harness.do("INSERT INTO locks SELECT 'limit/' || n FROM generate_series(1, 50) AS n ON CONFLICT DO NOTHING")
    connection = psycopg2.connect(harness.url.replace("+psycopg2", ""))
    connection.cursor().execute("SELECT take_lock('limit/7')")
    with harness.ledger.transaction() as session:
        assert retention.delete_free_locks(session, 1000) == 49
    connection.close()
    assert harness.all("SELECT name FROM locks WHERE name LIKE 'limit/%'") == ["limit/7"]
