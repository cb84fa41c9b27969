"""Queries of the dispatcher: due jobs, the round of a queue, the broker's epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, Row, text

from jobplatform.domain.flows import PRIORITIES, FlowId
from jobplatform.ledger.session import Call, Ledger
from jobplatform.ledger.tables import PARTITION_DAYS, PARTITIONED


class Woken(NamedTuple):
    """Result of `wake_jobs`: queues that got jobs, whether the limit was reached, seconds until the next job is due."""

    queues: list[str]
    more: bool
    seconds: float | None


def wake_jobs(ledger: Ledger, limit: int, slack_seconds: float | None) -> Woken:
    """Make due scheduled jobs available, and expire jobs past their start_by; up to `limit` each.

    `slack_seconds` restricts the scan to jobs that became due within that time: under a long snapshot the index keeps
    all jobs that ever were due. None scans everything.
    """
    ((due, more, seconds),) = ledger.call("wake_jobs", limit, slack_seconds)
    return Woken(due or [], more, seconds)


def waiting_queues(ledger: Ledger, marks: Mapping[str, datetime]) -> list[str]:
    """Return the unpaused queues with available jobs; `marks`: queue → ignore jobs that arrived earlier."""
    return [row[0] for row in ledger.call("waiting_queues", list(marks), list(marks.values()))]


def current_epoch(connection: Connection) -> UUID | None:
    """Return the broker's current epoch; None before the first one."""
    return connection.execute(text("SELECT epoch FROM broker_epochs WHERE current")).scalar_one_or_none()


def lock_epoch(connection: Connection) -> None:
    """Let one dispatcher at a time begin an epoch, until the transaction ends."""
    connection.execute(text("SELECT take_lock('epoch')"))


def put_epoch(connection: Connection, epoch: UUID) -> None:
    """Make `epoch` the current one."""
    connection.execute(text("UPDATE broker_epochs SET current = false WHERE current"))
    connection.execute(text("INSERT INTO broker_epochs (epoch, current) VALUES (:e, true)"), {"e": epoch})


def return_other_epochs(connection: Connection, current: UUID, limit: int) -> int:
    """Return jobs that were dispatched in an earlier epoch to available; returns how many."""
    returned = connection.execute(
        text("SELECT return_other_epochs(:current, :limit)"), {"current": current, "limit": limit}
    )
    return int(returned.scalar_one())


_RETURN = text("SELECT return_dispatched(:queue, NULL, :before, :limit, :reason)")


def return_dispatched(connection: Connection, queue: str | None, before: datetime, limit: int, reason: str) -> int:
    """Return dispatched jobs of a queue (None: of all) to available; returns how many."""
    values = {"queue": queue, "before": before, "limit": limit, "reason": reason}
    return int(connection.execute(_RETURN, values).scalar_one())


NO_LINE = -1


@dataclass(frozen=True)
class Dispatched:
    """A job that a round has marked as dispatched: publish it before the transaction commits. The id is text."""

    #: the index of its flow in the request; NO_LINE for a job that was dispatched by its deadline
    flow: int
    id: str
    kind: str
    priority: int
    dispatch_no: int
    #: when it became available
    state_at: datetime


class FlowHead(NamedTuple):
    """A flow, when its first job became available (seconds since 1970), and its number of jobs; None if unknown."""

    id: FlowId
    head: float
    size: int | None = None


@dataclass(frozen=True)
class QueueState:
    """Result of `read_queue`; see `85_dispatch_jobs.sql`."""

    verdict: str
    #: jobs in flight of priority 0 … 9, and when the oldest of all was dispatched
    in_flight: list[int]
    oldest: datetime | None
    arrivals: list[FlowHead]
    #: start of the next scan of arrivals
    arrived_until: datetime | None
    arrived_all: bool
    #: per requested key: how many of its jobs may be dispatched, and seconds until it is worth another read
    key_free: list[int]
    key_seconds: list[float | None]
    limited_oldest: datetime | None


class OpenRound:
    """A round with an open transaction: `dispatch` jobs of flows of the `queue_state`, `take_back` unpublished ones."""

    def __init__(self, queue_state: QueueState, call: Call, queue: str, keys: Sequence[str]) -> None:
        self.queue_state = queue_state
        self._keys = keys
        self._call = call
        self._queue = queue

    def dispatch(
        self, flows: Sequence[tuple[FlowId, int]], marks: Sequence[float]
    ) -> tuple[list[Dispatched], list[float | None]]:
        """Mark jobs of flows as dispatched, up to the given number of each.

        Returns the jobs, and for each flow when its next job became available, in seconds since 1970. `marks`: this
        time, or an earlier one.
        """
        rows = self._call(
            "dispatch_flows",
            self._queue,
            [flow.priority for flow, _ in flows],
            "{" + ",".join(flow.tenant for flow, _ in flows) + "}",
            [_written(flow.keys) for flow, _ in flows],
            [jobs for _, jobs in flows],
            list(marks),
            list(self._keys) or "{}",
        )
        heads = {row[0]: row[6] for row in rows if row[1] is None}
        jobs = [Dispatched(row[0] - 1, *row[1:6]) for row in rows if row[1] is not None]
        return jobs, [heads[position] for position in range(1, len(flows) + 1)]

    def dispatch_by_deadline(
        self, free_slots: Sequence[int], above: Sequence[int], free: Mapping[str, int]
    ) -> tuple[list[Dispatched], list[tuple[str, ...]]]:
        """Mark jobs with deadlines (start_by), earliest first; returns them, and the limit keys of each.

        Of `free_slots`, so many of each priority are for those `above` it.
        """
        names = list(free)
        rows = self._call(
            "dispatch_by_deadline",
            self._queue,
            list(free_slots),
            list(above),
            names or "{}",
            [free[name] for name in names] or "{}",
        )
        return [Dispatched(NO_LINE, *row[1:6]) for row in rows], [_read(row[6]) for row in rows]

    def take_back(self, unsent: Sequence[Dispatched]) -> None:
        """Return jobs to available that the broker did not confirm."""
        ids = "{" + ",".join(job.id for job in unsent) + "}"
        self._call("undispatch_jobs", ids, [job.state_at for job in unsent])


