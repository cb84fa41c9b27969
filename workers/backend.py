"""Celery's result backend, read from the ledger: `AsyncResult(job_id)` and Flower tell what the ledger tells.

It stores nothing: a run was settled before Celery hears of it. One connection pool per process, shared by all threads
(Celery makes a backend per thread; its own database backend opens an engine for each).
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from celery import states
from celery.backends.base import BaseBackend

from jobplatform.domain.states import State
from jobplatform.errors import JobCancelled, LedgerUnavailable, Permanent, Retryable
from jobplatform.usecases.read_jobs import find_job
from workers.process import ledger

#: the ledger's states in Celery's words
CELERY_STATES = {
    State.RUNNING: states.STARTED,
    State.SUCCEEDED: states.SUCCESS,
    State.CANCELLED: states.REVOKED,
    State.DEAD: states.FAILURE,
    State.EXPIRED: states.FAILURE,
    State.DISCARDED: states.FAILURE,
    State.HELD: states.STARTED,
}


class LedgerBackend(BaseBackend):  # type: ignore[misc]
    """See the module."""

    supports_autoexpire = True
    supports_native_join = False

    def store_result(self, task_id: str, result: Any, state: str, *args: Any, **kwargs: Any) -> Any:
        """Store nothing: the ledger has decided already."""
        return result

    def _store_result(self, task_id: str, result: Any, state: str, **kwargs: Any) -> Any:
        return result

    def _forget(self, task_id: str) -> None:
        """History is not Celery's to forget."""

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        """A ledger that is away will be back."""
        return isinstance(exc, LedgerUnavailable)

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        """Return Celery's meta of a job; PENDING for ids that are not known, as Celery has it."""
        unknown = {"status": states.PENDING, "result": None, "traceback": None, "children": []}
        try:
            job = find_job(ledger("backend", connections=4), UUID(str(task_id)))
        except ValueError:
            return unknown
        if job is None:
            return unknown
        status = CELERY_STATES.get(job.state, states.RETRY if job.run_no else states.PENDING)
        meta: dict[str, Any] = {
            "task_id": str(job.id),
            "status": status,
            "result": job.result,
            "traceback": None,
            "children": [],
            "date_done": job.completed_at,
            "name": job.kind,
            "retries": max(0, job.attempt - 1),
        }
        if status in (states.FAILURE, states.RETRY, states.REVOKED):
            meta["result"] = _as_exception(status, job.error or {})
            meta["traceback"] = (job.error or {}).get("detail", {}).get("traceback")
        return meta


def _as_exception(status: str, error: Any) -> Exception:
    message, code = str(error.get("message", "")), str(error.get("code", "failed"))
    if status == states.REVOKED:
        return JobCancelled(message)
    return Retryable(message, code=code) if status == states.RETRY else Permanent(message, code=code)
