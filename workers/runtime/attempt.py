"""The life of an attempt: claim → load payload → run the handler → name the outcome → settle."""

from __future__ import annotations

import random
import resource
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import orjson
import structlog
from billiard.common import terminate_handler_fired
from billiard.exceptions import SoftTimeLimitExceeded
from pydantic import BaseModel

from jobplatform.config import settings
from jobplatform.domain.kinds import Kind
from jobplatform.domain.limits import is_key
from jobplatform.domain.states import State
from jobplatform.domain.texts import printable, without_nulls
from jobplatform.errors import (
    EffectUnknown,
    InvalidPayload,
    JobCancelled,
    LeaseLost,
    LedgerUnavailable,
    OutcomeUnknown,
    Permanent,
    Retryable,
    RetryRequested,
    Snooze,
    StorageFull,
    StorageUnavailable,
    Throttled,
)
from jobplatform.observe.logs import get_log
from jobplatform.observe.metrics import worker_metrics
from jobplatform.usecases.execute_run import Claim, Delivery, Settlement, claim, pause_key, settle
from jobplatform.usecases.resolve_payload import resolve_payload
from jobplatform.usecases.store_artifacts import FULL
from workers.runtime.context import RunContext, open_context
from workers.runtime.json_values import to_json_values
from workers.runtime.process import hints, ledger

log = get_log(__name__)
T = TypeVar("T")

#: a traceback in the ledger is cut here; the whole one is in the logs
TRACEBACK_CHARACTERS = 4_000


@dataclass(frozen=True)
class Deferred:
    """A success that the slot leaves to the worker's committer. `result` and `usage` are JSON."""

    run_no: int
    result: bytes
    usage: bytes
    #: when the handler started (time.monotonic); None: at its claim, by its slot
    began_at: float | None


@dataclass(frozen=True)
class Ended:
    """How an attempt ended, for Celery: the job's state (None: nothing was run) and one line."""

    state: State | None
    summary: str
    #: the message belongs to no live dispatch: it is kept as a dead message (I6)
    is_dead_message: bool = False
    #: not settled yet
    deferred: Deferred | None = None


def run_attempt(delivery: Delivery, kind: Kind, claimed: Claim | None = None, *, can_defer: bool = False) -> Ended:
    """Run one delivery from claim to settle. Never raises for what a handler does.

    `claimed`: the claim, if the committer has made it. `can_defer`: a success may be left to the committer.
    """
    is_claimed_ahead = claimed is not None
    if claimed is None:
        answer = _through_soft_limit(lambda: claim(ledger(), delivery))
        if isinstance(answer, str):
            worker_metrics().idle.labels(answer).inc()
            if answer == "dead":  # RabbitMQ dead-letters the message too
                return Ended(State.DEAD, "it wants more units than its limit ever has")
            return Ended(None, f"nothing to run: {answer}", is_dead_message=answer in ("gone", "stale"))
        claimed = answer
    with structlog.contextvars.bound_contextvars(job_id=str(delivery.job_id), run_no=claimed.run_no):
        log.debug("run_started", kind=kind.name, attempt=claimed.attempt)
        began = time.perf_counter()
        began_at = time.monotonic() if is_claimed_ahead else None
        try:
            with open_context(claimed, kind, settings()) as context:
                settlement = _name_outcome(kind, claimed, context)
        except LeaseLost:
            log.warning("run_lost_its_lease")
            count_run(kind, "lease_lost", time.perf_counter() - began)
            return Ended(None, "the lease was lost while it ran")
        if can_defer and (deferred := _defer(claimed, settlement, began_at)) is not None:
            return Ended(State.SUCCEEDED, f"run {claimed.run_no}: succeeded", deferred=deferred)
        ended = settle_claim(claimed.delivery, claimed.run_no, settlement)
        count_run(kind, settlement.outcome if ended.state else "lease_lost", time.perf_counter() - began)
        return ended


#: a larger result is settled by its slot (bytes): it would keep the parent busy
MAX_DEFERRED_BYTES = 64 * 1024


def _defer(claimed: Claim, settlement: Settlement, began_at: float | None) -> Deferred | None:
    """Return the success for the committer; None if the slot has to settle it."""
    if settlement.outcome != "succeeded" or settlement.added is not None or not claimed.is_plain:
        return None
    result = orjson.dumps(settlement.result)
    if len(result) > MAX_DEFERRED_BYTES:
        return None
    return Deferred(claimed.run_no, result, orjson.dumps(settlement.usage), began_at)


