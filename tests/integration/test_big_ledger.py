"""I7: with a backlog, no query that runs continuously scans the whole live table."""

from __future__ import annotations

from uuid import UUID

import pytest

from jobplatform.config import Settings
from jobplatform.dispatch.rescue import Rescuer
from jobplatform.domain.jobs import SubmitJob
from jobplatform.ledger import (
    dead_letters,
    dead_messages,
    dispatching,
    jobs,
    keys,
    markers,
    queues,
    workers,
)
from jobplatform.ledger.dispatching import Dispatched
from jobplatform.ledger.ids import new_id
from jobplatform.usecases import track_workers
from jobplatform.usecases.explain_job import explain_job
from jobplatform.usecases.submit_job import ApiKey, check_submission, submit_checked
from tests.support.ledger_harness import LedgerHarness, registry
from tests.support.waiting import eventually

BACKLOG = 12_000


@pytest.fixture
def big(harness: LedgerHarness) -> LedgerHarness:
    with harness.ledger.transaction() as connection:
        caller = ApiKey(keys.create_key(connection, harness.tenant_id, "test"))
    for _ in range(BACKLOG // 1000):
        submissions = [(caller, check_submission(registry(), SubmitJob("test.echo", {}))) for _ in range(1000)]
        submit_checked(harness.ledger, None, submissions)
    harness.do("VACUUM (ANALYZE) jobs")
    return harness


def test_no_hot_query_scans_the_backlog(big: LedgerHarness) -> None:
    ledger = big.ledger

    def scanned() -> int:
        """Return the rows of `jobs` that sequential scans have read; a backend flushes its statistics on request."""
        with ledger.statement() as connection:
            connection.exec_driver_sql("SELECT pg_stat_force_next_flush()")
        ledger.call("waiting_queues", [], [])  # the connection for calls flushes too, at its next statement
        ((rows,),) = [big.all("SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = 'jobs'")]
        return int(rows)

    before = scanned()
    assert dispatching.waiting_queues(ledger, {}) == ["email"]
    picked: list[Dispatched] = []
    for window in (5, 5, 100):
        with big.round(window=window, batch=50, ledger=ledger) as (result, _):
            picked = result or picked
    out = UUID(str(picked[1].id))
    dispatching.wake_jobs(ledger, 100, None)
    lease_id = new_id()
    assert big.claim(picked[0].id, lease_id, dispatch_no=1).verdict == "claimed"
    track_workers.beat(ledger, big.worker, [lease_id])
    with ledger.statement() as connection:
        queues.measure_queues(connection, 20)
        queues.active_of(connection, big.tenant_id)
        workers.rescue_runs(connection, 20)
        jobs.get_job(connection, big.tenant_id, new_id())
        jobs.list_jobs(connection, big.tenant_id, below=None, above=None, limit=50)
        dispatching.return_other_epochs(connection, big.epoch, 100)
        queues.overdue_seconds(connection)
        queues.dead_letters(connection)
        assert dead_messages.look_up(connection, {out: jobs.earliest_end(out)})
    with ledger.transaction() as connection:
        assert dead_letters.watch_replays(connection) == []
    big.do("INSERT INTO queue_markers (id, queue, priority, seen_at) VALUES (gen_random_uuid(), 'email', 4, now())")
    with ledger.statement() as connection:
        markers.due_markers(connection, 0.0, 20.0)
        markers.confirm_lost_messages(connection, 20.0)
    explain_job(ledger, Settings(database_url=big.url), big.tenant_id, out)
    Rescuer(ledger, heartbeat_seconds=1, lease_seconds=5).poll()
    assert big.settle(picked[0].id, lease_id) == ("settled", "succeeded")
    big.submit()
    ledger.call("wake_jobs", 1, None)
    eventually(lambda: big.all("SELECT n_tup_del FROM pg_stat_user_tables WHERE relname = 'jobs'") == [1], seconds=10)
    assert scanned() - before == 0
