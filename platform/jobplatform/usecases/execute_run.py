"""The ledger operations of a run: claim, write, settle.

Claims and settlements are retried while the process lives: the message of a failed claim is never acknowledged, and a
computed result is never dropped because the ledger was down.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from jobplatform.domain.states import Event
from jobplatform.errors import EffectUnknown, JobCancelled, LeaseLost, LedgerUnavailable, OutcomeUnknown, Permanent
from jobplatform.ledger import effects, limits, runs
from jobplatform.ledger.hints import FREED, HintSender
from jobplatform.ledger.runs import Settlement
from jobplatform.ledger.session import Ledger
from jobplatform.observe.logs import get_log

log = get_log(__name__)

__all__ = ["Claim", "Delivery", "Settlement", "claim", "settle", "write_progress", "write_remark", "is_cancelled"]


@dataclass(frozen=True)
class Delivery:
    """One delivery of a dispatch to a worker. The lease id is generated here, before the claim."""

    job_id: UUID
    dispatch_no: int
    kind: str
    lease_id: UUID
    worker_id: UUID
    node: str


@dataclass(frozen=True)
class Claim:
    """A claimed run; `delivery.lease_id` authorizes its writes."""

    delivery: Delivery
    tenant_id: UUID
    payload: Any
    run_no: int
    attempt: int
    max_attempts: int
    #: the job has neither workflow nor limit keys: its success can be settled together with others
    is_plain: bool = False


def never() -> bool:
    """Never give up."""
    return False


def retry_until_answered(
    action: Callable[[], Any], what: str, delivery: Delivery, give_up: Callable[[], bool] = never
) -> Any:
    """Retry while the ledger is unavailable, with pauses of 0.1 s to 5 s. `give_up` ends it with the last error."""
    wait = 0.1
    while True:
        try:
            return action()
        except (LedgerUnavailable, OutcomeUnknown) as error:  # both are safe to repeat: they name their lease
            if give_up():
                raise
            log.warning(
                "ledger_unavailable", doing=what, job_id=str(delivery.job_id), retry_seconds=wait, error=str(error)
            )
            time.sleep(wait)
            wait = min(wait * 2, 5.0)


def claim(ledger: Ledger, delivery: Delivery, give_up: Callable[[], bool] = never) -> Claim | str:
    """Take the lease; returns the claim, or why nothing can run: gone, stale, paused, expired, limited, dead."""

    def once() -> Claim | str:
        row = runs.claim_run(
            ledger,
            job_id=delivery.job_id,
            dispatch_no=delivery.dispatch_no,
            kind=delivery.kind,
            lease_id=delivery.lease_id,
            worker_id=delivery.worker_id,
            node=delivery.node,
        )
        if row.verdict not in ("claimed", "mine"):
            return row.verdict
        tenant_id = UUID(str(row.tenant_id))
        return Claim(delivery, tenant_id, row.payload, row.run_no, row.attempt, row.max_attempts, row.is_plain)

    result: Claim | str = retry_until_answered(once, "claim", delivery, give_up)
    return result


def settle(
    ledger: Ledger,
    delivery: Delivery,
    settlement: Settlement,
    give_up: Callable[[], bool] = never,
    hints: HintSender | None = None,
) -> str:
    """End the run and return the job's state. Raises `LeaseLost` if the run was ended by someone else.

    `hints` notifies the dispatcher of workflow steps that became available, and of returned slots of limit keys.
    """

    def once() -> runs.Settled:
        return runs.settle_run(ledger, delivery.job_id, delivery.lease_id, settlement)

    settled: runs.Settled = retry_until_answered(once, "settle", delivery, give_up)
    if settled.verdict == "lost" or settled.state is None:
        raise LeaseLost()
    if hints is not None:
        hints.send_all(settled.woken)
        if settled.freed:
            hints.send(FREED, 0)
    return settled.state


def acquire(
    ledger: Ledger,
    delivery: Delivery,
    key: str,
    units: int,
    is_cancelled: Callable[[], bool],
    most_seconds: float = 1.0,
) -> float:
    """Wait until a limit key has units for a call inside the run, and take them. Returns the seconds waited.

    Polls after the time that the ledger suggests, at most `most_seconds`: a limit may be raised meanwhile. Raises
    `LeaseLost`, `JobCancelled`, or `Permanent` when the key can never have so many.
    """
    began = time.monotonic()
    while True:
        verdict, seconds = retry_until_answered(
            lambda: limits.acquire(ledger, delivery.job_id, delivery.lease_id, key, units), "acquire", delivery
        )
        if verdict == "taken":
            return time.monotonic() - began
        if verdict == "lost":
            raise LeaseLost()
        if verdict == "never":
            raise Permanent(f"{units} units of {key!r}: its limit never has so many", code="units_above_limit")
        if is_cancelled():
            raise JobCancelled()
        time.sleep(min(seconds, most_seconds))


def pause_key(ledger: Ledger, delivery: Delivery, key: str, seconds: float, reason: str) -> None:
    """Pause a limit key for at most a day. Retries while the ledger is unavailable. Raises `LeaseLost`."""

    def once() -> bool:
        return limits.pause_key_by_run(ledger, delivery.job_id, delivery.lease_id, key, seconds, reason)

    if not retry_until_answered(once, "hold", delivery):
        raise LeaseLost()


def begin_effect(ledger: Ledger, delivery: Delivery, key: str, token: UUID, unknown: str) -> tuple[bool, Any]:
    """Record the intent of an effect. Returns whether to do it, and its receipt if it was done before.

    Raises `LeaseLost`, or `EffectUnknown` when an operator must decide.
    """
    verdict, receipt = retry_until_answered(
        lambda: effects.begin_effect(ledger, delivery.job_id, delivery.lease_id, key, token, unknown),
        "begin_effect",
        delivery,
    )
    if verdict == "lost":
        raise LeaseLost()
    if verdict == "unknown":
        raise EffectUnknown(key)
    return verdict == "do", receipt


def end_effect(ledger: Ledger, delivery: Delivery, key: str, token: UUID, receipt: Any) -> None:
    """Record that an effect took place. Retries while the ledger is unavailable. Raises `LeaseLost`."""

    def once() -> bool:
        with ledger.transaction() as connection:
            return effects.end_effect(connection, delivery.job_id, delivery.lease_id, key, token, receipt)

    if not retry_until_answered(once, "end_effect", delivery):
        raise LeaseLost()


def undo_effect(ledger: Ledger, delivery: Delivery, key: str, token: UUID) -> None:
    """Withdraw an intent: the effect did not take place. No-op when the lease is lost."""

    def once() -> None:
        with ledger.transaction() as connection:
            effects.undo_effect(connection, delivery.job_id, delivery.lease_id, key, token)

    retry_until_answered(once, "undo_effect", delivery)


def write_progress(ledger: Ledger, delivery: Delivery, progress: dict[str, Any]) -> None:
    """Write progress. Raises `LeaseLost` or `JobCancelled`."""
    with ledger.statement() as connection:
        _raise_if_over(runs.write_progress(connection, delivery.job_id, delivery.lease_id, progress))


def write_remark(ledger: Ledger, delivery: Delivery, event: Event, data: dict[str, Any]) -> None:
    """Append a line to the job's history; twice, if the first response is lost. Waits for the ledger.

    Raises `LeaseLost`.
    """

    def once() -> bool:
        with ledger.statement() as connection:
            return runs.write_remark(connection, delivery.job_id, delivery.lease_id, event, data)

    if not retry_until_answered(once, f"write_{event}", delivery):
        raise LeaseLost()


def is_cancelled(ledger: Ledger, delivery: Delivery) -> bool:
    """Return whether the job was cancelled. Raises `LeaseLost`."""
    with ledger.statement() as connection:
        requested = runs.cancel_requested(connection, delivery.job_id, delivery.lease_id)
    if requested is None:
        raise LeaseLost()
    return requested


def _raise_if_over(cancel_requested: bool | None) -> None:
    if cancel_requested is None:
        raise LeaseLost()
    if cancel_requested:
        raise JobCancelled()
