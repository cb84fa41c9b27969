"""The queues as a tenant sees them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from jobplatform.ledger import queues, workers
from jobplatform.ledger.queues import COUNT_CAP
from jobplatform.ledger.session import Ledger


def list_queues(ledger: Ledger, tenant_id: UUID, lease_seconds: float) -> list[dict[str, Any]]:
    """Return every queue with the tenant's counts and the live workers; bounded whatever the backlog (I7).

    `accepted` and `live` are exact (slotted counters); `waiting` is what is live and neither dispatched, running nor
    dead; `dead` is counted up to 10,000.
    """
    with ledger.statement() as connection:
        rows = queues.list_queues(connection)
        totals = queues.totals_of(connection, tenant_id)
        active = queues.active_of(connection, tenant_id)
        dead = queues.dead_of(connection, tenant_id)
        slots = workers.live_slots(connection, lease_seconds)
    found = []
    for row in rows:
        counted = totals.get(row.name)
        accepted, finished = (counted.accepted, counted.finished) if counted else (0, 0)
        dispatched = active.get((row.name, "dispatched"), 0)
        running = active.get((row.name, "running"), 0)
        live = accepted - finished
        found.append(
            {
                "name": row.name,
                "paused": row.paused_at is not None,
                "paused_until": row.paused_until,
                "accepted": accepted,
                "finished": finished,
                "live": live,
                "waiting": max(0, live - dispatched - running - dead.get(row.name, 0)),
                "dispatched": dispatched,
                "running": running,
                "promises_kept": counted.promises_kept if counted else 0,
                "promises_broken": counted.promises_broken if counted else 0,
                "dead": dead.get(row.name, 0),
                "dead_is_capped": sum(dead.values()) >= COUNT_CAP,
                "workers": slots.get(row.name, (0, 0))[1],
                "slots": slots.get(row.name, (0, 0))[0],
            }
        )
    return found
