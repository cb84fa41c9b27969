"""Run the body of a Celery task in a run of its job, and translate its outcome for the ledger."""

from __future__ import annotations

import traceback
from typing import Any

from billiard.common import terminate_handler_fired
from billiard.einfo import ExceptionInfo
from billiard.exceptions import SoftTimeLimitExceeded
from celery import states
from celery.app.task import Context, get_actual_ignore_result
from celery.exceptions import Ignore, Reject, Retry

from jobplatform.domain.kinds import REGISTRY
from jobplatform.domain.texts import printable
from jobplatform.errors import (
    EffectUnknown,
    JobCancelled,
    LeaseLost,
    LedgerUnavailable,
    OutcomeUnknown,
    Permanent,
    RetryRequested,
    RunFailed,
    Snooze,
)
from workers.celery.failures import describe
from workers.celery.replace import add_replacement
from workers.celery.run import BodyRun, RetryRequest, running
from workers.celery.values import from_json, to_json
from workers.runtime.attempt import TRACEBACK_CHARACTERS

#: headers that are not part of a request
_ABOUT_THE_JOB = frozenset(("children", "of_chord", "is_step", "failed", "errbacks", "queue", "priority"))
#: exceptions of a body that the attempt handles itself
_OURS = (EffectUnknown, JobCancelled, LeaseLost, LedgerUnavailable, OutcomeUnknown, RunFailed, Snooze)
REJECTED_SECONDS = 1.0
#: delay of a `raise Retry()` without `self.retry` (s)
RETRY_SECONDS = 180.0


def run_body(task: Any, payload: Any, ctx: Any) -> Any:
    """Run the task's body once. Returns its result as JSON values.

    Raises `RetryRequested` for a retry, `Permanent` for a failure, and the other outcomes of an attempt.
    """
    headers = dict(payload.headers)
    args, kwargs = from_json(payload.args), from_json(payload.kwargs)
    task_id = headers.get("id") or str(ctx.job_id)
    raw = {"args": payload.args, "kwargs": payload.kwargs, "headers": payload.headers}
    queue = headers.get("queue") or REGISTRY.get(task.name).queue
    run = BodyRun(ctx, task_id, ctx.tenant_id, raw, queue)
    request = make_request(task, run, headers)
    request["_children"] = run.children  # its calls are collected there
    with running(run):
        try:
            traced = task.trace_body(task_id, args, kwargs, request)
        except (*_OURS, SoftTimeLimitExceeded):
            raise
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # from a hook, say, or `sys.exit()`: a failure too
            if terminate_handler_fired():
                raise
            if run.retry is not None:
                raise _retry(run.retry, error) from error
            raise _failure(error, traceback.format_exc()) from error
    return name_outcome(task, run, traced, request)


def make_request(task: Any, run: BodyRun, headers: dict[str, Any]) -> dict[str, Any]:
    """Return the request that Celery's tracer gives the body; built from the ledger, never from a message."""
    ctx, task_id = run.context, run.task_id
    kept = from_json({key: value for key, value in headers.items() if key not in _ABOUT_THE_JOB})
    own = {**kept.pop("custom", {}), **kept}
    limits = (
        None if task.time_limit is None and task.soft_time_limit is None else [task.time_limit, task.soft_time_limit]
    )
    return {
        "lang": "py",
        "timelimit": limits,
        "root_id": task_id,
        "correlation_id": task_id,
        **own,
        "id": task_id,
        "task": task.name,
        "retries": max(0, ctx.attempt - 1),
        "hostname": ctx.node,
        "is_eager": False,
        # its successors are in the ledger already
        "callbacks": None,
        "errbacks": None,
        "chain": None,
        "chord": None,
        "delivery_info": {
            "exchange": "",
            "routing_key": run.queue,
            "priority": headers.get("priority"),
            "redelivered": ctx.run_no > ctx.attempt,  # an earlier run was lost, or released: it took no attempt
            "is_eager": False,
        },
    }


def name_outcome(task: Any, run: BodyRun, traced: Any, request: dict[str, Any]) -> Any:
    """Translate the outcome that Celery's tracer reports."""
    value, info = traced.retval, traced.info
    error = None if info is None else info.retval
    if isinstance(error, (*_OURS, SoftTimeLimitExceeded)):
        raise error
    if run.retry is not None:  # the retry holds, whatever the body does afterwards
        raise _retry(run.retry, error.exc if isinstance(error, Retry) and error.exc else error)
    _keep_children(run)
    if error is None:
        # successors of a task with ignore_result still get the result
        headers = run.payload["headers"]
        is_used = headers.get("children") or headers.get("group")
        if get_actual_ignore_result(task, Context(request)) and not is_used:
            return None
        return to_json(task.backend.prepare_value(value))  # results of other tasks become their ids, as in Celery
    if isinstance(error, Retry):  # raised by hand, or by another task's body that was called here
        if task.max_retries is not None and request["retries"] >= task.max_retries:
            raise _failure(error.exc or error, _traceback_of(value))
        when = error.when if isinstance(error.when, int | float) else RETRY_SECONDS
        raise _retry(RetryRequest(float(when), {}), error.exc or error)
    if isinstance(error, Ignore):
        return _ignored(run)
    if isinstance(error, Reject):
        if error.requeue:
            raise Snooze(REJECTED_SECONDS, f"rejected, to be tried again: {error.reason}")
        raise Permanent(f"rejected: {error.reason}", code="rejected", detail=describe(error))
    raise _failure(error, _traceback_of(value)) from error


def _failure(error: BaseException, text: str) -> Permanent:
    detail = {**describe(error), "traceback": printable(text, 1_000_000)[-TRACEBACK_CHARACTERS:]}
    return Permanent(str(error) or type(error).__name__, code="unhandled_exception", detail=detail)


def _traceback_of(value: Any) -> str:
    return str(value.traceback) if isinstance(value, ExceptionInfo) else ""


def _retry(request: RetryRequest, cause: Any) -> RetryRequested:
    is_error = isinstance(cause, BaseException)
    return RetryRequested(
        str(cause or "") or (type(cause).__name__ if is_error else "the task asked for a retry"),
        after=request.delay_seconds,
        next_run=request.next_run or None,
        detail=describe(cause) if is_error else None,
    )


def _ignored(run: BodyRun) -> Any:
    """Handle `Ignore`: the task was replaced, or has set its own state, which ends the job."""
    if run.replacement is not None:
        add_replacement(run)
        return None
    if run.state == states.SUCCESS:
        return to_json(run.meta)
    if run.state == states.FAILURE:
        cause = run.meta if isinstance(run.meta, BaseException) else None
        detail = describe(cause) if cause is not None else {"meta": to_json(run.meta)}
        raise Permanent(str(cause or run.meta), code="unhandled_exception", detail=detail)
    raise JobCancelled("the task has raised Ignore")


def _keep_children(run: BodyRun) -> None:
    """Store the calls of the body for `AsyncResult.children`."""
    if run.children:
        run.context.usage["children"] = [item.as_tuple() for item in run.children]
