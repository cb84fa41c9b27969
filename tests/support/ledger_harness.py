"""Ledgers for tests: a separate database per test, copied from the migrated template."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg2
from pydantic import BaseModel
from sqlalchemy import text

from jobplatform.config import DEFAULT_QUEUES
from jobplatform.dispatch.waiting import Waiting
from jobplatform.domain.jobs import SubmitJob
from jobplatform.domain.kinds import Kind, KindRegistry
from jobplatform.domain.retry import Fixed
from jobplatform.domain.window import slots_of
from jobplatform.ledger import dispatching, keys, queues, runs
from jobplatform.ledger.ids import new_id
from jobplatform.ledger.runs import Settlement
from jobplatform.ledger.session import Ledger, Limits, open_ledger
from jobplatform.usecases.submit_job import submit_job
from jobplatform.usecases.track_workers import WorkerInfo, register

LIMITS = Limits(statement_ms=20_000, lock_ms=10_000, idle_in_transaction_ms=30_000)


class Anything(BaseModel):
    """A payload that takes anything."""

    model_config = {"extra": "allow"}


def registry() -> KindRegistry:
    """Return kinds for tests: `test.echo` on the queue email, `test.video` on video."""
    kind_registry = KindRegistry()
    for name, queue in (("test.echo", "email"), ("test.video", "video"), ("test.llm", "llm")):
        kind_registry.add(
            Kind(
                name=name,
                queue=queue,
                payload=Anything,
                handler=lambda payload, ctx: None,
                retry=Fixed(1),
                max_attempts=3,
                crash_limit=2,
                lost_limit=3,
            )
        )
    return kind_registry


@dataclass
class LedgerHarness:
    """A ledger with a tenant, and shorthands for what tests do with it."""

    ledger: Ledger
    url: str
    tenant_id: UUID
    epoch: UUID
    worker: WorkerInfo

    def submit(self, kind: str = "test.echo", payload: dict[str, Any] | None = None, **fields: Any) -> UUID:
        """Submit a job and return its id."""
        command = SubmitJob(kind, payload or {}, **fields)
        return submit_job(self.ledger, None, registry(), self.tenant_id, command).job.id

    def dispatch(self, *job_ids: UUID) -> None:
        """Mark these jobs as dispatched in the current epoch, as a round of the dispatcher does."""
        marked = self.all(
            "WITH marked AS (UPDATE jobs SET state = 'dispatched', state_at = clock_timestamp(), "
            "dispatched_at = clock_timestamp(), dispatch_no = dispatch_no + 1, "
            "epoch = (SELECT epoch FROM broker_epochs WHERE current) "
            "WHERE id = ANY (:ids) AND state = 'available' RETURNING *) "
            "INSERT INTO job_events (job_id, tenant_id, event, state, run_no, data) "
            "SELECT id, tenant_id, 'dispatched', state, run_no, jsonb_build_object('dispatch_no', dispatch_no) "
            "FROM marked RETURNING job_id",
            ids=list(job_ids),
        )
        assert len(marked) == len(job_ids)

    @contextmanager
    def round(
        self, queue: str = "email", window: int = 100, batch: int = 500, ledger: Ledger | None = None
    ) -> Iterator[Any]:
        """Open a round of a queue, as a dispatcher that knows the recent arrivals; it commits at the end of the block.

        Yields the marked jobs and the open round.
        """
        mine = ledger or open_ledger(self.url, name="dispatcher", limits=LIMITS)
        waiting = Waiting(lambda tenant: 1.0)
        try:
            with dispatching.read_queue(mine, queue, arrivals=100_000) as opened:
                waiting.learn(opened.queue_state)
                takes = waiting.shares.plan(slots_of(opened.queue_state.in_flight, window, batch), {})
                jobs = []
                if opened.queue_state.verdict == "ready" and takes:
                    chosen = [(take.flow.id, take.jobs) for take in takes]
                    jobs, _ = opened.dispatch(chosen, [0.0] * len(takes))
                yield jobs, opened
        finally:
            if ledger is None:
                mine.close()

    def claim(self, job_id: UUID, lease_id: UUID | None = None, dispatch_no: int | None = None, **more: Any) -> Any:
        """Claim a job, by default in its current dispatch."""
        number = dispatch_no if dispatch_no is not None else self.row(job_id).dispatch_no
        return runs.claim_run(
            self.ledger,
            job_id=job_id,
            dispatch_no=number,
            kind=more.get("kind", "test.echo"),
            lease_id=lease_id or new_id(),
            worker_id=more.get("worker_id", self.worker.id),
            node="worker@test",
        )

    def running(self, **fields: Any) -> tuple[UUID, UUID]:
        """Submit a job and start it; return (job, lease)."""
        job_id, lease_id = self.submit(**fields), new_id()
        self.dispatch(job_id)
        assert self.claim(job_id, lease_id, kind=fields.get("kind", "test.echo")).verdict == "claimed"
        return job_id, lease_id

    def settle(self, job_id: UUID, lease_id: UUID, outcome: str = "succeeded", state: str | None = None, **more: Any):
        """Settle a run; returns (verdict, state)."""
        chosen = state or {"succeeded": "succeeded", "failed": "scheduled"}.get(outcome, "scheduled")
        return runs.settle_run(self.ledger, job_id, lease_id, Settlement(outcome, chosen, **more))[:2]

    def row(self, job_id: UUID) -> Any:
        """Return the job's row, live or final (then with finished_at)."""
        with self.ledger.statement() as connection:
            live = connection.execute(text("SELECT * FROM jobs WHERE id = :id"), {"id": job_id}).one_or_none()
            if live is not None:
                return live
            return connection.execute(text("SELECT * FROM job_history WHERE id = :id"), {"id": job_id}).one_or_none()

    def events(self, job_id: UUID) -> list[str]:
        """Return the job's events in order."""
        return self.all("SELECT event FROM job_events WHERE job_id = :id ORDER BY id", id=job_id)

    def all(self, statement: str, **values: Any) -> list[Any]:
        """Run SQL; returns the rows, or their one column."""
        with self.ledger.statement() as connection:
            rows = connection.execute(text(statement), values).all()
        return [row[0] if len(row) == 1 else row for row in rows]

    def do(self, statement: str, **values: Any) -> None:
        """Run SQL that returns nothing."""
        with self.ledger.statement() as connection:
            connection.execute(text(statement), values)

    def assert_conserved(self) -> None:
        """I8: accepted = finished + live, per queue, from independent records."""
        counted = self.all(
            "SELECT queue, sum(accepted)::int, sum(finished)::int FROM queue_counters GROUP BY queue ORDER BY queue"
        )
        live = dict(self.all("SELECT queue, count(*)::int FROM jobs GROUP BY queue"))
        final = dict(self.all("SELECT queue, count(*)::int FROM job_history GROUP BY queue"))
        for queue, accepted, finished in counted:
            assert finished == final.get(queue, 0), f"{queue}: {finished} counted as finished"
            assert accepted == finished + live.get(queue, 0), f"{queue}: {accepted} accepted"


