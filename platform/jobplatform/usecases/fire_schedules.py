"""Fire what is due: work out the planned times of schedules and make their jobs, in one transaction."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Row

from jobplatform.domain.schedules import Fires, fill_planned, fires_until, jitter_of, read_rule
from jobplatform.ledger import schedules
from jobplatform.ledger.ids import new_id
from jobplatform.ledger.session import Ledger
from jobplatform.observe.logs import get_log

log = get_log(__name__)

#: how long a schedule is left alone that can't be read
UNREADABLE_SECONDS = 300.0


class Fired(NamedTuple):
    """What a look did: fires written, the queues that got jobs, whether there is more, when the next is due (s)."""

    fires: int
    woken: str | None
    more: bool
    seconds: float | None


def fire_schedules(ledger: Ledger, *, limit: int, grace_seconds: float) -> Fired:
    """Fire the schedules that are due, at most `limit` of them.

    Any number of callers at once: each has its own schedules, and a planned time is written once. A fire that a crash
    kept from being committed is due still.
    """
    with ledger.transaction() as connection:
        rows = schedules.due_schedules(connection, limit)
        fires: list[dict[str, Any]] = []
        following: list[dict[str, Any]] = []
        missed: list[dict[str, Any]] = []
        for row in rows:
            try:
                found = _plan(row, grace_seconds)
                mine = [fire_of(row, planned) for planned in found.at]
            except Exception:  # a time zone that is known no more, say: the others go on
                log.exception("schedule_can_not_be_read", schedule=row.name, schedule_id=str(row.id))
                later = row.now + timedelta(seconds=UNREADABLE_SECONDS)
                following.append({"id": str(row.id), "planned_at": row.next_planned_at, "due_at": later})
                continue
            fires += mine
            if found.missed is not None:
                first, last = found.missed
                missed.append({"schedule_id": str(row.id), "planned_at": first, "missed_until": last})
            following.append(next_of(row, found.next_at))
        woken = schedules.fire_schedules(connection, fires) if fires else None
        if following:
            schedules.advance(connection, following, missed)
        released = schedules.release_fires(connection, limit)
    with ledger.statement() as connection:
        seconds = schedules.seconds_until_due(connection)
    both = ",".join(filter(None, (woken, released))) or None
    return Fired(len(fires), both, len(rows) >= limit, seconds)


def _plan(row: Row[Any], grace_seconds: float) -> Fires:
    rule = read_rule(row.spec, row.anchor_at)
    return fires_until(
        rule,
        row.next_planned_at,
        row.now,
        end_at=row.end_at,
        missed=row.missed,
        catch_up=row.catch_up,
        grace_seconds=grace_seconds + row.jitter_seconds,
        is_due=lambda planned: planned + jitter_of(str(row.id), planned, row.jitter_seconds) <= row.now,
    )


def fire_of(row: Row[Any], planned_at: datetime, by: str | None = None) -> dict[str, Any]:
    """Return a fire as the ledger takes it."""
    return {
        "schedule_id": str(row.id),
        "planned_at": planned_at,
        "job_id": str(new_id()),
        "payload": fill_planned(row.payload, planned_at, row.spec["time_zone"]),
        "by": by,
    }


def next_of(row: Any, planned_at: datetime | None) -> dict[str, Any]:
    """Return the next times of a schedule as the ledger takes them."""
    due_at = planned_at + jitter_of(str(row.id), planned_at, row.jitter_seconds) if planned_at else None
    return {"id": str(row.id), "planned_at": planned_at, "due_at": due_at}