#: maximum number of lock names that a process remembers
MOST_LOCKS = 100_000


def _make_locks(ledger: Ledger, names: Sequence[str]) -> None:
    """Create lock rows that this process has not used before, ahead of the transaction that locks them."""
    if len(ledger.known_locks) > MOST_LOCKS:
        ledger.known_locks.clear()
    if fresh := [name for name in names if name not in ledger.known_locks]:
        with ledger.statement() as connection:
            connection.execute(text("SELECT make_locks(:names)"), {"names": fresh})
        ledger.known_locks.update(fresh)


#: new jobs per read
MOST_ARRIVALS = 2000


@contextmanager
def read_queue(
    ledger: Ledger,
    queue: str,
    marks: tuple[datetime | None, datetime | None, datetime | None] = (None, None, None),
    keys: Sequence[str] = (),
    arrivals: int = MOST_ARRIVALS,
) -> Iterator[OpenRound]:
    """Open a transaction by reading a queue, in one round trip; it commits at the end of the block."""
    _make_locks(ledger, [f"dispatch/{queue}", *(f"limit/{key}" for key in keys)])
    with ledger.open_call("read_queue", queue, *marks, list(keys) or "{}", arrivals) as (rows, call):
        row = rows[0]
        result = zip(*(column or () for column in row[3:8]), strict=True)
        queue_state = QueueState(
            verdict=row[0],
            in_flight=row[1] or [0] * PRIORITIES,
            oldest=row[2],
            arrivals=[
                FlowHead(FlowId(priority, tenant, _read(written)), head, size)
                for priority, tenant, written, size, head in result
            ],
            arrived_until=row[8],
            arrived_all=row[9] is not False,
            key_free=row[10] or [],
            key_seconds=row[11] or [],
            limited_oldest=row[12],
        )
        yield OpenRound(queue_state, call, queue, keys)


#: before the first flow
_BEFORE = FlowId(PRIORITIES - 1, "00000000-0000-0000-0000-000000000000")


def sweep_flows(ledger: Ledger, queue: str, after: FlowId | None, limit: int) -> list[FlowHead]:
    """Return the flows of a queue that come after one, the highest priority first: None is before the first."""
    priority, tenant, keys = after or _BEFORE
    rows = ledger.call("sweep_flows", queue, priority, tenant, _written(keys), limit)
    return [FlowHead(FlowId(row[0], row[1], _read(row[2])), row[3]) for row in rows]


def _written(keys: tuple[str, ...]) -> str:
    """Return limit keys as Postgres writes an array: their characters need no quotes (domain/limits.py)."""
    return "{" + ",".join(keys) + "}"


def _read(written: str) -> tuple[str, ...]:
    return tuple(written[1:-1].split(",")) if len(written) > 2 else ()


_BEAT = text(
    """
    INSERT INTO dispatchers AS d (id, host, pid, broker_error, broker_error_at)
    SELECT :id, :host, :pid, error, CASE WHEN error IS NOT NULL THEN clock_timestamp() END
    FROM (SELECT CAST(:error AS text) AS error) AS given
    ON CONFLICT (id) DO UPDATE SET
        heartbeat_at = clock_timestamp(), broker_error = excluded.broker_error,
        broker_error_at = CASE WHEN excluded.broker_error IS NOT NULL
            THEN coalesce(d.broker_error_at, clock_timestamp()) END
    """
)


def record_dispatcher_heartbeat(
    connection: Connection, dispatcher_id: UUID, host: str, pid: int, broker_error: str | None
) -> None:
    """Write a dispatcher's heartbeat, and whether RabbitMQ is available to it."""
    connection.execute(_BEAT, {"id": dispatcher_id, "host": host, "pid": pid, "error": broker_error})


def forget_dispatcher(connection: Connection, dispatcher_id: UUID | None = None) -> None:
    """Delete a dispatcher that shuts down, or those without a heartbeat for a day."""
    gone = "id = :id" if dispatcher_id else "heartbeat_at < clock_timestamp() - interval '1 day'"
    connection.execute(text(f"DELETE FROM dispatchers WHERE {gone}"), {"id": dispatcher_id})


_DISPATCHERS = text(
    "SELECT host, pid, broker_error, broker_error_at FROM dispatchers "
    "WHERE heartbeat_at > clock_timestamp() - make_interval(secs => :seconds)"
)


def live_dispatchers(connection: Connection, seconds: float) -> Sequence[Row[Any]]:
    """Return dispatchers with a heartbeat within this many seconds: host, pid, broker_error, broker_error_at."""
    return connection.execute(_DISPATCHERS, {"seconds": seconds}).all()


def ensure_partitions(connection: Connection, weeks_behind: int = 1, weeks_ahead: int = 13) -> int:
    """Create the current and next partitions of history, runs and events; returns how many were missing."""
    made = 0
    for table in PARTITIONED:
        made += connection.execute(
            text(
                "SELECT ensure_partitions(:table, :days, now() - make_interval(weeks => :behind), "
                "now() + make_interval(weeks => :ahead))"
            ),
            {"table": table, "days": PARTITION_DAYS, "behind": weeks_behind, "ahead": weeks_ahead},
        ).scalar_one()
    return made
