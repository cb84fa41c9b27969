"""Queries of the dispatcher: due jobs, the round of a queue, the broker's epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, Row, text

from jobplatform.ledger.session import Ledger
from jobplatform.ledger.tables import PARTITION_DAYS, PARTITIONED


class Woken(NamedTuple):
    """What the clock did: queues that got jobs, whether the limit was reached, seconds until the next job is due."""

    queues: list[str]
    more: bool
    seconds: float | None


def wake_jobs(ledger: Ledger, limit: int, slack_seconds: float | None) -> Woken:
    """Make scheduled jobs available whose time has come, and expire those past their start_by; up to `limit` each.

    `slack_seconds` looks only at what became due that long ago or later: under a long snapshot the index keeps all that
    ever was due. None looks at everything.
    """
    ((due, more, seconds),) = ledger.call("wake_jobs", limit, slack_seconds)
    return Woken(due or [], more, seconds)


Marks = Mapping[tuple[str, int], datetime]


def waiting_queues(ledger: Ledger, marks: Marks) -> list[str]:
    """Return the queues that are not paused and have available jobs, looking from the low-water marks on."""
    keys = list(marks)
    found = ledger.call(
        "waiting_queues", [queue for queue, _ in keys], [priority for _, priority in keys], [marks[key] for key in keys]
    )
    return [row[0] for row in found]


def current_epoch(connection: Connection) -> UUID | None:
    """Return the broker's current epoch; None before the guard has made one."""
    return connection.execute(text("SELECT epoch FROM broker_epochs WHERE current")).scalar_one_or_none()


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


@dataclass(frozen=True)
class Dispatched:
    """A job that a round has marked: publish it before the transaction commits. The id is its text."""

    id: str
    kind: str
    priority: int
    dispatch_no: int
    #: when it became available
    state_at: datetime


@dataclass(frozen=True)
class Round:
    """What `dispatch_jobs.sql` answers: see there for the verdicts."""

    verdict: str
    #: jobs of the queue that were dispatched or running before this round, and when the first of all was dispatched
    active: int
    oldest: datetime | None
    #: the highest priority without a free place; -1: there is none
    closed: int
    #: a free place, or another round, would take more
    waiting: bool
    jobs: tuple[Dispatched, ...]


@contextmanager
def dispatch_jobs(
    ledger: Ledger, queue: str, window: int, batch: int, marks: Marks, active_mark: datetime | None
) -> Iterator[tuple[Round, Callable[[Sequence[Dispatched]], None]]]:
    """Open a transaction by one round of a queue, in one round trip; it commits at the end of the block.

    Yields the round, and a way to take jobs of it back that the broker did not take.
    """
    starts = [marks.get((queue, priority)) for priority in range(10)]
    with ledger.open_call("dispatch_jobs", queue, window, batch, starts, active_mark) as (rows, call):
        verdict, active, oldest, closed, waiting = rows[0][:5]
        jobs = tuple(Dispatched(*row[5:]) for row in rows if row[5] is not None)

        def take_back(unsent: Sequence[Dispatched]) -> None:
            ids = "{" + ",".join(job.id for job in unsent) + "}"
            call("undispatch_jobs", ids, [job.state_at for job in unsent])

        yield Round(verdict, active, oldest, closed, waiting, jobs), take_back


_BEAT = text(
    """
    INSERT INTO dispatchers AS d (id, host, pid, broker_error, broker_error_at)
    SELECT :id, :host, :pid, error, CASE WHEN error IS NOT NULL THEN clock_timestamp() END
    FROM (SELECT CAST(:error AS text) AS error) AS given
    ON CONFLICT (id) DO UPDATE SET
        beat_at = clock_timestamp(), broker_error = excluded.broker_error,
        broker_error_at = CASE WHEN excluded.broker_error IS NOT NULL
            THEN coalesce(d.broker_error_at, clock_timestamp()) END
    """
)


def beat_dispatcher(connection: Connection, dispatcher_id: UUID, host: str, pid: int, broker_error: str | None) -> None:
    """Tell that a dispatcher lives, and whether it can use RabbitMQ."""
    connection.execute(_BEAT, {"id": dispatcher_id, "host": host, "pid": pid, "error": broker_error})


def forget_dispatcher(connection: Connection, dispatcher_id: UUID | None = None) -> None:
    """Forget a dispatcher that ends, or those that have been gone for a day."""
    gone = "id = :id" if dispatcher_id else "beat_at < clock_timestamp() - interval '1 day'"
    connection.execute(text(f"DELETE FROM dispatchers WHERE {gone}"), {"id": dispatcher_id})


_DISPATCHERS = text(
    "SELECT host, pid, broker_error, broker_error_at FROM dispatchers "
    "WHERE beat_at > clock_timestamp() - make_interval(secs => :seconds)"
)


def live_dispatchers(connection: Connection, seconds: float) -> Sequence[Row[Any]]:
    """Return the dispatchers that beat within so many seconds: host, pid, broker_error, broker_error_at."""
    return connection.execute(_DISPATCHERS, {"seconds": seconds}).all()


def ensure_partitions(connection: Connection, weeks_behind: int = 1, weeks_ahead: int = 13) -> int:
    """Make the partitions of history, runs and events around now; returns how many were missing."""
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
