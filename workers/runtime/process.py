"""Resources of this worker process: its id, and one ledger that is opened after the fork."""

from __future__ import annotations

import os
import threading
from uuid import UUID

from jobplatform.config import settings
from jobplatform.ledger.hints import HintSender
from jobplatform.ledger.ids import new_id
from jobplatform.ledger.session import WORKER, Ledger, Limits, open_ledger

#: the parent blocks Celery's event loop during a statement: it gives up early and retries at the next heartbeat
PARENT = Limits(statement_ms=5_000, lock_ms=2_000, idle_in_transaction_ms=5_000)

#: a worker is a uuid per process, not its node name; children inherit their parent's
WORKER_ID: UUID = new_id()

_lock = threading.Lock()


def _new_lock() -> None:
    """The liveness thread may hold the lock while a child is forked."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_new_lock)
_ledgers: dict[tuple[int, str], Ledger] = {}
_hints: dict[int, HintSender] = {}


def ledger(role: str = "worker", connections: int = 16) -> Ledger:
    """Return this process's ledger: one pool, shared by all its threads. A fork gets its own at first use."""
    key = (os.getpid(), role)
    result = _ledgers.get(key)
    if result is None:
        with _lock:
            result = _ledgers.get(key)
            if result is None:
                result = _ledgers[key] = open_ledger(
                    settings().database_url.get_secret_value(),
                    name=role,
                    limits=PARENT if role == "worker parent" else WORKER,
                    connections=connections,
                )
    return result


def parent_ledger() -> Ledger:
    """Return the ledger for the parent's heartbeats and reports, separate from the jobs' connection pool."""
    return ledger("worker parent", connections=2)


def hints() -> HintSender:
    """Return this process's sender of hints on jobs that a settled run made available."""
    return _hints.setdefault(os.getpid(), HintSender(ledger().statements))
