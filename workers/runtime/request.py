"""Celery request whose outcome is decided by the ledger.

A child that dies, or is killed at its hard limit, is noticed here, in the parent's event loop. Nothing is asked of the
ledger here: the report goes to the liveness thread, and the message is acknowledged when it is committed.
"""

from __future__ import annotations

import re
from typing import Any
from uuid import UUID

from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from celery.exceptions import Ignore, Reject, Retry, TimeLimitExceeded, WorkerLostError
from celery.worker.request import Request, task_ready

from jobplatform.broker.envelope import DISPATCH_NO
from workers.runtime.deliveries import DELIVERIES, Held, Report
from workers.runtime.task import LEASE


class LedgerRequest(Request):  # type: ignore[misc]
    """See the module."""

    @property
    def lease_id(self) -> UUID:
        """The lease this delivery claims with."""
        return UUID(self._request_dict[LEASE])

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        """Note which child has it."""
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
        """The job died: the delivery is over, its message goes to `jobs.dead`."""
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
        """Return what the registry is to know of this delivery."""
        return Held(UUID(self.id), self._request_dict[DISPATCH_NO], self.lease_id, self.name)

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
