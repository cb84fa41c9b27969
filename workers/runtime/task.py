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
from jobplatform.usecases.execute_run import Claim, Delivery
from workers.runtime.attempt import Deferred, Ended, run_attempt

#: headers that the consumer adds: the lease this delivery claims with, known to parent and child; the worker; whether a
#: success may be left to the committer; and the claim, when the committer has made it (see `claim_header`)
LEASE, WORKER, CAN_DEFER, CLAIM = "lease_id", "worker_id", "can_defer", "claim"


class DeferredSummary(str):
    """The line about a run that Celery gets as its result, with the success that the committer has to settle."""

    deferred: Deferred


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
        """Run the delivery of this request. Arguments of a message are ignored."""
        assert self.kind is not None, "only the tasks of kinds are run"
        return run_delivery(self.kind, self.request.id, self.request)

    @property
    def __trace__(self) -> Any:
        """Celery's tracer, which a worker calls for a delivery. A deferred success goes to the parent with its line."""
        tracer = self._tracer

        def trace(uuid: str, args: Any, kwargs: Any, request: Any = None) -> Any:
            return _with_deferred(tracer(uuid, args, kwargs, request))

        return trace

    @__trace__.setter
    def __trace__(self, tracer: Any) -> None:
        """Keep the tracer that Celery builds."""
        self._tracer = tracer


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
        """Ignore the tracer that Celery builds: it would trace the delivery."""


def run_delivery(kind: Kind, job_id: str, request: Any) -> str:
    """Run one delivery from claim to settle; returns a summary of a success.

    Raises Celery's `Retry` (acknowledged), `Reject` (to `jobs.dead`) or `Ignore` (acknowledged) for all else.
    """
    delivery = delivery_of(job_id, kind.name, request)
    header = request.get(CLAIM)
    claimed = None if header is None else Claim(delivery, *header)
    return _report_to_celery(run_attempt(delivery, kind, claimed, can_defer=bool(request.get(CAN_DEFER))))


def delivery_of(job_id: str, kind: str, request: Any) -> Delivery:
    """Return the delivery that a request stands for: its dictionary in the parent, Celery's context in a slot."""
    return Delivery(
        job_id=UUID(job_id),
        dispatch_no=request.get(DISPATCH_NO),
        kind=kind,
        lease_id=UUID(request.get(LEASE)),
        worker_id=UUID(request.get(WORKER)),
        node=request.get("hostname") or "",
    )


def claim_header(claimed: Claim) -> tuple[Any, ...]:
    """Return the header that brings a claim to its slot."""
    return claimed.tenant_id, claimed.payload, claimed.run_no, claimed.attempt, claimed.max_attempts, claimed.is_plain


def trace_delivery(kind: Kind, job_id: str, request: Any) -> Any:
    """Run one delivery in place of Celery's tracer; returns the (retval, info, runtime, retstr) that this would."""
    began = time.monotonic()
    try:
        summary = run_delivery(kind, job_id, request)
    except (Reject, Retry, Ignore) as error:
        info = TraceInfo(_STATES[type(error)], error)
        return trace_ok_t(ExceptionInfo(internal=True), info, time.monotonic() - began, None)
    return _with_deferred(trace_ok_t(summary, None, time.monotonic() - began, summary))


def _with_deferred(answer: Any) -> Any:
    """Let the parent get a deferred success where Celery sends it a representation of the task's result."""
    if isinstance(answer.retval, DeferredSummary):
        return answer._replace(retstr=(str(answer.retval), answer.retval.deferred))
    return answer


_STATES = {Reject: states.REJECTED, Retry: states.RETRY, Ignore: states.IGNORED}


def _report_to_celery(ended: Ended) -> str:
    if ended.deferred is not None:
        summary = DeferredSummary(ended.summary)
        summary.deferred = ended.deferred
        return summary
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
