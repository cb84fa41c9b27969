"""Queries on jobs. Each takes a `Connection` and never commits; the use case owns the transaction."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple
from uuid import UUID

import orjson
import psycopg2.errors
from sqlalchemy import Connection, Row, TextClause, text

from jobplatform.domain.jobs import READ_COLUMNS, JobView
from jobplatform.domain.states import FINAL, State
from jobplatform.ledger.ids import WITHOUT_TIME, time_of
from jobplatform.ledger.session import Ledger

#: allowed difference between the clock of an id's creator and the database's (`finished_at`)
CLOCK_MARGIN = timedelta(days=1)
#: rows read per page: a page may be short, its cursor continues (I7)
MAX_EXAMINED = 5_000

_VIEW = ", ".join(READ_COLUMNS)


AcceptVerdict = Literal[
    "accepted", "unauthorized", "repeated", "conflict", "duplicate", "past", "priority", "admit", "quota"
]
BatchVerdict = Literal["accepted", "repeated", "conflict", "refused"]
BatchItemVerdict = Literal["accepted", "existing", "duplicate", "quota", "past"]


class Accepted(NamedTuple):
    """Result of `accept_job.sql`; see there for the verdicts."""

    verdict: AcceptVerdict
    tenant_id: Any
    job_id: Any
    state: str
    created_at: datetime
    run_at: datetime
    max_priority: int | None
    quota_seconds: float | None


class BatchAnswer(NamedTuple):
    """The result of `accept_batch.sql` for one submission."""

    verdict: BatchItemVerdict
    job_id: str
    state: str | None
    quota_seconds: float | None


def accept_job(ledger: Ledger, values: dict[str, Any]) -> Accepted:
    """Call `accept_job.sql`, one transaction; `values` has its parameters by name, without `p_`; payload as JSON."""
    (row,) = ledger.call("accept_job", *(values[name] for name in _ACCEPT))
    return Accepted(*row)


def accept_new(ledger: Ledger, values: dict[str, Any]) -> Accepted | None:
    """Call `accept_job.sql` with a given id; None if a live job has it already."""
    try:
        return accept_job(ledger, values)
    except psycopg2.errors.UniqueViolation:
        return None


def accept_jobs(
    ledger: Ledger, submissions: bytes, tolerance_seconds: float
) -> dict[str, tuple[str, datetime, datetime]]:
    """Call `accept_jobs.sql`, one transaction; `submissions` is its JSON. Returns id → (state, created_at, run_at)."""
    rows = ledger.call("accept_jobs", submissions.decode(), tolerance_seconds)
    return {row[0]: row[1:] for row in rows}


def accept_batch(
    ledger: Ledger,
    *,
    tenant_id: UUID,
    by: str,
    idempotency_key: str | None,
    request_hash: bytes | None,
    idempotency_seconds: int,
    batch_id: UUID,
    submissions: bytes,
    tolerance_seconds: float,
    all_or_nothing: bool,
) -> tuple[BatchVerdict, Any, dict[int, BatchAnswer]]:
    """Call `accept_batch.sql`, one transaction; `submissions` is its JSON.

    Returns its verdict, the id of the batch, and position → answer.
    """
    ((verdict, found_id, answer),) = ledger.call(
        "accept_batch",
        tenant_id,
        by,
        idempotency_key,
        request_hash,
        idempotency_seconds,
        batch_id,
        submissions.decode(),
        tolerance_seconds,
        all_or_nothing,
    )
    return verdict, found_id, {position: BatchAnswer(*rest) for position, *rest in orjson.loads(answer or "[]")}


_ACCEPT = (
    *("key_hash", "tenant", "idempotency_key", "request_hash", "idempotency_seconds", "tolerance_seconds"),
    *("id", "queue", "kind", "priority", "payload", "tags", "max_attempts", "crash_limit", "lost_limit"),
    *("run_at", "start_by", "unique_key", "unique_seconds", "unique_refuse", "limit_keys", "limit_units", "by"),
)

_FIND = text("SELECT * FROM find_job(CAST(:tenant_id AS uuid), CAST(:id AS uuid), CAST(:since AS timestamptz))")


def earliest_end(job_id: UUID) -> datetime:
    """Return the earliest `finished_at` that the job with this id can have: prunes partitions.

    For an id without a time all partitions are read, one index lookup each.
    """
    if job_id.version == WITHOUT_TIME:
        return datetime.min.replace(tzinfo=UTC)
    try:
        return time_of(job_id) - CLOCK_MARGIN
    except (OverflowError, ValueError, OSError):  # not an id of ours: its "time" is out of range
        return datetime.max.replace(tzinfo=UTC)


def get_job(connection: Connection, tenant_id: UUID, job_id: UUID) -> JobView | None:
    """Return a job of the tenant, live or from history."""
    return _look_up(connection, tenant_id, job_id)


#: keys with a rate limit, whose requests are counted, and keys without the scope are left out
_GET_PLAIN = text(
    """
    WITH asked AS MATERIALIZED (
        SELECT * FROM unnest(CAST(:hashes AS bytea[]), CAST(:ids AS uuid[]), CAST(:since AS timestamptz[]))
            WITH ORDINALITY AS asked (key_hash, job_id, since, number)
    ), admitted AS MATERIALIZED (
        SELECT key_hash, tenant_id, touch_key(id, last_used_at) FROM api_keys
        WHERE key_hash IN (SELECT key_hash FROM asked) AND revoked_at IS NULL AND requests_per_minute IS NULL
            AND (expires_at IS NULL OR expires_at > clock_timestamp()) AND CAST(:scope AS text) = ANY (scopes)
    )
    SELECT asked.number, job.* FROM asked JOIN admitted USING (key_hash)
        CROSS JOIN LATERAL find_job(admitted.tenant_id, asked.job_id, asked.since) AS job
    """
)


def get_plain_jobs(connection: Connection, wanted: Sequence[tuple[bytes, UUID]], scope: str) -> list[JobView | None]:
    """Return the jobs of pairs of key hash and id, in order; None where this does not tell why there is no answer.

    That is so for a key that is not valid, lacks the scope or has a rate limit, and for a job that its tenant does not
    have.
    """
    parameters = {
        "hashes": [key_hash for key_hash, _ in wanted],
        "ids": [job_id for _, job_id in wanted],
        "since": [_since(job_id) for _, job_id in wanted],
        "scope": scope,
    }
    result: list[JobView | None] = [None] * len(wanted)
    for row in connection.execute(_GET_PLAIN, parameters):
        number, *values = row
        result[number - 1] = view_of(dict(zip(row._fields[1:], values, strict=True)))
    return result


def find_job(connection: Connection, job_id: UUID) -> JobView | None:
    """Return a job of any tenant; for the platform's own processes, never on behalf of a caller."""
    return _look_up(connection, None, job_id)


