"""Celery's result backend on the ledger: `AsyncResult(job_id)` and Flower show the ledger's state.

It stores no results: a run is settled before Celery is notified. One connection pool per process, shared by all threads
(Celery makes a backend per thread; its own database backend opens an engine for each).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from celery import states
from celery.backends.base import BaseBackend
from celery.exceptions import TimeoutError as CeleryTimeout
from celery.result import GroupResult, result_from_tuple

from jobplatform.config import settings
from jobplatform.domain.states import State
from jobplatform.domain.texts import without_nulls
from jobplatform.errors import LedgerUnavailable
from jobplatform.observe.logs import get_log
from jobplatform.usecases.read_calls import CallView, find_call, find_members
from workers.celery.collect import active
from workers.celery.failures import rebuild, traceback_of
from workers.celery.ids import job_id_of
from workers.celery.run import current_run
from workers.celery.tenants import reader_tenant
from workers.celery.values import from_json, to_json
from workers.runtime.process import ledger

log = get_log(__name__)

#: state of the ledger → state of Celery
CELERY_STATES = {
    State.SUCCEEDED: states.SUCCESS,
    State.CANCELLED: states.REVOKED,
    State.DEAD: states.FAILURE,
    State.EXPIRED: states.REVOKED,
    State.DISCARDED: states.FAILURE,
}
#: codes of jobs cancelled because another step failed: a FAILURE in Celery
FAILED_WITH = frozenset(("step_failed", "workflow_failed"))
#: pauses between two polls of a result (s): short at first
FIRST_LOOK_SECONDS, LONGEST_LOOK_SECONDS = 0.005, 0.25


class LedgerBackend(BaseBackend):  # type: ignore[misc]
    """See the module."""

    supports_autoexpire = True
    supports_native_join = False

    def store_result(
        self, task_id: str, result: Any, state: str, traceback: Any = None, request: Any = None, **kwargs: Any
    ) -> Any:
        """Store a state that a running body sets (`update_state`) as the job's progress.

        Raises `LeaseLost` when the run no longer counts, `JobCancelled` when the job was cancelled.
        """
        run = current_run()
        if state == states.RETRY or (state == states.STARTED and isinstance(result, dict) and "pid" in result):
            return result  # set by Celery's tracer itself
        if run is None or str(task_id) != run.task_id:
            why = "only a running task sets its state"
            log.warning("state_not_kept", state=state, task_id=str(task_id), reason=why)
            return result
        run.state, run.meta = state, result
        if state not in states.READY_STATES:
            meta = without_nulls(to_json(result))
            values = meta if isinstance(meta, dict) else {}
            numbers = {key: values[key] for key in ("current", "total") if isinstance(values.get(key), int | float)}
            run.context.write_progress(
                {"current": 0, "total": None, "message": state, **numbers, "state": state, "meta": meta}
            )
        return result

    def mark_as_done(
        self, task_id: str, result: Any, request: Any = None, store_result: bool = True, state: str = states.SUCCESS
    ) -> None:
        """Store nothing, as the run is settled. Raises kombu's `EncodeError` for a result that JSON can't hold."""
        if store_result:
            to_json(self.prepare_value(result))

    def mark_as_failure(self, task_id: str, exc: Any, *args: Any, request: Any = None, **kwargs: Any) -> None:
        """Store nothing, as the run is settled; Celery calls the errbacks of an eager task."""
        if request is not None and request.is_eager and current_run() is None:
            super().mark_as_failure(task_id, exc, *args, request=request, **kwargs)

    def _store_result(self, task_id: str, result: Any, state: str, **kwargs: Any) -> Any:
        return result

    def _forget(self, task_id: str) -> None:
        """Do nothing: the ledger keeps history by its own retention."""

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        """Retry while the ledger is not reachable."""
        return isinstance(exc, LedgerUnavailable)

    def apply_chord(self, header_result_args: Any, body: Any, **kwargs: Any) -> None:
        """Record a chord: its body is a step that waits for the header's gate."""
        group_id, results = header_result_args
        if (collector := active()) is not None:
            collector.note_chord(group_id, results, body)
        else:
            from workers.celery.send import note_pending_chord

            note_pending_chord(group_id, results, body)

    def add_to_chord(self, chord_id: str, result: Any) -> None:
        """Not supported: a chord's header is written when the chord is applied."""
        raise NotImplementedError(
            "add_to_chord: a chord of the ledger takes no more; let a task replace itself instead"
        )

    def ensure_chords_allowed(self) -> None:
        """Chords are allowed."""

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        """Return Celery's meta of a job; PENDING for unknown ids, as in Celery."""
        call = self._find(task_id)
        if call is None:
            old = _old_backend(self.app)
            return old.get_task_meta(task_id) if old is not None else _unknown(task_id)
        return _meta_of(self, task_id, call)

    def _find(self, task_id: str) -> CallView | None:
        job_id = _job_id(task_id)
        return None if job_id is None else find_call(ledger("backend", connections=4), job_id)

    def wait_for(
        self,
        task_id: str,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_interval: Any = None,
    ) -> dict[str, Any]:
        """Wait for a result, polling often at first. Raises Celery's `TimeoutError`."""
        self._ensure_not_eager()
        end = None if timeout is None else time.monotonic() + timeout
        wait = FIRST_LOOK_SECONDS
        while True:
            meta: dict[str, Any] = self.get_task_meta(task_id)
            if meta["status"] == states.SUCCESS:
                return meta
            if on_interval is not None:  # raises a parent's failure, which comes before the task's own
                on_interval()
            if meta["status"] in states.READY_STATES:
                return meta
            if end is not None and time.monotonic() + wait > end:
                time.sleep(max(0.0, end - time.monotonic()))
                if (meta := self.get_task_meta(task_id))["status"] in states.READY_STATES:
                    return meta
                raise CeleryTimeout("The operation timed out.")
            time.sleep(wait)
            wait = min(wait * 1.5, interval, LONGEST_LOOK_SECONDS)

    def _save_group(self, group_id: str, result: Any) -> Any:
        """Accept applied groups, which the ledger has; refuse groups composed by hand."""
        if self._restore_group(group_id) is None:
            raise NotImplementedError(
                f"group {group_id} was not applied on the ledger: only such groups can be restored"
            )
        return result

    def _restore_group(self, group_id: str) -> dict[str, Any] | None:
        gate_id = _job_id(group_id)
        members = [] if gate_id is None else find_members(ledger("backend", connections=4), gate_id)
        if not members:
            return None
        return {
            "result": GroupResult(group_id, [self.app.AsyncResult(str(member)) for member in members], app=self.app)
        }

    def _delete_group(self, group_id: str) -> None:
        """Do nothing: the ledger keeps history by its own retention."""


