"""The two sides on one stack: how to load jobs, start workers, and read what became of them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import create_engine, text

from jobplatform.config import Settings
from jobplatform.devstack.place import CHECKOUT
from jobplatform.devstack.processes import script, start, wait_for, wait_gone
from jobplatform.devstack.stack import Stack
from jobplatform.domain.jobs import SubmitJob
from jobplatform.domain.kinds import load_kinds
from jobplatform.ledger.hints import HintSender
from jobplatform.ledger.keys import create_key, create_tenant
from jobplatform.ledger.session import open_ledger
from jobplatform.usecases.submit_job import ApiKey, check_order, submit_checked, submit_job


@dataclass(frozen=True)
class Pool:
    """A Celery pool and its slots."""

    name: str
    slots: int

    def __str__(self) -> str:
        return f"{self.name} {self.slots}"


def queue_setting(pool: str, window: int = 500) -> str:
    """The bench's queue for a pool: a fast lane."""
    return orjson.dumps({"bench": {"pool": pool, "prefetch": 4, "window_min": window}}).decode()


class Ours:
    """The platform: submit into the ledger, drain by dispatcher and worker."""

    name = "job platform"

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        url = Settings(database_url=stack.database_url).database_url.get_secret_value()
        self.ledger = open_ledger(url, name="bench", connections=4)
        self._hints = HintSender(self.ledger.statements)
        self._kinds = load_kinds(["bench.kinds"], {"bench": "prefork"})
        with self.ledger.transaction() as connection:
            self._tenant: UUID = create_tenant(connection, "bench")
            self.key = create_key(connection, self._tenant, "bench")

    def submit(self, n: int = 0) -> None:
        """Accept one job."""
        submit_job(self.ledger, self._hints, self._kinds, self._tenant, SubmitJob("bench.noop", {"n": n}))

    def clear(self) -> None:
        """Forget all jobs."""
        with self.ledger.transaction() as connection:
            connection.exec_driver_sql("TRUNCATE jobs, job_history, job_runs, job_events, queue_counters")

    def done(self) -> int:
        """Return how many jobs have succeeded."""
        return int(self.one("SELECT count(*) FROM job_history"))

    def drain_rate(self) -> float:
        """Jobs per second between the first and the last success."""
        return float(
            self.one("SELECT (count(*) - 1) / extract(epoch FROM max(finished_at) - min(finished_at)) FROM job_history")
        )

    def one(self, statement: str) -> Any:
        """Return the one value of a statement."""
        with self.ledger.statement() as connection:
            return connection.exec_driver_sql(statement).scalar_one()

    def start_seconds(self) -> list[float]:
        """Seconds from the call to the start of the handler's run, of every job."""
        with self.ledger.statement() as connection:
            rows = connection.exec_driver_sql(
                "SELECT (payload ->> 'n')::bigint, extract(epoch FROM started_at) * 1000000 FROM job_history"
            ).all()
        return [max(0.0, (float(started) - float(sent)) / 1e6) for sent, started in rows]

    def submit_timed(self) -> None:
        """Accept one job that carries the time of the call, in microseconds."""
        self.submit(int(time.time() * 1e6))

    @contextmanager
    def workers(self, pool: Pool) -> Iterator[None]:
        """Run dispatcher and worker for a block."""
        stack = self._stack
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

    def load(self, count: int) -> None:
        """Accept many jobs, a thousand per transaction."""
        caller = ApiKey(self.key)
        for first in range(0, count, 1000):
            commands = [SubmitJob("bench.noop", {"n": n}) for n in range(first, min(first + 1000, count))]
            submit_checked(self.ledger, None, [(caller, check_order(self._kinds, one)) for one in commands])


class Bare:
    """Bare Celery: publish with confirms, drain by a worker, results in Postgres."""

    name = "bare Celery"

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        plain = stack.database_url.rsplit("/", 1)[0] + "/bare"
        self.environment = {
            **stack.environment(),
            "BARE_BROKER_URL": stack.broker_url,
            "BARE_BACKEND_URL": f"db+{plain}",
            "BARE_DATABASE_URL": plain.replace("+psycopg2", ""),
            "PYTHONPATH": str(CHECKOUT),
        }
        os.environ.update(
            {key: self.environment[key] for key in ("BARE_BROKER_URL", "BARE_BACKEND_URL", "BARE_DATABASE_URL")}
        )
        self._engine = create_engine(plain)
        from bench.bare import app, noop

        self._noop = noop
        app.backend.ResultSession()  # makes its tables

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
        """Forget all results."""
        with self._engine.begin() as connection:
            connection.execute(text("TRUNCATE celery_taskmeta"))

    def done(self) -> int:
        """Return how many results there are."""
        with self._engine.begin() as connection:
            return int(
                connection.execute(text("SELECT count(*) FROM celery_taskmeta WHERE status = 'SUCCESS'")).scalar_one()
            )

    def drain_rate(self) -> float:
        """Results per second between the first and the last one."""
        rate = "SELECT (count(*) - 1) / extract(epoch FROM max(date_done) - min(date_done)) FROM celery_taskmeta"
        with self._engine.begin() as connection:
            return float(connection.execute(text(rate)).scalar_one())

    def start_seconds(self) -> list[float]:
        """Seconds from the call to the start of the task."""
        with self._engine.begin() as connection:
            rows = connection.execute(text("SELECT result FROM celery_taskmeta")).scalars()
            return [float(bytes(row)) for row in rows]

    @contextmanager
    def workers(self, pool: Pool) -> Iterator[None]:
        """Run a worker for a block."""
        command: list[str | Path] = [script("celery"), "-A", "bench.bare", "worker", "-Q", "bare", "-n", "bare@%h"]
        command += ["--pool", pool.name, "-c", str(pool.slots), "--without-gossip", "--without-mingle"]
        command += ["--loglevel", "warning"]
        worker = start(self._stack.place, "bare-worker", command, self.environment)
        try:
            yield
        finally:
            worker.terminate()
            wait_gone([worker.pid], 20)


def wait_done(side: Ours | Bare, count: int, seconds: float = 180) -> None:
    """Wait until this many jobs are done."""
    wait_for(f"{count} jobs of {side.name}", lambda: side.done() >= count, seconds=seconds)