def find_tenant(connection: Connection, job_id: UUID) -> UUID | None:
    """Return the tenant of a job, live or from history."""
    statement = text(
        "SELECT tenant_id FROM jobs WHERE id = :id UNION ALL "
        "SELECT tenant_id FROM job_history WHERE id = :id AND finished_at >= :since LIMIT 1"
    )
    tenant: UUID | None = connection.execute(statement, {"id": job_id, "since": earliest_end(job_id)}).scalar()
    return tenant


def payload_of(connection: Connection, job_id: UUID, finished_at: datetime | None) -> Any:
    """Return a job's payload as accepted; `finished_at` selects its partition."""
    if finished_at is None:
        return connection.execute(text("SELECT payload FROM jobs WHERE id = :id"), {"id": job_id}).scalar_one_or_none()
    return connection.execute(
        text("SELECT payload FROM job_history WHERE id = :id AND finished_at = :at"), {"id": job_id, "at": finished_at}
    ).scalar_one_or_none()


def _look_up(connection: Connection, tenant_id: UUID | None, job_id: UUID) -> JobView | None:
    row = connection.execute(_FIND, {"tenant_id": tenant_id, "id": job_id, "since": _since(job_id)}).one_or_none()
    return view_of(dict(row._mapping)) if row is not None else None


def _since(job_id: UUID) -> datetime | None:
    """Return the time before which the job can't have ended; None for an id that no job in history can have."""
    return earliest_end(job_id) if job_id.version in (7, WITHOUT_TIME) else None


def view_of(values: dict[str, Any]) -> JobView:
    """Build the caller's view from the columns of `_VIEW` and finished_at."""
    finished_at = values.pop("finished_at")
    values["state"] = State(values["state"])
    values["tags"] = tuple(values["tags"])
    return JobView(**values, completed_at=finished_at)


#: in the form that the index ix_job_history_tags serves
HAS_TAG = "tags @> ARRAY[CAST(:tag AS text)] AND tags <> '{}'"


