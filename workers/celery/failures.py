"""Store a task's exception in the ledger and restore it: `AsyncResult.get()` raises what the task has raised."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery import states
from celery.exceptions import (
    ChordError,
    NotRegistered,
    SoftTimeLimitExceeded,
    TaskRevokedError,
    TimeLimitExceeded,
    WorkerLostError,
)
from kombu.exceptions import EncodeError

from jobplatform.errors import Permanent, Retryable
from workers.celery.values import from_json, to_json

#: error code of the platform → Celery's exception
_BY_CODE: dict[str, type[BaseException]] = {
    "expired": TaskRevokedError,
    "cancelled": TaskRevokedError,
    "crashed_limit": WorkerLostError,
    "lost_limit": WorkerLostError,
    "unknown_kind": NotRegistered,
}


def describe(exc: BaseException) -> dict[str, Any]:
    """Return an exception as Celery stores it: type, module, and arguments as JSON."""
    arguments = []
    for arg in exc.args:
        try:
            arguments.append(to_json(arg))
        except EncodeError:
            arguments.append(repr(arg))
    kind = type(exc)
    return {
        "type": kind.__name__,
        "exc_type": kind.__qualname__,
        "exc_module": kind.__module__,
        "exc_message": arguments,
    }


def rebuild(backend: Any, error: Mapping[str, Any], state: str, *, of_chord: bool = False) -> BaseException:
    """Return the exception of a job's error."""
    code, message = str(error.get("code", "failed")), str(error.get("message", ""))
    last, detail = error.get("last"), error.get("detail") or {}
    if code in ("step_failed", "workflow_failed") and isinstance(last, Mapping):
        cause = rebuild(backend, last, states.FAILURE)
        return ChordError(f"Dependency {error.get('job_id')} raised {cause!r}") if of_chord else cause
    if "exc_module" in detail:
        raised = {"exc_type": detail["exc_type"], "exc_module": detail["exc_module"]}
        result: BaseException = backend.exception_to_python({**raised, "exc_message": from_json(detail["exc_message"])})
        return result
    if code == "timed_out":
        over: BaseException = SoftTimeLimitExceeded() if "soft" in message else TimeLimitExceeded(message)
        return over
    if code in _BY_CODE:
        known: BaseException = _BY_CODE[code](message)
        return known
    return Retryable(message, code=code) if state == states.RETRY else Permanent(message, code=code)


def traceback_of(error: Mapping[str, Any]) -> str | None:
    """Return the traceback of an error, or of its cause."""
    result = (error.get("detail") or {}).get("traceback")
    if result is None and isinstance(error.get("last"), Mapping):
        return traceback_of(error["last"])
    return str(result) if result is not None else None
