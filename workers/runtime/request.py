"""Celery request whose outcome is decided by the ledger.

The death of a child, or its kill at the hard limit, is detected here, in the parent's event loop. This code does not
call the ledger: the report goes to the liveness thread, and the message is acknowledged when the report is committed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar
from uuid import UUID

from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from celery.exceptions import Ignore, Reject, Retry, TimeLimitExceeded, WorkerLostError
from celery.worker.request import Request, task_ready

from jobplatform.broker.envelope import DISPATCH_NO
from jobplatform.domain.kinds import REGISTRY
from jobplatform.domain.states import State
from jobplatform.ledger.ids import new_id
from jobplatform.usecases.execute_run import Claim, Delivery
from workers.runtime.attempt import Ended, count_run
from workers.runtime.committer import Finished
from workers.runtime.deliveries import DELIVERIES, Held, Report
from workers.runtime.handover import Handover
from workers.runtime.task import LEASE, delivery_of


class LedgerRequest(Request):  # type: ignore[misc]
    """See the module."""

    #: set by the worker (liveness/bootstep.py); None for a pool that settles everything in its slots
    handover: ClassVar[Handover | None] = None
    #: the committer was asked for a claim; the claim; the pool has a slot for the delivery
    is_claim_pending = False
    claimed: Claim | None = None
    has_slot = False
    _celerys_on_success: ClassVar[Callable[..., Any]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Put `on_success` before Celery's: Celery creates a class per task, whose method calls no inherited one."""
        super().__init_subclass__(**kwargs)
        if "on_success" in cls.__dict__:
            cls._celerys_on_success = cls.__dict__["on_success"]
            cls.on_success = LedgerRequest.on_success  # type: ignore[method-assign]

    def on_success(self, failed__retval__runtime: tuple[int, Any, float], **kwargs: Any) -> Any:
        """Settle a success that the slot has deferred; everything else was settled by the slot."""
        failed, retval, runtime = failed__retval__runtime
        if failed or not isinstance(retval, tuple):
            return self._celerys_on_success(failed__retval__runtime, **kwargs)
        _, deferred = retval
        run = Finished(self.delivery(), deferred.run_no, deferred.result, deferred.usage, deferred.began_at)
        assert self.handover is not None, "successes are deferred only with a handover"
        return self.handover.finish(self, run, runtime, partial(self._settled, runtime, kwargs))

    def _settled(self, runtime: float, kwargs: dict[str, Any], ended: Ended | Exception) -> None:
        """The run is committed: acknowledge its message, and let Celery report it."""
        if isinstance(ended, Exception):
            task_ready(self)
            self._report("lost", f"the worker failed outside the handler: {ended!r}")
            return
        if ended.state is State.DEAD:  # the ledger refuses its result for good
            task_ready(self)
            self.reject(requeue=False)
            return
        count_run(REGISTRY.get(self.name), "succeeded" if ended.state else "lease_lost", runtime)
        self._celerys_on_success((0, ended.summary, runtime), **kwargs)

    @property
    def lease_id(self) -> UUID:
        """The lease this delivery claims with."""
        return UUID(self._request_dict[LEASE])

    def renew_lease(self) -> None:
        """Claim with another lease."""
        lease_id = new_id()
        DELIVERIES.renew(self.lease_id, lease_id)
        self._request_dict[LEASE] = str(lease_id)

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        """Note which child runs the delivery."""
        DELIVERIES.started(self.held(), pid)
        super().on_accepted(pid, time_accepted)

    def revoked(self) -> bool:
        """Celery's own revoke (Flower's button) is ignored: acknowledging would leave the job dispatched.

        A job is cancelled in the ledger, by `POST /v1/jobs/{id}/cancel`, even with all workers down.
        """
        return False

    def acknowledge(self) -> None:
        """The run is settled, or there was none: the delivery is over."""
        DELIVERIES.remove(self.lease_id)
        super().acknowledge()

    def reject(self, requeue: bool = False) -> None:
        """The delivery is over, and its message goes to `jobs.dead`."""
        DELIVERIES.remove(self.lease_id)
        super().reject(requeue=requeue)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """Hard limit: report the run as timed out. The pool kills the child right after this."""
        if soft:
            super().on_timeout(soft, timeout)
            return
        task_ready(self)
        self._report("timed_out", _hard_limit(timeout))

    def on_failure(self, exc_info: ExceptionInfo, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """Report a child that died; everything else was settled by the child itself."""
        error = exc_info.exception
        if isinstance(error, ExceptionWithTraceback):  # not by the attribute: `Retry` has an `exc` of its own
            error = error.exc
        if isinstance(error, TimeLimitExceeded):  # reported here first, and in `on_timeout` again
            outcome, reason = "timed_out", _hard_limit(error.args[0] if error.args else None)
        elif isinstance(error, WorkerLostError | SystemExit | KeyboardInterrupt):
            outcome, reason = "crashed", str(error) or type(error).__name__
        elif isinstance(error, Reject | Ignore | Retry):  # the child has settled
            return super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)
        else:  # a claim or a settle that could not be done: acknowledging would leave the job where it is
            outcome, reason = "lost", f"the worker failed outside the handler: {error!r}"
        task_ready(self)
        self._report(outcome, reason)
        if send_failed_event:
            self.send_event("task-failed", exception=repr(error), traceback=exc_info.traceback)
        return None

    def held(self) -> Held:
        """Return the registry's entry for this delivery."""
        return Held(UUID(self.id), self._request_dict[DISPATCH_NO], self.lease_id, self.name)

    def delivery(self) -> Delivery:
        """Return the delivery, as its slot claims it."""
        return delivery_of(self.id, self.name, self._request_dict)

    def _report(self, outcome: str, reason: str) -> None:
        """Leave a report, once: a hard time limit is reported twice."""
        held = DELIVERIES.remove(self.lease_id)
        if held is not None:
            DELIVERIES.report(Report(held, outcome, reason, self.acknowledge, _signal_in(reason)))


def _signal_in(reason: str) -> str | None:
    """Return the signal that billiard names: "Worker exited prematurely: signal 9 (SIGKILL) Job: 3."."""
    match = re.search(r"\((SIG[A-Z0-9]+)\)", reason)
    return match[1] if match else None


def _hard_limit(seconds: float | None) -> str:
    return f"the hard time limit of {seconds} s was exceeded"