def card(worker_id: UUID | None = None) -> WorkerInfo:
    """Return the description of a worker for tests."""
    return WorkerInfo(worker_id or new_id(), "worker@test", "host", 1, "prefork", 4, ["email", "video"], ["test.echo"])


@contextmanager
def new_harness(instance: Any) -> Iterator[LedgerHarness]:
    """Yield a harness with its own database."""
    from jobplatform.devstack import postgres

    name = f"t_{uuid.uuid4().hex[:12]}"
    _administer(instance, f'CREATE DATABASE "{name}" TEMPLATE jobplatform')
    url = postgres.url(instance, name)
    ledger = open_ledger(url, name="test", limits=LIMITS, connections=20)
    try:
        with ledger.transaction() as connection:
            tenant_id = keys.create_tenant(connection, "acme")
            epoch = new_id()
            dispatching.put_epoch(connection, epoch)
            for queue in DEFAULT_QUEUES:
                queues.put_queue(connection, queue, 4, 4.0)
        worker = card()
        register(ledger, worker)
        yield LedgerHarness(ledger, url, tenant_id, epoch, worker)
    finally:
        ledger.close()
        _administer(instance, f'DROP DATABASE "{name}" WITH (FORCE)')


def _administer(instance: Any, statement: str) -> None:
    from jobplatform.devstack import postgres

    connection = psycopg2.connect(
        host="127.0.0.1",
        port=instance.ports["postgres"],
        user=postgres.USER,
        password=instance.secret,
        dbname="postgres",
    )
    connection.autocommit = True
    with connection.cursor() as cursor:
        # two test processes must not copy the template at the same time
        cursor.execute("SELECT pg_advisory_lock(4711)")
        cursor.execute(statement)
    connection.close()
