"""Replay many dead letters: with a preview, at a rate, and with a stop limit when too many fail again."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from jobplatform.errors import ReplayNotFound
from jobplatform.ledger import dead_letters
from jobplatform.ledger.ids import new_id
from jobplatform.ledger.session import Ledger


@dataclass(frozen=True)
class DeadLetterFilter:
    """Which dead letters; None is "any". `code` is the error's."""

    kind: str | None = None
    queue: str | None = None
    code: str | None = None
    tag: str | None = None
    died_after: datetime | None = None
    died_before: datetime | None = None


def preview_replay(ledger: Ledger, tenant_id: UUID, wanted: DeadLetterFilter, limit: int) -> dict[str, Any]:
    """Return how many jobs a replay would include, by kind, queue and error code."""
    with ledger.statement() as connection:
        rows = dead_letters.preview(connection, tenant_id, asdict(wanted), limit)
    groups = [dict(row._mapping) for row in rows]
    return {"jobs": sum(group["jobs"] for group in groups), "groups": groups}


def list_dead_letters(
    ledger: Ledger, tenant_id: UUID, wanted: DeadLetterFilter, *, cursor: UUID | None, limit: int
) -> tuple[list[dict[str, Any]], UUID | None]:
    """Return a page of dead letters, newest first, and the cursor of the next page; None if it is the last."""
    with ledger.statement() as connection:
        rows, last = dead_letters.list_dead_letters(connection, tenant_id, asdict(wanted), below=cursor, limit=limit)
    return [dict(row._mapping) for row in rows], last


def replay_many(
    ledger: Ledger,
    tenant_id: UUID,
    wanted: DeadLetterFilter,
    *,
    limit: int,
    rate_per_second: float | None,
    stop_after: int | None,
    by: str,
) -> dict[str, Any]:
    """Replay the oldest `limit` dead letters that match, in one transaction, and return the replay.

    The n-th is due after n / rate seconds. When `stop_after` of them have failed again, jobs that have not run yet
    return to the dead letters. Only dead jobs are included, so a job that has succeeded is never replayed.
    """
    replay_id = new_id()
    with ledger.transaction() as connection:
        dead_letters.replay_many(
            connection,
            replay_id,
            tenant_id,
            asdict(wanted),
            limit=limit,
            rate_per_second=rate_per_second,
            stop_after=stop_after,
            by=by,
        )
        replay = dead_letters.get_replay(connection, tenant_id, replay_id)
    assert replay is not None, "it was written just now"
    return dict(replay._mapping)


def get_replay(ledger: Ledger, tenant_id: UUID, replay_id: UUID) -> dict[str, Any]:
    """Return a replay with its progress. Raises `ReplayNotFound`."""
    with ledger.statement() as connection:
        replay = dead_letters.get_replay(connection, tenant_id, replay_id)
    if replay is None:
        raise ReplayNotFound(replay_id)
    return dict(replay._mapping)
