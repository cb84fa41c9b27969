"""Run the body of a Celery task in a run of its job, and say what came of it in the ledger's words."""

from __future__ import annotations

from typing import Any

from billiard.einfo import ExceptionInfo
from billiard.exceptions import SoftTimeLimitExceeded
from celery import states
from celery.exceptions import Ignore, Reject, Retry
from celery.utils.nodenames import gethostname

from jobplatform.domain.kinds import REGISTRY
from jobplatform.domain.texts import printable
from jobplatform.errors import (
    EffectUnknown,
    JobCancelled,
    LeaseLost,
    LedgerUnavailable,
    OutcomeUnknown,
    Permanent,
    Reordered,
    RunFailed,
    Snooze,
)
from workers.attempt import TRACEBACK_CHARACTERS
from workers.celery.failures import describe
from workers.celery.replace import add_replacement
from workers.celery.run import BodyRun, running
from workers.celery.values import from_json, to_json

#: headers that are no request's
_ABOUT_THE_JOB = frozenset(("children", "of_chord", "failed", "errbacks", "queue", "priority"))
#: what a body may raise that the attempt knows itself
_OURS = (EffectUnknown, JobCancelled, LeaseLost, LedgerUnavailable, OutcomeUnknown, RunFailed, Snooze)
REJECTED_SECONDS = 1.0
#: of a `raise Retry()` that `self.retry` did not make
RETRY_SECONDS = 180.0


def run_body(task: Any, payload: Any, ctx: Any) -> Any:
    """Run the task's body once. Returns its result as JSON values.

    Raises `Reordered` for a retry, `Permanent` for a failure, and what the attempt knows otherwise.
    """
    headers = dict(payload.headers)
    args, kwargs = from_json(payload.args), from_json(payload.kwargs)
    task_id = headers.get("id") or str(ctx.job_id)
    raw = {"args": payload.args, "kwargs": payload.kwargs, "headers": payload.headers}
    run = BodyRun(ctx, task_id, ctx.tenant_id, raw, args, kwargs)
    request = make_request(task, task_id, headers, ctx)
    request["_children"] = run.children  # what it calls is noted there
    with running(run):
        traced = task.trace_body(task_id, args, kwargs, request)
    return name_outcome(task, run, traced, request)


def make_request(task: Any, task_id: str, headers: dict[str, Any], ctx: Any) -> dict[str, Any]:
    """Return the request that Celery's tracer gives the body: from the ledger, nothing of it from a message."""
    own = from_json({key: value for key, value in headers.items() if key not in _ABOUT_THE_JOB})
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
        "hostname": gethostname(),
        "is_eager": False,
        # what comes after it stands in the ledger already
        "callbacks": None,
        "errbacks": None,
        "chain": None,
        "chord": None,
        "delivery_info": {
            "exchange": "",
            "routing_key": headers.get("queue") or REGISTRY.get(task.name).queue,
            "priority": headers.get("priority"),
            "redelivered": ctx.run_no > 1,
            "is_eager": False,
        },
    }


def name_outcome(task: Any, run: BodyRun, traced: Any, request: dict[str, Any]) -> Any:
    """Translate what Celery's tracer says."""
    value, info = traced.retval, traced.info
    if run.retry is not None and (info is None or isinstance(info.retval, Retry)):
        cause = info.retval.exc if info is not None else None
        raise _retry(run.retry.delay_seconds, run.retry.payload, cause or (info and info.retval))
    if info is None:
        _keep_children(run)
        # results of other tasks become their ids, as in Celery
        value = task.backend.prepare_value(value)
        return None if request.get("ignore_result") or task.ignore_result else to_json(value)
    error = info.retval
    if isinstance(error, Retry):  # raised by hand
        when = error.when if isinstance(error.when, int | float) else RETRY_SECONDS
        raise _retry(float(when), None, error.exc or error)
    if isinstance(error, Ignore):
        return _ignored(run)
    if isinstance(error, Reject):
        if error.requeue:
            raise Snooze(REJECTED_SECONDS, f"rejected, to be tried again: {error.reason}")
        raise Permanent(f"rejected: {error.reason}", code="rejected", detail=describe(error))
    if isinstance(error, (*_OURS, SoftTimeLimitExceeded)):
        raise error
    traceback = value.traceback if isinstance(value, ExceptionInfo) else ""
    detail = {**describe(error), "traceback": printable(str(traceback), 1_000_000)[-TRACEBACK_CHARACTERS:]}
    raise Permanent(str(error) or type(error).__name__, code="unhandled_exception", detail=detail) from error


def _retry(seconds: float, payload: Any, cause: Any) -> Reordered:
    if isinstance(cause, BaseException):
        return Reordered(str(cause) or type(cause).__name__, after=seconds, payload=payload, detail=describe(cause))
    return Reordered(str(cause or "the task asked for a retry"), after=seconds, payload=payload)


def _ignored(run: BodyRun) -> Any:
    """A body has raised `Ignore`: it was replaced, or has set its own state, which ends the job."""
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
    """Keep what the body has called, for `AsyncResult.children`."""
    if run.children:
        run.context.usage["children"] = [one.as_tuple() for one in run.children]
