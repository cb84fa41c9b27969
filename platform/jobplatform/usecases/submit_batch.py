"""Accept many jobs in one transaction: all of them or none, or each valid one (I1)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from uuid import UUID

import orjson

from jobplatform.domain.jobs import SubmitJob
from jobplatform.domain.kinds import KindRegistry
from jobplatform.domain.states import State
from jobplatform.domain.validation import MAX_ERRORS
from jobplatform.errors import (
    DuplicateJob,
    FieldError,
    InvalidRequest,
    JobPlatformError,
    QuotaExceeded,
    UnknownKind,
)
from jobplatform.ledger import jobs
from jobplatform.ledger.hints import HintSender
from jobplatform.ledger.ids import new_id
from jobplatform.ledger.session import Ledger
from jobplatform.usecases.admit import Caller
from jobplatform.usecases.idempotency import key_conflict, one_at_a_time
from jobplatform.usecases.submit_job import CLOCK_TOLERANCE, CheckedSubmission, check_submission

MOST_JOBS = 10_000

#: a command, or the error that was found while reading it
Parsed = SubmitJob | JobPlatformError


@dataclass(frozen=True)
class BatchItem:
    """The outcome of one submission: its job, or the reason for refusal."""

    job_id: UUID | None = None
    kind: str | None = None
    queue: str | None = None
    #: of a job that was created by this request
    state: State | None = None
    problem: JobPlatformError | None = None


@dataclass(frozen=True)
class AcceptedBatch:
    """The outcomes of a batch in order, and whether this request created it."""

    id: UUID
    items: list[BatchItem]
    created: bool


def submit_batch(
    ledger: Ledger,
    hints: HintSender | None,
    kinds: KindRegistry,
    caller: Caller,
    commands: Sequence[Parsed],
    *,
    all_or_nothing: bool = True,
    idempotency_key: str | None = None,
    request_hash: bytes | None = None,
    idempotency_seconds: int = 86_400,
) -> AcceptedBatch:
    """Validate submissions and write them to the ledger in one transaction.

    All or nothing: raises the first error, or `InvalidRequest` with the wrong fields of all (`3.payload.to`). Otherwise
    each has its own outcome. Also raises `IdempotencyConflict`, `IdempotencyInProgress`, `LedgerUnavailable` and
    `OutcomeUnknown` like `submit_job`. `request_hash` identifies the request of an idempotency key.
    """
    checked = list(_check_all(kinds, caller, commands, all_or_nothing=all_or_nothing))
    if all_or_nothing:
        _raise_first(checked, len(commands))
    batch_id = new_id()
    rows = [
        entry.values()
        | {
            "position": position,
            "payload": orjson.Fragment(entry.payload),
            **(
                {
                    "unique_key": entry.command.unique.key,
                    "unique_seconds": entry.command.unique.seconds,
                    "unique_refuse": entry.command.unique.refuse,
                }
                if entry.command.unique is not None
                else {}
            ),
        }
        for position, entry in enumerate(checked)
        if isinstance(entry, CheckedSubmission)
    ]
    with one_at_a_time(idempotency_key):
        verdict, found_id, answers = jobs.accept_batch(
            ledger,
            tenant_id=caller.tenant_id,
            by=caller.key_name,
            idempotency_key=idempotency_key,
            request_hash=request_hash,
            idempotency_seconds=idempotency_seconds,
            batch_id=batch_id,
            submissions=orjson.dumps(rows),
            tolerance_seconds=CLOCK_TOLERANCE.total_seconds(),
            all_or_nothing=all_or_nothing,
        )
    if verdict == "conflict":
        raise key_conflict(idempotency_key)
    items = [
        _outcome(commands[position], entry, answers[position])
        if position in answers
        else BatchItem(problem=_problem(entry))
        for position, entry in enumerate(checked)
    ]
    if verdict == "refused":
        _raise_first([item.problem for item in items], len(commands))
        raise AssertionError("refused without a reason")
    if verdict == "accepted" and hints is not None:
        _wake(hints, checked, items)
    return AcceptedBatch(UUID(str(found_id)), items, created=verdict == "accepted")


def _check_all(
    kinds: KindRegistry, caller: Caller, commands: Sequence[Parsed], *, all_or_nothing: bool
) -> Iterator[CheckedSubmission | JobPlatformError]:
    """Validate each command. `MAX_ERRORS` fields are named in total, but at least one per invalid command."""
    named = 0
    for command in commands:
        checked = _check(kinds, caller, command)
        if isinstance(checked, InvalidRequest):
            checked.errors = checked.errors[: max(1, MAX_ERRORS - named)]
            named += len(checked.errors)
        yield checked
        if named >= MAX_ERRORS and all_or_nothing:
            return


def _check(kinds: KindRegistry, caller: Caller, command: Parsed) -> CheckedSubmission | JobPlatformError:
    if isinstance(command, JobPlatformError):
        return command
    try:
        caller.check_kinds([command.kind])
        caller.check_priority(command.priority)
        return check_submission(kinds, command)
    except JobPlatformError as error:
        return error


def _raise_first(problems: Sequence[object], total: int) -> None:
    """Raise the error: wrong fields of all submissions together, else the first error."""
    errors: list[FieldError] = []
    positions = []
    for position, entry in enumerate(problems):
        if isinstance(entry, UnknownKind):
            expected = f"{entry.suggestion!r}?" if entry.suggestion else f"one of {', '.join(entry.known)}"
            some: tuple[FieldError, ...] = (FieldError("kind", expected, entry.name),)
        elif isinstance(entry, InvalidRequest):
            some = entry.errors or (FieldError("job", "a job as in POST /v1/jobs", str(entry)),)
        elif isinstance(entry, JobPlatformError):
            raise entry
        else:
            continue
        positions.append(position)
        errors += [FieldError(f"{position}.{item.field}", item.expected, item.got) for item in some]
    if errors:
        least = "at least " if len(problems) < total else ""
        named = ", ".join(map(str, positions[:10])) + (", …" if len(positions) > 10 else "")
        raise InvalidRequest(
            f"nothing was accepted: {least}{len(positions)} of {total} submissions are not as expected ({named})",
            tuple(errors[:MAX_ERRORS]),
        )


def _problem(outcome: CheckedSubmission | JobPlatformError) -> JobPlatformError:
    assert isinstance(outcome, JobPlatformError)
    return outcome


def _outcome(command: Parsed, submission: CheckedSubmission | JobPlatformError, answer: jobs.BatchAnswer) -> BatchItem:
    """Return the outcome of a submission in the ledger. It may be a day old, so its kind may have changed since."""
    assert isinstance(command, SubmitJob)
    kind, queue = command.kind, submission.kind.queue if isinstance(submission, CheckedSubmission) else None
    problem: JobPlatformError
    if answer.verdict == "accepted":
        return BatchItem(UUID(answer.job_id), kind, queue, State(str(answer.state)))
    if answer.verdict == "existing":
        return BatchItem(UUID(answer.job_id), kind, queue)
    if answer.verdict == "duplicate":
        problem = DuplicateJob(command.unique.key if command.unique else "", UUID(answer.job_id))
    elif answer.verdict == "quota":
        problem = QuotaExceeded(queue or "", answer.quota_seconds)
    else:
        late = [
            FieldError(name, "a time in the future", moment.isoformat())
            for name, moment in (("run_at", command.run_at), ("start_by", command.start_by))
            if moment is not None
        ]
        problem = InvalidRequest("the times of the job can't work", tuple(late))
    return BatchItem(problem=problem)


def _wake(
    hints: HintSender, checked: Sequence[CheckedSubmission | JobPlatformError], items: Sequence[BatchItem]
) -> None:
    due: dict[str, int] = {}
    for submission, item in zip(checked, items, strict=True):
        if isinstance(submission, CheckedSubmission) and item.state is State.AVAILABLE:
            queue = submission.kind.queue
            due[queue] = max(submission.command.priority, due.get(queue, 0))
    for queue, priority in due.items():
        hints.send(queue, priority)
