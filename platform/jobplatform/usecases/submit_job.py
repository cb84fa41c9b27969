"""Accept a job: one transaction, and one round trip, for the key, the job, its event and its counter (I1).

It needs Postgres alone. This module does not know the broker: the dispatcher publishes committed jobs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import orjson

from jobplatform.domain.access import Scope
from jobplatform.domain.jobs import JobView, SubmitJob
from jobplatform.domain.kinds import Kind, KindRegistry
from jobplatform.domain.states import State
from jobplatform.errors import (
    DuplicateJob,
    FieldError,
    InvalidRequest,
    JobNotFound,
    PriorityTooHigh,
    QuotaExceeded,
    Unauthorized,
)
from jobplatform.ledger import jobs
from jobplatform.ledger.hints import HintSender
from jobplatform.ledger.ids import new_id
from jobplatform.ledger.keys import hash_key
from jobplatform.ledger.session import Ledger
from jobplatform.usecases.admit import UNKNOWN_KEY, Caller, admit_key
from jobplatform.usecases.encode_payload import encode_payload
from jobplatform.usecases.idempotency import key_conflict, one_at_a_time

#: tolerance for the difference between callers' clocks and ours
CLOCK_TOLERANCE = timedelta(seconds=5)


@dataclass(frozen=True)
class Accepted:
    """The job, and whether this request created it (or an earlier one with the same Idempotency-Key did)."""

    job: JobView
    created: bool
    #: the owner of the API key, if it has a rate
    caller: Caller | None = None


@dataclass(frozen=True)
class ApiKey:
    """A caller by its API key, to be looked up in the transaction that accepts the job."""

    key: str


@dataclass(frozen=True)
class CheckedSubmission:
    """A validated submission, with the id that its job will have. `payload` is its JSON."""

    id: UUID
    kind: Kind
    command: SubmitJob
    payload: bytes
    limit_keys: tuple[str, ...] = ()
    limit_units: tuple[int, ...] = ()

    @property
    def max_attempts(self) -> int:
        """The submission's own maximum, or the kind's."""
        return self.command.max_attempts or self.kind.max_attempts

    def values(self) -> dict[str, Any]:
        """Return the parameters that both functions of the ledger share."""
        kind, command = self.kind, self.command
        return {
            "id": str(self.id),
            "queue": kind.queue,
            "kind": kind.name,
            "priority": command.priority,
            "tags": list(command.tags),
            "max_attempts": self.max_attempts,
            "crash_limit": kind.crash_limit,
            "lost_limit": kind.lost_limit,
            "run_at": command.run_at,
            "start_by": command.start_by,
            "limit_keys": list(self.limit_keys),
            "limit_units": list(self.limit_units),
        }

    def view(self, state: str, created_at: datetime, run_at: datetime) -> JobView:
        """Return the job as it was accepted."""
        return JobView(
            id=self.id,
            kind=self.kind.name,
            queue=self.kind.queue,
            state=State(state),
            priority=self.command.priority,
            attempt=0,
            max_attempts=self.max_attempts,
            run_no=0,
            created_at=created_at,
            run_at=run_at,
            start_by=self.command.start_by,
            tags=self.command.tags,
        )


def check_submission(kinds: KindRegistry, command: SubmitJob) -> CheckedSubmission:
    """Validate a command against its kind. Raises `UnknownKind`, `InvalidRequest` or `InvalidPayload`."""
    kind = kinds.get(command.kind)
    _check_times(command)
    payload = kind.parse(command.payload)
    encoded = encode_payload(command.payload, command.tags)
    return CheckedSubmission(new_id(), kind, command, encoded, *kind.limits_of(payload))


def submit_job(
    ledger: Ledger,
    hints: HintSender | None,
    kinds: KindRegistry,
    caller: UUID | ApiKey,
    command: SubmitJob,
    *,
    idempotency_key: str | None = None,
    idempotency_seconds: int = 86_400,
    by: str | None = None,
) -> Accepted:
    """Check the submission against its kind and write it to the ledger, for a tenant or for the owner of an API key.

    Raises the errors of `check_submission` and `submit_checked_job`. `by` is the author for the job's history; with an
    API key the key's name is used.
    """
    return submit_checked_job(
        ledger,
        hints,
        caller,
        check_submission(kinds, command),
        idempotency_key=idempotency_key,
        idempotency_seconds=idempotency_seconds,
        by=by,
    )


def submit_checked_job(
    ledger: Ledger,
    hints: HintSender | None,
    caller: UUID | ApiKey,
    submission: CheckedSubmission,
    *,
    idempotency_key: str | None = None,
    idempotency_seconds: int = 86_400,
    by: str | None = None,
) -> Accepted:
    """Write a checked submission to the ledger, for a tenant or for the owner of an API key.

    Raises `Unauthorized` for an invalid key, and `NotAllowed`, `KindNotAllowed`, `PriorityTooHigh` or
    `RateLimited` for a key that may not submit this. With any other error the key was valid, and the request counts
    against its rate: `IdempotencyConflict` if the Idempotency-Key was used for another request,
    `IdempotencyInProgress` while the first request is in progress, `DuplicateJob` if another job has its unique
    key, `QuotaExceeded`, `InvalidRequest` for times in the past, `LedgerUnavailable` if nothing was written, and
    `OutcomeUnknown` if the ledger's response was lost.
    """
    command = submission.command
    values = submission.values() | {
        "payload": submission.payload.decode(),
        "key_hash": hash_key(caller.key) if isinstance(caller, ApiKey) else None,
        "tenant": None if isinstance(caller, ApiKey) else caller,
        "idempotency_key": idempotency_key,
        "request_hash": _fingerprint(command) if idempotency_key is not None else None,
        "idempotency_seconds": idempotency_seconds,
        "tolerance_seconds": CLOCK_TOLERANCE.total_seconds(),
        "unique_key": command.unique.key if command.unique else None,
        "unique_seconds": command.unique.seconds if command.unique else None,
        "unique_refuse": bool(command.unique and command.unique.refuse),
        "by": by,
    }
    with one_at_a_time(idempotency_key):
        answer = jobs.accept_job(ledger, values)
        admitted = None
        if answer.verdict == "admit" and isinstance(caller, ApiKey):
            admitted = admit_key(ledger, caller.key)
            admitted.check_scope(Scope.SUBMIT)
            admitted.check_priority(command.priority)
            admitted.check_kinds([command.kind])
            values |= {"key_hash": None, "tenant": admitted.tenant_id, "by": admitted.key_name}
            answer = jobs.accept_job(ledger, values)
    if answer.verdict != "accepted":
        return _explain(ledger, answer, submission, idempotency_key, admitted)
    view = submission.view(answer.state, answer.created_at, answer.run_at)
    if hints is not None and view.state is State.AVAILABLE:
        hints.send(view.queue, view.priority)
    return Accepted(view, created=True, caller=admitted)


def submit_checked(
    ledger: Ledger, hints: HintSender | None, submissions: Sequence[tuple[ApiKey, CheckedSubmission]]
) -> list[JobView | None]:
    """Write many checked submissions of any callers in one transaction and one round trip.

    Returns the job of each, or None for one that was not written; `submit_job` then raises the reason. Raises
    `LedgerUnavailable` if nothing was written, `OutcomeUnknown` if the ledger's response was lost.
    """
    rows = [
        submission.values() | {"payload": orjson.Fragment(submission.payload), "key": hash_key(caller.key).hex()}
        for caller, submission in submissions
    ]
    accepted = jobs.accept_jobs(ledger, orjson.dumps(rows), CLOCK_TOLERANCE.total_seconds())
    views: list[JobView | None] = []
    for _, submission in submissions:
        result = accepted.get(str(submission.id))
        views.append(submission.view(*result) if result is not None else None)
    if hints is not None:
        for view in views:
            if view is not None and view.state is State.AVAILABLE:
                hints.send(view.queue, view.priority)
    return views


def _explain(
    ledger: Ledger,
    answer: jobs.Accepted,
    submission: CheckedSubmission,
    idempotency_key: str | None,
    admitted: Caller | None,
) -> Accepted:
    """Return the earlier job of a repeated request, or raise the reason why the submission was not accepted."""
    command = submission.command
    if answer.verdict == "unauthorized":
        raise Unauthorized(UNKNOWN_KEY)
    if answer.verdict == "past":
        raise InvalidRequest("the times of the job can't work", _times_before(command, answer.created_at))
    if answer.verdict == "priority":
        raise PriorityTooHigh(command.priority, answer.max_priority or 0)
    if answer.verdict == "quota":
        raise QuotaExceeded(submission.kind.queue, answer.quota_seconds)
    if answer.verdict == "duplicate" and command.unique is not None and command.unique.refuse:
        raise DuplicateJob(command.unique.key, answer.job_id)
    if answer.verdict == "conflict":
        raise key_conflict(idempotency_key, f"job {answer.job_id}")
    with ledger.statement() as connection:
        job = jobs.get_job(connection, UUID(str(answer.tenant_id)), UUID(str(answer.job_id)))
    if job is None:
        raise JobNotFound(answer.job_id)
    return Accepted(job, created=False, caller=admitted)


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


def _times_before(command: SubmitJob, now: datetime) -> tuple[FieldError, ...]:
    return tuple(
        FieldError(name, f"a time in the future (it is {now.isoformat()})", moment.isoformat())
        for name, moment in (("run_at", command.run_at), ("start_by", command.start_by))
        if moment is not None and moment < now - CLOCK_TOLERANCE
    )


def _fingerprint(command: SubmitJob) -> bytes:
    """Return the fingerprint of a request.

    A field that was added in a later version counts only if it is used, so that a request has the same fingerprint in
    the previous version.
    """
    identity = asdict(command)
    if identity["unique"] is None:
        del identity["unique"]
    return hashlib.sha256(orjson.dumps(identity, option=orjson.OPT_SORT_KEYS)).digest()