def _job_id(task_id: str) -> UUID | None:
    """Return the id of a task's or group's row; None for a custom id in a process without a tenant."""
    tenant_id = reader_tenant()
    job_id = job_id_of(str(task_id), tenant_id or UUID(int=0))
    return job_id if tenant_id is not None or str(job_id) == str(task_id) else None


def _unknown(task_id: str) -> dict[str, Any]:
    return {"task_id": task_id, "status": states.PENDING, "result": None, "traceback": None, "children": []}


def _meta_of(backend: LedgerBackend, task_id: str, call: CallView) -> dict[str, Any]:
    job, error = call.job, call.job.error or {}
    is_running = job.state in (State.RUNNING, State.HELD)
    has_ended_runs = job.run_no > is_running  # without `track_started` a current run changes nothing
    status = CELERY_STATES.get(job.state, states.RETRY if has_ended_runs else states.PENDING)
    if is_running and _tracks_started(backend.app, job.kind):
        status = states.STARTED
    if status == states.REVOKED and error.get("code") in FAILED_WITH:
        status = states.FAILURE
    progress = job.progress or {}
    headers = call.headers
    result = None if headers.get("ignore_result") else job.result
    if is_running and isinstance(progress, Mapping) and "state" in progress:
        status, result = progress["state"], progress.get("meta")
    meta: dict[str, Any] = {
        "task_id": headers.get("id") or task_id,
        "status": status,
        "result": from_json(result),
        "traceback": None,
        "children": [result_from_tuple(item, app=backend.app) for item in call.children],
        "date_done": job.completed_at,
        "name": job.kind,
        "args": from_json(call.args) if call.args is not None else None,
        "kwargs": from_json(call.kwargs) if call.kwargs is not None else None,
        "queue": job.queue,
        "retries": max(0, job.attempt - 1),
        "parent_id": headers.get("parent_id"),
        "group_id": headers.get("group"),
        "root_id": headers.get("root_id"),
    }
    if stamps := headers.get("stamps"):
        meta |= {"stamped_headers": headers.get("stamped_headers"), **stamps}
    if status in (states.FAILURE, states.RETRY, states.REVOKED):
        meta["result"] = rebuild(
            backend, error, status, of_chord=bool(headers.get("of_chord")) and call.chord_has_begun
        )
        meta["traceback"] = traceback_of(error)
    return meta


def _tracks_started(app: Any, name: str) -> bool:
    """Return whether the start of a task is reported (`track_started`, `task_track_started`); default: no."""
    task = app._tasks.get(name)
    own = None if task is None else task.track_started
    return bool(app.conf.task_track_started if own is None else own)


_old: dict[str, Any] = {}


def _old_backend(app: Any) -> Any:
    """Return the previous result backend, if configured."""
    url = settings().celery_old_result_backend
    if url is None:
        return None
    address = url.get_secret_value()
    if address not in _old:
        from celery.app import backends

        backend_class, url_part = backends.by_url(address, app.loader)
        _old[address] = backend_class(app=app, url=url_part)
    return _old[address]