def count_run(kind: Kind, outcome: str, seconds: float) -> None:
    """Count a run that this process has ended."""
    metrics = worker_metrics()
    metrics.runs.labels(kind.queue, kind.name, outcome).inc()
    metrics.seconds.labels(kind.queue, kind.name).observe(seconds)


def _through_soft_limit(step: Callable[[], T]) -> T:
    """Repeat a step that the soft limit interrupted: it is meant for the handler; claim and settle may be repeated.

    The signal is sent once per run.
    """
    try:
        return step()
    except SoftTimeLimitExceeded:
        return step()


def settle_claim(delivery: Delivery, run_no: int, settlement: Settlement, again: bool = True) -> Ended:
    """Settle a run. A permanent refusal by the ledger (a result that Postgres can't store) dead-letters the job."""
    try:
        state = State(_through_soft_limit(lambda: settle(ledger(), delivery, settlement, hints=hints())))
    except LeaseLost:
        log.warning("run_lost_its_lease", outcome=settlement.outcome)
        return Ended(None, "the lease was lost before it was settled")
    except Exception as error:  # a permanent refusal: reporting "lost" would run the handler again each time
        if not again:
            raise
        log.exception("settle_refused", outcome=settlement.outcome)
        data = {
            "code": "settle_refused",
            "message": printable(f"the ledger refused its end: {error!r}"),
            "retryable": False,
        }
        return settle_claim(delivery, run_no, Settlement("failed", State.DEAD, error=data), again=False)
    log.info("run_settled", outcome=settlement.outcome, state=state.value)
    reason = (settlement.error or {}).get("message", "")
    return Ended(state, f"run {run_no}: {settlement.outcome} → {state.value} {reason}".rstrip())


def _name_outcome(kind: Kind, claimed: Claim, context: RunContext) -> Settlement:
    """Run, and handle exceptions of the code that names the outcome (a team's own retry policy, say)."""
    try:
        settled = _run(kind, claimed, context)
        return settled if settled.usage is not None else replace(settled, usage=dict(context.usage) or None)
    except LeaseLost:
        raise
    except Exception as error:
        log.exception("outcome_not_named", kind=kind.name)
        last = claimed.attempt >= claimed.max_attempts
        data = {"code": "unhandled_exception", "message": printable(repr(error)), "retryable": not last}
        return Settlement("failed", State.DEAD if last else State.SCHEDULED, delay_seconds=60.0, error=data)


def _run(kind: Kind, claimed: Claim, context: RunContext) -> Settlement:
    """Call the handler and name the outcome. Raises `LeaseLost` only."""
    try:
        payload = kind.parse(resolve_payload(ledger(), claimed, settings().max_payload_bytes))
        result = _as_json(kind.handler(payload, context))
        context.finish()
    except LeaseLost:
        raise
    except JobCancelled as error:
        return Settlement("cancelled", State.CANCELLED, error=_error(error, error.code, False))
    except Throttled as error:
        return _throttled(claimed, error)
    except Snooze as error:
        return Settlement(
            "snoozed", State.SCHEDULED, delay_seconds=max(0.0, error.seconds), error=_error(error, error.code, True)
        )
    except EffectUnknown as error:
        return Settlement("held", State.HELD, error=_error(error, error.code, False, {"effect": error.key}))
    except RetryRequested as error:
        failure = _error(error, error.reason, True, error.detail)
        wait = max(0.0, error.after or 0.0)
        return Settlement("failed", State.SCHEDULED, delay_seconds=wait, error=failure, next_run=error.next_run)
    except Retryable as error:
        return _failed(kind, claimed, _error(error, error.reason, True, error.detail), after=error.after)
    except Permanent as error:
        return Settlement("failed", State.DEAD, error=_error(error, error.reason, False, error.detail))
    except InvalidPayload as error:
        fields = [item.as_dict() for item in error.errors]
        return Settlement("failed", State.DEAD, error=_error(error, error.code, False, {"errors": fields}))
    except SoftTimeLimitExceeded:
        limit = f"the soft time limit of {kind.soft_limit_seconds} s was exceeded"
        detail = {"type": "SoftTimeLimitExceeded", "traceback": traceback.format_exc()[-TRACEBACK_CHARACTERS:]}
        error_data = {"code": "timed_out", "message": limit, "retryable": kind.retry_timeouts, "detail": detail}
        if kind.retry_timeouts:
            return _failed(kind, claimed, error_data, outcome="timed_out")
        return Settlement("timed_out", State.DEAD, error=error_data)
    except (LedgerUnavailable, OutcomeUnknown) as error:  # from ctx.log or ctx.artifact: not the handler's fault
        return Settlement("snoozed", State.SCHEDULED, delay_seconds=5.0, error=_error(error, error.code, True))
    except (StorageFull, StorageUnavailable) as error:
        return _without_space(error, error.code)
    except OSError as error:
        if error.errno not in FULL:
            return _unhandled(kind, claimed, error)
        return _without_space(error, StorageFull.code)  # the run's folder, say
    except (Exception, SystemExit, KeyboardInterrupt) as error:  # whatever a handler raises ends in the ledger
        if terminate_handler_fired():
            raise  # prefork: the pool ends this child (hard limit, shutdown), and its parent reports the outcome
        return _unhandled(kind, claimed, error)
    return Settlement(
        "succeeded",
        State.SUCCEEDED,
        result=result,
        usage=context.usage | _peak_memory(),
        added=context.added.as_json(),
    )


