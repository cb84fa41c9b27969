"""The cost of one job, from submission to history: counted by Postgres and RabbitMQ themselves, not timed."""

from __future__ import annotations

import time
from typing import Any

from bench.sides import Bare, Ours, Pool
from jobplatform.devstack.rabbitmq import call_management
from jobplatform.devstack.stack import Stack

#: until statistics are up to date: RabbitMQ collects them every five seconds, Postgres' backends report within one
TOLD_SECONDS = 7.0
_POSTGRES = (
    "SELECT xact_commit::float AS commits, (tup_inserted + tup_updated + tup_deleted)::float AS rows, "
    "pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::float AS wal "
    "FROM pg_stat_database WHERE datname = current_database()"
)


def measure(stack: Stack, side: Ours | Bare, jobs: int) -> dict[str, Any]:
    """Return one row of the table: the cost per job of `jobs` single submissions, less the cost of an idle stack."""
    side.clear()
    side.one(f"ALTER DATABASE {side.database} SET log_statement = 'all'")
    try:
        with side.workers(Pool("prefork", 2)):
            side.load(50)
            side.wait_done(50)
            first = _count(stack, side)
            began = time.monotonic()
            time.sleep(10)
            second = _count(stack, side)
            idle_seconds = time.monotonic() - began
            side.begin()
            began = time.monotonic()
            for _ in range(jobs):
                side.submit()
            while side.done() < jobs:  # polled rarely: the poll is a statement too
                time.sleep(1)
            third = _count(stack, side)
            seconds = time.monotonic() - began
    finally:
        side.one(f"ALTER DATABASE {side.database} RESET log_statement")
    idle = {name: (second[name] - first[name]) / idle_seconds for name in first}
    each = {name: max(0.0, third[name] - second[name] - idle[name] * seconds) / jobs for name in first}
    return {
        "per job": side.name,
        "Postgres statements": each["statements"],
        "commits": each["commits"],
        "rows written": each["rows"],
        "WAL bytes": each["wal"],
        "bytes to RabbitMQ": each["received"],
        "bytes from RabbitMQ": each["sent"],
    }


def _count(stack: Stack, side: Ours | Bare) -> dict[str, float]:
    time.sleep(TOLD_SECONDS)
    (row,) = side.rows(_POSTGRES)
    connections: Any = call_management(stack.instance, "/api/connections")
    log = (stack.instance.logs / "postgres.log").read_bytes()
    return {
        **row._mapping,
        "statements": log.count(b"LOG:  statement: ") + log.count(b"LOG:  execute "),
        "received": sum(connection.get("recv_oct", 0) for connection in connections),
        "sent": sum(connection.get("send_oct", 0) for connection in connections),
    }
