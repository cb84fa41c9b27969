"""Fire due schedules: compute their planned times and create their jobs, in one transaction."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import orjson
from sqlalchemy import Row

from jobplatform.domain.schedules import Fires, fill_planned, fires_until, jitter_of, read_rule
from jobplatform.errors import LedgerUnavailable, OutcomeUnknown
from jobplatform.ledger import schedules
from jobplatform.ledger.ids import new_id
from jobplatform.ledger.session import Ledger
from jobplatform.observe.logs import get_log

log = get_log(__name__)

#: delay of a schedule that can't be read (s)
UNREADABLE_SECONDS = 300.0
#: of one transaction
MAX_FIRES, MAX_BYTES = 2000, 16 * 1024 * 1024


class Fired(NamedTuple):
    """Result of a pass: fires written, queues that got jobs, whether there is more, and when the next is due (s)."""

    fires: int
    woken: str | None
    more: bool
    seconds: float | None


def fire_schedules(ledger: Ledger, *, limit: int, grace_seconds: float) -> Fired:
    """Fire the schedules that are due, at most `limit` of them, and `MAX_FIRES` or `MAX_BYTES` in all.

    Safe for concurrent callers: each locks its own schedules, and a planned time is written once. A fire that a crash
    kept from being committed is still due. A schedule that the ledger refuses is postponed; the others continue.
    """
    taken: list[UUID] = []
    try:
        count, woken, more = _fire(ledger, limit, grace_seconds, taken)
    except (LedgerUnavailable, OutcomeUnknown):
        raise
    except Exception:
        log.exception("schedules_not_fired_together", schedules=len(taken))
        count, woken, more = _fire_one_by_one(ledger, len(taken), grace_seconds)
    with ledger.transaction() as connection:
        released = schedules.release_fires(connection, limit)
    with ledger.statement() as connection:
        seconds = schedules.seconds_until_due(connection)
    return Fired(count, ",".join(filter(None, (woken, released))) or None, more, seconds)


def _fire(ledger: Ledger, limit: int, grace_seconds: float, taken: list[UUID]) -> tuple[int, str | None, bool]:
    """Fire schedules in one transaction; `taken` gets their ids. Returns fires, queues, and whether there is more."""
    fires: list[dict[str, Any]] = []
    following: list[dict[str, Any]] = []
    missed: list[dict[str, Any]] = []
    size = 0
    with ledger.transaction() as connection:
        rows = schedules.due_schedules(connection, limit)
        taken += [row.id for row in rows]
        for row in rows:
            if len(fires) >= MAX_FIRES or size >= MAX_BYTES:
                break
            try:
                result = _plan(row, grace_seconds)
                mine = [fire_of(row, planned) for planned in result.at]
                sizes = [len(orjson.dumps(item["payload"])) for item in mine]
            except Exception:  # for instance an unknown time zone: the others continue
                log.exception("schedule_can_not_be_read", schedule=row.name, schedule_id=str(row.id))
                later = row.now + timedelta(seconds=UNREADABLE_SECONDS)
                following.append({"id": str(row.id), "planned_at": row.next_planned_at, "due_at": later})
                continue
            keep = next((n for n in range(1, len(mine)) if sum(sizes[:n]) >= MAX_BYTES), len(mine))
            fires += mine[:keep]
            size += sum(sizes[:keep])
            if result.missed is not None:
                first, last = result.missed
                missed.append({"schedule_id": str(row.id), "planned_at": first, "missed_until": last})
            following.append(next_of(row, result.at[keep] if keep < len(mine) else result.next_at))
        woken = schedules.fire_schedules(connection, fires) if fires else None
        if following:
            schedules.advance(connection, following, missed)
    more = len(rows) >= limit or len(following) < len(rows)
    return len(fires), woken, more


def _fire_one_by_one(ledger: Ledger, count: int, grace_seconds: float) -> tuple[int, str | None, bool]:
    """Fire each schedule in its own transaction, and postpone those that the ledger refuses."""
    fired, queues = 0, ""
    for _ in range(count):
        taken: list[UUID] = []
        try:
            some, woken, _ = _fire(ledger, 1, grace_seconds, taken)
        except (LedgerUnavailable, OutcomeUnknown):
            raise
        except Exception:
            log.exception("schedule_refused", schedule_id=str(taken[0]) if taken else "")
            with ledger.transaction() as connection:
                schedules.put_off(connection, taken, UNREADABLE_SECONDS)
            continue
        fired += some
        queues = ",".join(filter(None, (queues, woken)))
    return fired, queues or None, False


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
    """Return a fire in the ledger's form."""
    return {
        "schedule_id": str(row.id),
        "planned_at": planned_at,
        "job_id": str(new_id()),
        "payload": fill_planned(row.payload, planned_at, row.spec["time_zone"]),
        "by": by,
    }


def next_of(row: Any, planned_at: datetime | None) -> dict[str, Any]:
    """Return the next times of a schedule in the ledger's form."""
    due_at = planned_at + jitter_of(str(row.id), planned_at, row.jitter_seconds) if planned_at else None
    return {"id": str(row.id), "planned_at": planned_at, "due_at": due_at}
