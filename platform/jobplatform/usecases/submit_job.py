"""Accept a job: one transaction with the job, its Idempotency-Key, its event and its counter (I1).

Postgres alone is needed. The broker is not known here: the dispatcher publishes what is committed.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import orjson

from jobplatform.domain.jobs import JobView, SubmitJob
from jobplatform.domain.kinds import Kind, KindRegistry
from jobplatform.domain.states import State
from jobplatform.domain.texts import find_null
from jobplatform.errors import (
    FieldError,
    IdempotencyConflict,
    IdempotencyInProgress,
    InvalidPayload,
    InvalidRequest,
    JobNotFound,
    LedgerBusy,
)
from jobplatform.ledger import jobs, keys
from jobplatform.ledger.hints import HintSender
from jobplatform.ledger.ids import new_id
from jobplatform.ledger.session import Ledger

#: callers' clocks differ from ours by this much
CLOCK_TOLERANCE = timedelta(seconds=5)


@dataclass(frozen=True)
class Accepted:
    """The job, and whether this very request made it (or an earlier one with the same Idempotency-Key did)."""

    job: JobView
    created: bool


def submit_job(
    ledger: Ledger,
    hints: HintSender | None,
    kinds: KindRegistry,
    tenant_id: UUID,
    command: SubmitJob,
    *,
    idempotency_key: str | None = None,
    idempotency_seconds: int = 86_400,
) -> Accepted:
    """Check the order against its kind and write it to the ledger.

    Raises `UnknownKind`, `InvalidRequest` or `InvalidPayload` before anything is written; `IdempotencyConflict` when
    the key was used for another request, `IdempotencyInProgress` while the first one is being worked on;
    `LedgerUnavailable` when nothing was written, `OutcomeUnknown` when the commit's answer was lost.
    """
    kind = kinds.get(command.kind)
    _check_times(command)
    kind.parse(command.payload)
    _refuse_null_characters(command)
    job_id = new_id()
    with ledger.transaction() as connection:
        if idempotency_key is not None:
            request_hash = _fingerprint(command)
            try:
                bound = keys.remember_key(
                    connection, tenant_id, idempotency_key, request_hash, job_id, idempotency_seconds
                )
            except Exception as error:
                _raise_in_progress(error)
                raise
            if bound is not None:
                if bytes(bound.request_hash) != request_hash:
                    raise IdempotencyConflict(
                        f"Idempotency-Key {idempotency_key!r} was used for another request (job {bound.job_id}): "
                        f"expected the same body, or a new key"
                    )
                job = jobs.get_job(connection, tenant_id, bound.job_id)
                if job is None:
                    raise JobNotFound(bound.job_id)
                return Accepted(job, created=False)
        _refuse_the_past(command)  # not of a repetition: its job was accepted when this was the future
        view = _insert(connection, tenant_id, job_id, kind, command)
    if hints is not None and view.state is State.AVAILABLE:
        hints.send()
    return Accepted(view, created=True)


def _insert(connection: object, tenant_id: UUID, job_id: UUID, kind: Kind, command: SubmitJob) -> JobView:
    max_attempts = command.max_attempts or kind.max_attempts
    row = jobs.insert_job(
        connection,  # type: ignore[arg-type]
        {
            "id": job_id,
            "tenant_id": tenant_id,
            "queue": kind.queue,
            "kind": kind.name,
            "priority": command.priority,
            "payload": command.payload,
            "tags": command.tags,
            "max_attempts": max_attempts,
            "crash_limit": kind.crash_limit,
            "lost_limit": kind.lost_limit,
            "run_at": command.run_at,
            "start_by": command.start_by,
        },
    )
    return JobView(
        id=job_id,
        kind=kind.name,
        queue=kind.queue,
        state=State(row.state),
        priority=command.priority,
        attempt=0,
        max_attempts=max_attempts,
        run_no=0,
        created_at=row.created_at,
        run_at=row.run_at,
        start_by=command.start_by,
        tags=command.tags,
    )


def _check_times(command: SubmitJob) -> None:
    wrong = [
        FieldError(name, "a time with a zone, like 2026-01-31T12:00:00Z", moment.isoformat())
        for name, moment in (("run_at", command.run_at), ("start_by", command.start_by))
        if moment is not None and moment.tzinfo is None
    ]
    if not wrong and command.run_at and command.start_by and command.start_by <= command.run_at:
        wrong.append(
            FieldError("start_by", f"a time after run_at ({command.run_at.isoformat()})", command.start_by.isoformat())
        )
    if wrong:
        raise InvalidRequest("the times of the job can't work", tuple(wrong))


def _refuse_the_past(command: SubmitJob) -> None:
    now = datetime.now(UTC)
    wrong = tuple(
        FieldError(name, f"a time in the future (it is {now.isoformat()})", moment.isoformat())
        for name, moment in (("run_at", command.run_at), ("start_by", command.start_by))
        if moment is not None and moment < now - CLOCK_TOLERANCE
    )
    if wrong:
        raise InvalidRequest("the times of the job can't work", wrong)


def _refuse_null_characters(command: SubmitJob) -> None:
    found = find_null({"payload": command.payload, "tags": command.tags})
    if found:
        wrong = FieldError(".".join(found), "text without U+0000", "text with it")
        raise InvalidPayload("the job has a NUL character", (wrong,))
    try:
        orjson.dumps(command.payload)
    except TypeError as error:  # orjson stops at 254 levels
        wrong = FieldError("payload", "JSON of at most 250 levels", str(error))
        raise InvalidPayload("the payload is nested too deeply", (wrong,)) from None


def _fingerprint(command: SubmitJob) -> bytes:
    return hashlib.sha256(orjson.dumps(asdict(command), option=orjson.OPT_SORT_KEYS)).digest()


def _raise_in_progress(error: BaseException) -> None:
    """The first request with this key holds its row: lock_timeout ends our wait for it."""
    if getattr(getattr(error, "orig", None), "pgcode", None) == "55P03" or isinstance(error, LedgerBusy):
        raise IdempotencyInProgress() from error
