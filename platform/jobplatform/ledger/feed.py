"""Event feeds of tenants, ordered and without gaps; see `sql/96_event_feed.sql`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import Connection, text

from jobplatform.domain.feeds import FeedEvent, FeedPosition, moment_of
from jobplatform.domain.states import State
from jobplatform.ledger.ids import time_of
from jobplatform.ledger.jobs import CLOCK_MARGIN
from jobplatform.ledger.session import Ledger

#: followers of a feed read partitions of this age only: transactions that write events are shorter
FOLLOW_BACK = timedelta(days=1)


def read_feed(
    ledger: Ledger, behind: Mapping[UUID, FeedPosition], limit: int, *, since: datetime | None = None
) -> tuple[int, dict[UUID, list[FeedEvent]]]:
    """Return the horizon, and up to `limit` events of each tenant after its position.

    No event can appear any more before an event whose transaction is below the horizon. `since`: older events are not
    read; None reads everything that is retained.
    """
    tenants = list(behind)
    rows = ledger.call(
        "read_feed",
        "{" + ",".join(map(str, tenants)) + "}",
        [behind[tenant].tx for tenant in tenants],
        [behind[tenant].id for tenant in tenants],
        since or datetime(1970, 1, 1, tzinfo=UTC),
        limit,
    )
    result: dict[UUID, list[FeedEvent]] = {tenant: [] for tenant in tenants}
    horizon = 0
    for horizon, tenant, tx, event_id, job_id, at, event, state, run_no, data in rows:  # noqa: B007 - the last is wanted
        if event_id is not None:
            result[UUID(tenant)].append(
                FeedEvent(
                    position=FeedPosition(tx, event_id),
                    job_id=UUID(job_id),
                    at=moment_of(at),
                    event=event,
                    state=State(state),
                    run_no=run_no,
                    data=orjson.loads(data) if data is not None else None,
                )
            )
    return horizon, result


_KINDS = text(
    """
    SELECT id, kind, queue FROM jobs WHERE id = ANY (:ids)
    UNION ALL SELECT id, kind, queue FROM job_history WHERE id = ANY (:ids) AND finished_at >= :since
    """
)


def kinds_of(connection: Connection, job_ids: Sequence[UUID]) -> dict[UUID, tuple[str, str]]:
    """Return id → (kind, queue) of these jobs, live or in history."""
    if not job_ids:
        return {}
    dated = [time_of(item) for item in job_ids if item.version == 7]
    since = min(dated) - CLOCK_MARGIN if len(dated) == len(job_ids) else datetime(1970, 1, 1, tzinfo=UTC)
    rows = connection.execute(_KINDS, {"ids": list(job_ids), "since": since})
    return {row.id: (row.kind, row.queue) for row in rows}


def progress_of(connection: Connection, job_ids: Sequence[UUID]) -> dict[UUID, Any]:
    """Return id → progress of the running jobs that have reported any."""
    rows = connection.execute(
        text("SELECT id, progress FROM jobs WHERE id = ANY (:ids) AND progress IS NOT NULL AND state = 'running'"),
        {"ids": list(job_ids)},
    )
    return {row.id: row.progress for row in rows}


def rebase_feed(connection: Connection) -> int | None:
    """Call `rebase_feed`: returns the new offset if the ledger was restored into another cluster, else None."""
    feed: int | None = connection.execute(text("SELECT rebase_feed()")).scalar_one()
    return feed


def is_another_cluster(connection: Connection) -> bool:
    """Return whether the ledger was restored into another cluster and its feeds were not rebased yet."""
    return bool(connection.execute(text("SELECT cluster <> cluster_identity() FROM installation")).scalar_one())
