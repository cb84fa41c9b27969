"""The steps of the page on backup and restore: a dump of the ledger is restored into another Postgres."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from jobplatform.config import Settings
from jobplatform.devstack import postgres
from jobplatform.devstack.instance import Instance, taken
from jobplatform.devstack.stack import new_stack
from jobplatform.doctor.ledger_checks import check_ledger
from jobplatform.domain.feeds import FeedPosition as Cursor
from jobplatform.domain.feeds import Wanted
from jobplatform.ledger import schema
from jobplatform.ledger.session import Ledger, open_ledger
from jobplatform.usecases.read_feed import now_in, read_page
from tests.support.ledger_harness import LIMITS, LedgerHarness
from tests.support.servers import STACK
from tests.support.waiting import eventually

NAME = f"{STACK}-restored"


@pytest.fixture
def other() -> Iterator[Instance]:
    """A second, empty Postgres server."""
    with taken(NAME):
        stack = new_stack(NAME, echo=lambda _: None, durable=False)
        try:
            postgres.start_postgres(stack.instance, durable=False)
            postgres.create_database(stack.instance)
            yield stack.instance
        finally:
            postgres.stop_postgres(stack.instance)
            stack.forget()


def call(instance: Instance, program: str, *arguments: str) -> None:
    """Run a Postgres client program, as the page instructs."""
    done = subprocess.run(
        [str(postgres.find_binaries(instance) / program), *arguments], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def jobs_behind(ledger: Ledger, harness: LedgerHarness, cursor: Cursor, event: str | None = None) -> set[str]:
    page, _, _ = read_page(ledger, harness.tenant_id, cursor, Wanted(), 100)
    return {str(entry.job_id) for entry in page if event in (None, entry.event)}


def test_a_restored_ledger_has_all_jobs_and_its_feeds_continue(
    harness: LedgerHarness, instance: Instance, other: Instance, tmp_path
) -> None:
    waiting, (running, lease_id), done = harness.submit(priority=7), harness.running(), harness.running()
    harness.settle(*done)
    counts = (
        "SELECT state, count(*) FROM jobs GROUP BY state UNION ALL SELECT 'ended', count(*) FROM job_history ORDER BY 1"
    )
    before = [tuple(row) for row in harness.all(counts)]
    rows = {job_id: harness.row(job_id) for job_id in (waiting, running, done[0])}
    # wait for the newest event: the feed stays behind other open transactions, since their events may precede it
    eventually(lambda: str(done[0]) in jobs_behind(harness.ledger, harness, Cursor(), "succeeded"))
    cursor = now_in(harness.ledger, harness.tenant_id)

    dump = str(tmp_path / "ledger.dump")
    call(instance, "pg_dump", "--format=custom", f"--file={dump}", harness.url.replace("+psycopg2", ""))
    url = postgres.url(other)
    roles = ("jobplatform_submit", "jobplatform_reporting", "jobplatform_worker")
    commands = [part for role in roles for part in ("-c", f"CREATE ROLE {role} NOLOGIN")]
    call(other, "psql", "--set=ON_ERROR_STOP=1", url.replace("+psycopg2", ""), *commands)
    call(other, "pg_restore", "--no-owner", "--exit-on-error", f"--dbname={url.replace('+psycopg2', '')}", dump)
    ledger = open_ledger(url, name="test", limits=LIMITS)
    restored = LedgerHarness(ledger, url, harness.tenant_id, harness.epoch, harness.worker)
    try:
        assert "feeds" in {result.check for result in check_ledger(ledger, Settings(database_url=url))}, (
            "the page's step 3"
        )
        schema.upgrade(url)
        assert "feeds" not in {result.check for result in check_ledger(ledger, Settings(database_url=url))}

        assert [tuple(row) for row in restored.all(counts)] == before
        assert {job_id: restored.row(job_id) for job_id in rows} == rows
        assert restored.settle(running, lease_id)[0] == "settled", "the dump includes the functions"
        new = restored.submit()
        eventually(lambda: jobs_behind(ledger, restored, cursor) == {str(running), str(new)})
        assert str(done[0]) in jobs_behind(ledger, restored, Cursor())
    finally:
        ledger.close()
