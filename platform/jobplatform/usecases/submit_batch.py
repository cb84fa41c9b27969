"""Accept many jobs at once: one transaction for all of them, or none; or each that can be (I1)."""

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

#: an order, or what was found wrong with it before
Parsed = SubmitJob | JobPlatformError


@dataclass(frozen=True)
class BatchItem:
    """What became of one order: its job, or why there is none."""

    job_id: UUID | None = None
    kind: str | None = None
    queue: str | None = None
    #: of a job that was made just now
    state: State | None = None
    problem: JobPlatformError | None = None


@dataclass(frozen=True)
class AcceptedBatch:
    """What became of a batch, order by order, and whether this very request made it."""

    id: UUID
    items: list[BatchItem]
    created: bool


def submit_batch(
    ledger: Ledger,
    hints: HintSender | None,
    kinds: KindRegistry,
    caller: Caller,
    orders: Sequence[Parsed],
    *,
    all_or_nothing: bool = True,
    idempotency_key: str | None = None,
    request_hash: bytes | None = None,
    idempotency_seconds: int = 86_400,
) -> AcceptedBatch:
    """Check orders against their kinds and write them to the ledger in one transaction.

    All or nothing: raises what is wrong with the first of them, `InvalidRequest` with the fields of all that are not as
    expected (`3.payload.to`). Else each has its own outcome. Further raises `IdempotencyConflict`,
    `IdempotencyInProgress`, `LedgerUnavailable` and `OutcomeUnknown` as `submit_job` does. `request_hash` is what tells
    one request from another.
    """
    checked = list(_check_all(kinds, caller, orders, all_or_nothing=all_or_nothing))
    if all_or_nothing:
        _raise_first(checked, len(orders))
    batch_id = new_id()
    rows = [
        entry.values()
        | {
            "place": place,
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
        for place, entry in enumerate(checked)
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
            orders=orjson.dumps(rows),
            tolerance_seconds=CLOCK_TOLERANCE.total_seconds(),
            all_or_nothing=all_or_nothing,
        )
    if verdict == "conflict":
        raise key_conflict(idempotency_key)
    items = [
        _outcome(orders[place], entry, *answers[place]) if place in answers else BatchItem(problem=_problem(entry))
        for place, entry in enumerate(checked)
    ]
    if verdict == "refused":
        _raise_first([item.problem for item in items], len(orders))
        raise AssertionError("refused without a reason")
    if verdict == "accepted" and hints is not None:
        _wake(hints, checked, items)
    return AcceptedBatch(UUID(str(found_id)), items, created=verdict == "accepted")


def _check_all(
    kinds: KindRegistry, caller: Caller, orders: Sequence[Parsed], *, all_or_nothing: bool
) -> Iterator[CheckedSubmission | JobPlatformError]:
    """Check each order against its kind. `MAX_ERRORS` fields are named in all; each wrong order names one at least."""
    named = 0
    for order in orders:
        checked = _check(kinds, caller, order)
        if isinstance(checked, InvalidRequest):
            checked.errors = checked.errors[: max(1, MAX_ERRORS - named)]
            named += len(checked.errors)
        yield checked
        if named >= MAX_ERRORS and all_or_nothing:
            return


def _check(kinds: KindRegistry, caller: Caller, order: Parsed) -> CheckedSubmission | JobPlatformError:
    if isinstance(order, JobPlatformError):
        return order
    try:
        caller.check_kinds([order.kind])
        caller.check_priority(order.priority)
        return check_submission(kinds, order)
    except JobPlatformError as error:
        return error


def _raise_first(problems: Sequence[object], total: int) -> None:
    """Raise what is wrong: of wrong fields those of all, of other things the first."""
    errors: list[FieldError] = []
    places = []
    for place, entry in enumerate(problems):
        if isinstance(entry, UnknownKind):
            expected = f"{entry.suggestion!r}?" if entry.suggestion else f"one of {', '.join(entry.known)}"
            some: tuple[FieldError, ...] = (FieldError("kind", expected, entry.name),)
        elif isinstance(entry, InvalidRequest):
            some = entry.errors or (FieldError("job", "a job as in POST /v1/jobs", str(entry)),)
        elif isinstance(entry, JobPlatformError):
            raise entry
        else:
            continue
        places.append(place)
        errors += [FieldError(f"{place}.{item.field}", item.expected, item.got) for item in some]
    if errors:
        least = "at least " if len(problems) < total else ""
        named = ", ".join(map(str, places[:10])) + (", …" if len(places) > 10 else "")
        raise InvalidRequest(
            f"nothing was accepted: {least}{len(places)} of {total} orders are not as expected ({named})",
            tuple(errors[:MAX_ERRORS]),
        )


def _problem(outcome: CheckedSubmission | JobPlatformError) -> JobPlatformError:
    assert isinstance(outcome, JobPlatformError)
    return outcome


def _outcome(
    command: Parsed, order: CheckedSubmission | JobPlatformError, verdict: str, job_id: str, more: str | float | None
) -> BatchItem:
    """Return what the ledger has made of an order, perhaps a day ago: it may not fit its kind any more."""
    assert isinstance(command, SubmitJob)
    kind, queue = command.kind, order.kind.queue if isinstance(order, CheckedSubmission) else None
    problem: JobPlatformError
    if verdict == "accepted":
        return BatchItem(UUID(job_id), kind, queue, State(str(more)))
    if verdict == "existing":
        return BatchItem(UUID(job_id), kind, queue)
    if verdict == "duplicate":
        problem = DuplicateJob(command.unique.key if command.unique else "", UUID(job_id))
    elif verdict == "quota":
        problem = QuotaExceeded(queue or "", float(more) if more is not None else None)
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
    for order, item in zip(checked, items, strict=True):
        if isinstance(order, CheckedSubmission) and item.state is State.AVAILABLE:
            queue = order.kind.queue
            due[queue] = max(order.command.priority, due.get(queue, 0))
    for queue, priority in due.items():
        hints.send(queue, priority)
