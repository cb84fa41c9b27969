"""The Celery task of every kind: it passes the delivery to `attempt.run_attempt` and reports the outcome to Celery."""

from __future__ import annotations

import logging
import time
from typing import Any
from uuid import UUID

from billiard.einfo import ExceptionInfo
from celery import Task, states
from celery.app.trace import TraceInfo, trace_ok_t
from celery.exceptions import Ignore, Reject, Retry

from jobplatform.broker.envelope import DISPATCH_NO
from jobplatform.domain.kinds import Kind
from jobplatform.domain.states import State
from jobplatform.usecases.execute_run import Delivery
from workers.runtime.attempt import Ended, run_attempt

#: header that the consumer adds: the lease this delivery will claim with, known to parent and child
LEASE = "lease_id"
WORKER = "worker_id"


class LedgerTask(Task):  # type: ignore[misc]
    """A kind as Celery sees it. The ledger has decided before Celery hears of it; this only keeps Flower truthful."""

    Request = "workers.runtime.request:LedgerRequest"
    acks_late = True
    ignore_result = False
    kind: Kind | None = None

    @classmethod
    def for_kind(cls, kind: Kind) -> LedgerTask:
        """Return a task for the kind, with its time limits."""
        attributes = {
            "name": kind.name,
            "kind": kind,
            "soft_time_limit": kind.soft_limit_seconds,
            "time_limit": kind.hard_limit_seconds,
            "__doc__": kind.description,
            "__module__": kind.handler.__module__,
        }
        task: LedgerTask = type(kind.name, (cls,), attributes)()
        return task

    def run(self, *_args: Any, **_kwargs: Any) -> str:
        """Run the delivery of this request; arguments of a message are never looked at."""
        assert self.kind is not None, "only the tasks of kinds are run"
        return run_delivery(self.kind, self.request.id, self.request)


class TracedByKind(LedgerTask):
    """A kind whose body Celery traces: an existing app's task, in the platform's own worker.

    Celery's tracer stands around the body (workers/celery/task.py); one around the delivery, too, would send every
    signal twice.
    """

    abstract = True

    @property
    def __trace__(self) -> Any:
        """What a worker calls for a delivery."""

        def trace(uuid: str, _args: Any, _kwargs: Any, request: Any = None) -> Any:
            assert self.kind is not None
            return trace_delivery(self.kind, uuid, request)

        return trace

    @__trace__.setter
    def __trace__(self, tracer: Any) -> None:
        """Leave the tracer that Celery builds: it would trace the delivery."""


def run_delivery(kind: Kind, job_id: str, request: Any) -> str:
    """Run one delivery from claim to settle; returns a summary of a success.

    Raises Celery's `Retry` (acknowledged), `Reject` (to `jobs.dead`) or `Ignore` (acknowledged) for all else.
    """
    delivery = Delivery(
        job_id=UUID(job_id),
        dispatch_no=request.get(DISPATCH_NO),
        kind=kind.name,
        lease_id=UUID(request.get(LEASE)),
        worker_id=UUID(request.get(WORKER)),
        node=request.get("hostname") or "",
    )
    return _tell_celery(run_attempt(delivery, kind))


def trace_delivery(kind: Kind, job_id: str, request: Any) -> Any:
    """Run one delivery in place of Celery's tracer; returns the (retval, info, runtime, retstr) that this would."""
    began = time.monotonic()
    try:
        summary = run_delivery(kind, job_id, request)
    except (Reject, Retry, Ignore) as error:
        info = TraceInfo(_STATES[type(error)], error)
        return trace_ok_t(ExceptionInfo(internal=True), info, time.monotonic() - began, None)
    return trace_ok_t(summary, None, time.monotonic() - began, summary)


_STATES = {Reject: states.REJECTED, Retry: states.RETRY, Ignore: states.IGNORED}


def _tell_celery(ended: Ended) -> str:
    if ended.is_dead_message:
        raise Reject(ended.summary, requeue=False)
    if ended.state == State.SUCCEEDED:
        return ended.summary
    if ended.state == State.DEAD:
        raise Reject(ended.summary, requeue=False)
    if ended.state in (State.SCHEDULED, State.AVAILABLE):
        raise Retry(ended.summary)
    logging.getLogger(__name__).debug("ignored: %s", ended.summary)
    raise Ignore(ended.summary)
