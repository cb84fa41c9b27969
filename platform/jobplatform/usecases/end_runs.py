"""End a run from outside: its child process died, was killed at the hard time limit, or is abandoned after a
cancellation."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID

from jobplatform.domain.kinds import Kind
from jobplatform.errors import LeaseLost
from jobplatform.ledger import runs, workers
from jobplatform.ledger.runs import Settlement
from jobplatform.ledger.session import Ledger
from jobplatform.usecases.execute_run import Delivery, claim, settle


def end_run(
    ledger: Ledger,
    kind: Kind,
    job_id: UUID,
    dispatch_no: int,
    lease_id: UUID,
    outcome: str,
    reason: str,
    facts: Mapping[str, Any],
) -> str:
    """Settle a run whose process has ended; `outcome` is crashed, lost, released or timed_out. Returns the job's state.

    `facts` are added to the run's error: worker, signal, peak_memory_bytes, as far as known. A job that the child had
    not claimed yet returns to available ("returned"); a job with a newer dispatch is left alone ("moved on"). Commits
    before it returns: the message must not be acknowledged earlier (rule "Return what was not claimed").
    """
    error = {"code": outcome, "message": reason, "retryable": True, **facts}
    with ledger.transaction() as connection:
        attempts = runs.attempt_of(connection, job_id, lease_id)
        if attempts is None:
            returned = runs.return_job(connection, job_id, dispatch_no, reason)
            return "returned" if returned else "moved on"
        # the limits of crashed and lost runs are in the job's row
        settlement = Settlement(outcome, "available" if outcome == "released" else None, error=error)
        if outcome == "timed_out":
            attempt, max_attempts = attempts
            retry = kind.retry_timeouts and attempt < max_attempts
            settlement = replace(
                settlement,
                state="scheduled" if retry else "dead",
                delay_seconds=kind.delay_seconds("timed_out", attempt, random.random),
                max_age_seconds=kind.max_age_seconds,
            )
        verdict, state = runs.settle_in(connection, job_id, lease_id, settlement)
    return str(state) if verdict == "settled" else "moved on"


#: delay before another worker may try an unknown kind (s): doubled from the first value to the second
FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS = 0.25, 30.0


def refuse_kind(
    ledger: Ledger, delivery: Delivery, reason: str, *, patience_seconds: float, lease_seconds: float
) -> str:
    """End the run of a kind that this worker does not know. It costs no attempt, and another worker may try soon.

    While workers of two versions share a queue, one of them knows the kind. If no live worker of the queue does, the
    job is dead-lettered `patience_seconds` after its first refusal (I6).
    Returns the job's state, or the claim's verdict if the message belongs to no live dispatch.
    """
    claimed = claim(ledger, delivery, give_up=lambda: True)
    if isinstance(claimed, str):
        return claimed
    error = {"code": "unknown_kind", "message": reason, "retryable": True, "worker": delivery.node}
    with ledger.statement() as connection:
        refusals = runs.refusals_of(connection, delivery.job_id)
        known = workers.knows_kind(connection, delivery.job_id, lease_seconds)
    if not known and refusals.seconds >= patience_seconds:
        message = f"{reason}; no live worker of its queue has known it for {refusals.seconds:.0f} s"
        return settle(
            ledger, delivery, Settlement("failed", "dead", error=error | {"message": message}), give_up=lambda: True
        )
    delay = min(LONGEST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2 ** min(refusals.times, 10))
    return settle(
        ledger, delivery, Settlement("snoozed", "scheduled", delay_seconds=delay, error=error), give_up=lambda: True
    )


def release_run(ledger: Ledger, job_id: UUID, lease_id: UUID) -> bool:
    """Release the run of a worker that shuts down: no attempt is counted, the job is available. False if it has
    ended."""
    return _release(ledger, job_id, lease_id, "released", "its worker was asked to end")


def give_claim_back(ledger: Ledger, job_id: UUID, lease_id: UUID, reason: str) -> bool:
    """Release a run that was claimed ahead of a free slot and has not started. False if it has ended."""
    return _release(ledger, job_id, lease_id, "not_started", f"claimed ahead of a free slot, and not started: {reason}")


def _release(ledger: Ledger, job_id: UUID, lease_id: UUID, code: str, message: str) -> bool:
    error = {"code": code, "message": message, "retryable": True}
    with ledger.transaction() as connection:
        verdict, _ = runs.settle_in(connection, job_id, lease_id, Settlement("released", "available", error=error))
    return verdict == "settled"


def abandon_run(
    ledger: Ledger, job_id: UUID, lease_id: UUID, message: str = "cancelled; the thread could not be stopped"
) -> None:
    """End a cancelled run whose thread or process may continue for a while: its writes are discarded.

    Raises `LeaseLost` when it has ended by itself.
    """
    error = {"code": "cancelled", "message": message, "retryable": False}
    with ledger.transaction() as connection:
        verdict, _ = runs.settle_in(connection, job_id, lease_id, Settlement("cancelled", "cancelled", error=error))
    if verdict == "lost":
        raise LeaseLost()