#: delay before a job whose worker had no disk space is retried: space is not freed by itself (s)
SPACE_SECONDS = 30.0


def _without_space(error: Exception, code: str) -> Settlement:
    """Retry later, without counting an attempt: a full disk is not the job's fault."""
    log.error("storage_failed", code=code, error=str(error))
    return Settlement("snoozed", State.SCHEDULED, delay_seconds=SPACE_SECONDS, error=_error(error, code, True))


def _unhandled(kind: Kind, claimed: Claim, error: BaseException) -> Settlement:
    """Return the failure for an exception that the handler did not expect, with the end of its traceback."""
    log.exception("handler_raised", kind=kind.name)
    detail = {"type": type(error).__name__, "traceback": traceback.format_exc()[-TRACEBACK_CHARACTERS:]}
    return _failed(kind, claimed, _error(error, "unhandled_exception", True, detail))


def _throttled(claimed: Claim, error: Throttled) -> Settlement:
    """Pause the limit key for this time, and snooze this job."""
    failure = _error(error, error.code, True, {"limit_key": error.key})
    if is_key(error.key):
        _through_soft_limit(lambda: pause_key(ledger(), claimed.delivery, error.key, error.seconds, failure["message"]))
    else:
        failure["message"] += f" (not held: {error.key!r:.100} is no limit key)"
    return Settlement("snoozed", State.SCHEDULED, delay_seconds=max(0.0, error.seconds), error=failure)


def _failed(
    kind: Kind, claimed: Claim, error: dict[str, Any], *, after: float | None = None, outcome: str = "failed"
) -> Settlement:
    """Retry by the kind's policy, or give up when the attempts are used up."""
    if claimed.attempt >= claimed.max_attempts:
        error = {**error, "message": f"{error['message']} (attempt {claimed.attempt} of {claimed.max_attempts})"}
        return Settlement(outcome, State.DEAD, error=error)
    delay = after if after is not None else kind.delay_seconds(error["code"], claimed.attempt, random.random)
    return Settlement(
        outcome,
        State.SCHEDULED,
        delay_seconds=max(0.0, delay),
        max_age_seconds=kind.max_age_seconds,
        error=error,
    )


def _error(error: BaseException, code: str, retryable: bool, detail: dict[str, Any] | None = None) -> dict[str, Any]:
    result: dict[str, Any] = {
        "code": printable(code, 100),
        "message": printable(str(error) or type(error).__name__),
        "retryable": retryable,
    }
    if detail:
        result["detail"] = to_json_values(detail)
    return result


def _as_json(result: object) -> Any:
    """Return the handler's result as JSON values. Raises `Permanent` when it can't be stored."""
    if isinstance(result, BaseModel):
        result = result.model_dump(mode="json")
    try:
        encoded = orjson.dumps(result)
    except TypeError as error:
        raise Permanent(
            f"the handler returned what is not JSON ({error}): expected dict, list, text, number, bool, None, or a "
            f"pydantic model",
            code="invalid_result",
        ) from None
    limit = settings().max_result_bytes
    if len(encoded) > limit:
        raise Permanent(
            f"the result has {len(encoded)} bytes, at most {limit} are kept: give large output as ctx.artifact(…)",
            code="result_too_large",
        )
    return without_nulls(orjson.loads(encoded))


def _peak_memory() -> dict[str, Any]:
    """Return the peak memory of this process so far; ru_maxrss is KiB on Linux, bytes on macOS."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"peak_memory_bytes": peak * (1 if sys.platform == "darwin" else 1024)}
