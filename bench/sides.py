"""The two sides on one stack: how to load jobs, start workers, and read results."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import create_engine, text
from sqlalchemy.engine import Engine

from jobplatform.config import DEFAULT_QUEUES, Settings
from jobplatform.devstack.instance import CHECKOUT
from jobplatform.devstack.processes import script, start, wait_for, wait_gone
from jobplatform.devstack.stack import Stack
from jobplatform.domain.jobs import SubmitJob
from jobplatform.domain.kinds import load_kinds
from jobplatform.ledger.hints import HintSender
from jobplatform.ledger.keys import create_key, create_tenant
from jobplatform.ledger.session import open_ledger
from jobplatform.usecases.submit_job import ApiKey, check_submission, submit_checked, submit_job

#: rows per transaction when many jobs are loaded
CHUNK = 1000


@dataclass(frozen=True)
class Pool:
    """A Celery pool and its slots."""

    name: str
    slots: int

    def __str__(self) -> str:
        return f"{self.name} {self.slots}"


def queue_setting(pool: str, window: int | None = None) -> str:
    """Return the setting of the bench's queue for a pool, with the values of the shipped `email` queue.

    `window` is for dispatch without workers, which would publish no more than the default window.
    """
    queue: dict[str, Any] = {"pool": pool, "prefetch": DEFAULT_QUEUES["email"]["prefetch"]}
    return orjson.dumps({"bench": queue if window is None else {**queue, "window_min": window}}).decode()


class Side:
    """The operations of both sides."""

    name: str
    database: str

    def __init__(self, stack: Stack, engine: Engine) -> None:
        self.stack, self.engine = stack, engine
        self._since: datetime
        self._done_before = 0

    def one(self, statement: str, **values: Any) -> Any:
        """Run a statement in autocommit mode; returns its single value, if it has one."""
        with self.engine.connect() as connection:
            result = connection.execution_options(isolation_level="AUTOCOMMIT").execute(text(statement), values)
            return result.scalar() if result.returns_rows else None

    def rows(self, statement: str, **values: Any) -> list[Any]:
        """Run a query."""
        with self.engine.connect() as connection:
            return list(connection.execute(text(statement), values))

    def begin(self) -> None:
        """Start counting from now."""
        self._since = self.one("SELECT clock_timestamp()")
        self._done_before += self.done()

    def done(self) -> int:
        """Return how many jobs have succeeded since `begin`."""
        return self._finished() - self._done_before

    def _finished(self) -> int:
        raise NotImplementedError

    def wait_done(self, count: int, seconds: float = 300) -> None:
        """Wait until this many jobs are done."""
        wait_for(f"{count} jobs of {self.name}", lambda: self.done() >= count, seconds=seconds)


class Ours(Side):
    """The platform: submit into the ledger, drain by dispatcher and worker."""

    name, database = "job platform", "jobplatform"

    def __init__(self, stack: Stack) -> None:
        url = Settings(database_url=stack.database_url).database_url.get_secret_value()
        super().__init__(stack, create_engine(url))
        self.ledger = open_ledger(url, name="bench", connections=4)
        self.hints = HintSender(self.ledger.statements)
        self.kinds = load_kinds(["bench.kinds"], {"bench": "prefork"})
        with self.ledger.transaction() as connection:
            self.tenant: UUID = create_tenant(connection, "bench")
            self.key = create_key(connection, self.tenant, "bench")

    def submit(self, n: int = 0) -> UUID:
        """Accept one job."""
        command = SubmitJob("bench.noop", {"n": n})
        return submit_job(self.ledger, self.hints, self.kinds, self.tenant, command).job.id

    def submit_timed(self) -> None:
        """Accept one job that carries the time of the call, in microseconds."""
        self.submit(int(time.time() * 1e6))

    def load(self, count: int) -> None:
        """Accept many jobs."""
        caller = ApiKey(self.key)
        for first in range(0, count, CHUNK):
            commands = [SubmitJob("bench.noop", {"n": n}) for n in range(first, min(first + CHUNK, count))]
            submit_checked(self.ledger, None, [(caller, check_submission(self.kinds, command)) for command in commands])

    def clear(self) -> None:
        """Delete all jobs."""
        self.one("TRUNCATE jobs, job_history, job_runs, job_events, queue_counters, workflows, workflow_steps")
        self._done_before = 0
        self.begin()

    def _finished(self) -> int:
        return int(self.one("SELECT coalesce(sum(finished), 0) FROM queue_counters"))

    def drain_rate(self) -> float:
        """Jobs per second between the first and the last success since `begin`."""
        return float(
            self.one(
                "SELECT (count(*) - 1) / extract(epoch FROM max(finished_at) - min(finished_at)) FROM job_history "
                "WHERE finished_at > :since",
                since=self._since,
            )
        )

    def start_seconds(self) -> list[float]:
        """Seconds from the call to the start of the handler's run, of every job since `begin`."""
        rows = self.rows(
            "SELECT (payload ->> 'n')::bigint, extract(epoch FROM started_at) * 1000000 FROM job_history "
            "WHERE finished_at > :since",
            since=self._since,
        )
        return [max(0.0, (float(started) - float(sent)) / 1e6) for sent, started in rows]

    @contextmanager
    def workers(self, pool: Pool) -> Iterator[None]:
        """Run dispatcher and worker for a block."""
        stack = self.stack
        stack.extra = {**stack.extra, "JOBPLATFORM_QUEUES": queue_setting(pool.name)}
        dispatcher = stack.start_dispatcher()
        options = ("--pool", pool.name, "-c", str(pool.slots), "--loglevel", "warning")
        worker = stack.start_celery("bench-worker", "bench", *options)
        try:
            yield
        finally:
            for process in (worker, dispatcher):
                process.terminate()
                wait_gone([process.pid], 20)


