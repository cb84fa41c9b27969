"""The queues as a tenant sees them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from jobplatform.ledger import queues, workers
from jobplatform.ledger.queues import SET_ASIDE_CAP
from jobplatform.ledger.session import Ledger


def list_queues(ledger: Ledger, tenant_id: UUID, lease_seconds: float) -> list[dict[str, Any]]:
    """Return every queue with the tenant's counts and the live workers; bounded whatever the backlog (I7).

    `accepted` and `live` are exact (slotted counters); blocked, scheduled, held and dead jobs are counted up to
    `SET_ASIDE_CAP`; `waiting` is the rest: jobs ready for a worker. Where the cap is reached, `counts_are_capped`
    says so, and `waiting` may be too high.
    """
    with ledger.statement() as connection:
        rows = queues.list_queues(connection)
        totals = queues.totals_of(connection, tenant_id)
        active = queues.active_of(connection, tenant_id)
        set_aside = queues.set_aside_of(connection, tenant_id)
        slots = workers.live_slots(connection, lease_seconds)
    result = []
    for row in rows:
        counted = totals.get(row.name)
        accepted, finished = (counted.accepted, counted.finished) if counted else (0, 0)
        dispatched = active.get((row.name, "dispatched"), 0)
        running = active.get((row.name, "running"), 0)
        live = accepted - finished
        apart = {state: set_aside.get((row.name, state), 0) for state in ("scheduled", "blocked", "held", "dead")}
        result.append(
            {
                "name": row.name,
                "paused": row.paused_at is not None,
                "paused_until": row.paused_until,
                "accepted": accepted,
                "finished": finished,
                "live": live,
                "waiting": max(0, live - dispatched - running - sum(apart.values())),
                **apart,
                "dispatched": dispatched,
                "running": running,
                "deadlines_met": counted.deadlines_met if counted else 0,
                "deadlines_missed": counted.deadlines_missed if counted else 0,
                "counts_are_capped": sum(set_aside.values()) >= SET_ASIDE_CAP,
                "workers": slots.get(row.name, (0, 0))[1],
                "slots": slots.get(row.name, (0, 0))[0],
            }
        )
    return result
