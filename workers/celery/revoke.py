"""`app.control.revoke` and `AsyncResult.revoke`: cancellation in the ledger, which works with all workers down."""

from __future__ import annotations

import signal as signals
from collections.abc import Callable, Iterable
from typing import Any
from uuid import UUID

from celery import Celery
from celery.app.control import TERM_SIGNAME

from jobplatform.config import settings
from jobplatform.errors import ConfigurationError, JobNotFound, NotCancellable
from jobplatform.usecases.cancel_job import cancel_job
from jobplatform.usecases.read_calls import find_replacement
from workers.celery.ids import job_id_of
from workers.celery.tenants import caller_tenant
from workers.runtime.process import ledger


def revoke_tasks(
    app: Celery,
    by_celery: Callable[..., Any],
    task_ids: str | Iterable[str],
    terminate: bool,
    signal: str | int | None,
    reply: bool,
) -> Any:
    """Cancel tasks that have not begun, and with `terminate` running ones too. Ended tasks do not change.

    `signal` is sent to the process of a run at once; on threads the run is cancelled as by the API.

    Tasks that the ledger does not know are revoked on the old broker, if there is one. With `reply` the ledger answers
    as a worker does, under its own name. Raises `LedgerUnavailable`.
    """
    tenant_id, name = caller_tenant(), _signal_name(signal) if terminate else None
    cancelled, unknown = [], []
    for task_id in [task_ids] if isinstance(task_ids, str) else list(task_ids):
        try:
            _cancel(tenant_id, job_id_of(task_id, tenant_id), name)
            cancelled.append(task_id)
        except JobNotFound:
            unknown.append(task_id)
        except NotCancellable:
            continue
    if unknown and (url := settings().celery_old_broker_url) is not None:
        with app.connection_for_write(url.get_secret_value()) as connection:
            by_celery(unknown, connection=connection)
    return [{"ledger": {"ok": f"tasks {', '.join(cancelled)} flagged as revoked"}}] if reply else None


def _signal_name(value: str | int | None) -> str:
    """Return the name of a signal. Raises `ConfigurationError` for an unknown one."""
    try:
        if isinstance(value, int):
            return signals.Signals(value).name
        name = (value or TERM_SIGNAME).upper()
        return signals.Signals[name if name.startswith("SIG") else f"SIG{name}"].name
    except (KeyError, ValueError, AttributeError):
        raise ConfigurationError(f"revoke: expected the name or number of a signal, got {value!r}") from None


def _cancel(tenant_id: UUID, job_id: UUID, signal: str | None) -> None:
    """Cancel a job, or the jobs that have replaced it."""
    try:
        cancel_job(ledger(), tenant_id, job_id, "revoked", "celery", running=signal is not None, signal=signal)
    except NotCancellable:
        if (following := find_replacement(ledger(), job_id)) is None:
            raise
        _cancel(tenant_id, following, signal)
