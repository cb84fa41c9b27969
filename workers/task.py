"""The Celery task that every kind is: it hands the delivery to `attempt.run_attempt` and tells Celery the outcome."""

from __future__ import annotations

import logging
from typing import Any
from uuid import UUID

from celery import Task
from celery.exceptions import Ignore, Reject, Retry

from jobplatform.broker.envelope import DISPATCH_NO
from jobplatform.domain.kinds import Kind
from jobplatform.domain.states import State
from jobplatform.usecases.execute_run import Delivery
from workers.attempt import Ended, run_attempt

#: header that the consumer adds: the lease this delivery will claim with, known to parent and child
LEASE = "lease_id"
WORKER = "worker_id"


class LedgerTask(Task):  # type: ignore[misc]
    """A kind as Celery sees it. The ledger has decided before Celery hears of it; this only keeps Flower truthful."""

    Request = "workers.request:LedgerRequest"
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
        delivery = Delivery(
            job_id=UUID(self.request.id),
            dispatch_no=self.request.get(DISPATCH_NO),
            kind=self.kind.name,
            lease_id=UUID(self.request.get(LEASE)),
            worker_id=UUID(self.request.get(WORKER)),
            node=self.request.hostname or "",
        )
        ended = run_attempt(delivery, self.kind)
        return _tell_celery(ended)


def _tell_celery(ended: Ended) -> str:
    """Translate the outcome: success, Retry (acknowledged), Reject (to `jobs.dead`), Ignore (acknowledged)."""
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