class Bare(Side):
    """Bare Celery: publish with confirms, drain by a worker, results in Postgres."""

    name, database = "bare Celery", "bare"

    def __init__(self, stack: Stack) -> None:
        url = stack.database_url.rsplit("/", 1)[0] + "/bare"
        super().__init__(stack, create_engine(url))
        self.environment = {
            **stack.environment(),
            "BARE_BROKER_URL": stack.broker_url,
            "BARE_BACKEND_URL": f"db+{url}",
            "BARE_DATABASE_URL": url.replace("+psycopg2", ""),
            "PYTHONPATH": str(CHECKOUT),
        }
        os.environ.update({key: value for key, value in self.environment.items() if key.startswith("BARE_")})
        from bench.bare import app, noop

        self._noop = noop
        app.backend.ResultSession()  # creates its tables

    def submit(self, n: int = 0) -> None:
        """Publish one task."""
        self._noop.delay(n)

    def submit_timed(self) -> None:
        """Publish one task that carries the time of the call."""
        self._noop.delay(0, time.time())

    def load(self, count: int) -> None:
        """Publish many tasks."""
        for n in range(count):
            self.submit(n)

    def clear(self) -> None:
        """Delete all results."""
        self.one("TRUNCATE celery_taskmeta")
        self._done_before = 0
        self.begin()

    def _finished(self) -> int:
        return int(self.one("SELECT count(*) FROM celery_taskmeta WHERE status = 'SUCCESS'"))

    def drain_rate(self) -> float:
        """Results per second between the first and the last one."""
        return float(
            self.one("SELECT (count(*) - 1) / extract(epoch FROM max(date_done) - min(date_done)) FROM celery_taskmeta")
        )

    def start_seconds(self) -> list[float]:
        """Seconds from the call to the start of the task."""
        return [float(bytes(row.result)) for row in self.rows("SELECT result FROM celery_taskmeta")]

    @contextmanager
    def workers(self, pool: Pool) -> Iterator[None]:
        """Run a worker for a block."""
        command: list[str | Path] = [script("celery"), "-A", "bench.bare", "worker", "-Q", "bare", "-n", "bare@%h"]
        command += ["--pool", pool.name, "-c", str(pool.slots), "--without-gossip", "--without-mingle"]
        command += ["--loglevel", "warning"]
        worker = start(self.stack.instance, "bare-worker", command, self.environment)
        try:
            yield
        finally:
            worker.terminate()
            wait_gone([worker.pid], 20)