def list_jobs(
    connection: Connection,
    tenant_id: UUID,
    *,
    below: UUID | None,
    above: UUID | None,
    limit: int,
    state: State | None = None,
    kind: str | None = None,
    queue: str | None = None,
    tag: str | None = None,
    error_code: str | None = None,
) -> tuple[Sequence[JobView], UUID | None]:
    """Return one page of jobs, newest first, and the id to continue below; None if there are no more.

    Reads at most `MAX_EXAMINED` rows of each table, so that no filter causes a full scan: a page may be short
    or empty and still have a next one.
    """
    where, filters = ["tenant_id = :tenant_id"], ["true"]
    values: dict[str, Any] = {"tenant_id": tenant_id, "limit": limit + 1, "examined": MAX_EXAMINED}
    if below is not None:
        where.append("id < :below")
        values["below"] = below
    if above is not None:
        where.append("id >= :above")
        values |= {"above": above, "since": earliest_end(above)}
    for column, value in (("state", state), ("kind", kind), ("queue", queue)):
        if value is not None:
            # dead and held jobs have an index of their own: their filter may narrow what is examined
            (where if value in (State.DEAD, State.HELD) else filters).append(f"{column} = :{column}")
            values[column] = str(value)
    if state in (State.DEAD, State.HELD):
        where.append("state IN ('dead', 'held')")
    if tag is not None:
        filters.append(HAS_TAG)
        values["tag"] = tag
    if error_code is not None:
        filters.append("error ->> 'code' = :error_code")
        values["error_code"] = error_code

    rows: list[Row[Any]] = []
    frontiers: list[UUID] = []
    for table in _tables_of(state):
        finished = "finished_at" if table == "job_history" else "CAST(NULL AS timestamptz) AS finished_at"
        bounds = list(where)
        if table == "job_history" and above is not None:
            bounds.append("finished_at >= :since")
        # history has an index on tags; for live jobs its upkeep would cost more than it saves
        if table == "job_history" and tag is not None:
            bounds.append(HAS_TAG)
        newest = f"SELECT * FROM {table} WHERE {' AND '.join(bounds)} ORDER BY id DESC LIMIT :examined"
        page_rows = connection.execute(
            text(
                f"SELECT {_VIEW}, {finished} FROM ({newest}) AS newest "
                f"WHERE {' AND '.join(filters)} ORDER BY id DESC LIMIT :limit"
            ),
            values,
        ).all()
        rows.extend(page_rows)
        if len(page_rows) <= limit:
            edge = connection.execute(
                text(f"SELECT count(*), (array_agg(id ORDER BY id))[1] FROM ({newest}) AS newest"), values
            ).one()
            if edge[0] == MAX_EXAMINED:
                frontiers.append(edge[1])

    # below a frontier one table was not read: rows of the other one belong to a later page
    frontier = max(frontiers, default=None)
    rows = sorted((row for row in rows if frontier is None or row.id >= frontier), key=lambda row: row.id, reverse=True)
    page = [view_of(dict(row._mapping)) for row in rows[:limit]]
    if len(rows) > limit:
        return page, page[-1].id
    return page, frontier


def _tables_of(state: State | None) -> tuple[str, ...]:
    if state is None:
        return ("jobs", "job_history")
    return ("job_history",) if state in FINAL else ("jobs",)


def ask_of_job(
    connection: Connection, statement: TextClause, tenant_id: UUID, job_id: UUID, **values: Any
) -> tuple[str, str | None]:
    """Run a statement that changes one job of a tenant; returns its verdict and the job's state."""
    row = connection.execute(
        statement, {"tenant_id": tenant_id, "id": job_id, "since": earliest_end(job_id), **values}
    ).one()
    return row.verdict, row.state


_CANCEL = text("SELECT verdict, state FROM cancel_job(:tenant_id, :id, :since, :reason, :by, :running, :signal)")


def cancel_job(
    connection: Connection,
    tenant_id: UUID,
    job_id: UUID,
    reason: str | None,
    by: str | None = None,
    running: bool = True,
    signal: str | None = None,
) -> tuple[str, str | None]:
    """Call `cancel_job.sql`; returns its verdict and the state."""
    return ask_of_job(connection, _CANCEL, tenant_id, job_id, reason=reason, by=by, running=running, signal=signal)


_CHANGE = text(
    "SELECT verdict, state FROM change_job(:tenant_id, :id, :since, :priority, :run_at, CAST(:data AS jsonb))"
)


def change_job(
    connection: Connection,
    tenant_id: UUID,
    job_id: UUID,
    *,
    priority: int | None,
    run_at: datetime | None,
    data: dict[str, Any],
) -> tuple[str, str | None]:
    """Call `change_job`; returns its verdict and the state."""
    encoded = orjson.dumps(data).decode()
    return ask_of_job(connection, _CHANGE, tenant_id, job_id, priority=priority, run_at=run_at, data=encoded)


_UNFINISHED = text(
    "SELECT id FROM jobs WHERE id = ANY (:ids) AND state <> 'dead' UNION ALL "
    "SELECT id FROM workflows WHERE id = ANY (:ids) AND ended_at IS NULL"
)


def unfinished(connection: Connection, job_ids: Sequence[UUID]) -> set[UUID]:
    """Return which of these jobs have neither ended nor are dead, and which of these workflows have not ended."""
    return set(connection.execute(_UNFINISHED, {"ids": list(job_ids)}).scalars())
