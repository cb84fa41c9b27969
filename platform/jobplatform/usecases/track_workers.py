"""Ledger operations of a worker's parent process: registration, heartbeats, and reports about its children."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from uuid import UUID

from jobplatform.ledger import markers, runs, workers
from jobplatform.ledger.session import Ledger


@dataclass(frozen=True)
class WorkerInfo:
    """A worker process as the ledger knows it. `id` is one per process, not its node name."""

    id: UUID
    node: str
    host: str
    pid: int
    pool: str
    slots: int
    queues: list[str]
    kinds: list[str]


@dataclass(frozen=True)
class CancelRequest:
    """A run of this worker whose job was cancelled `seconds` ago."""

    job_id: UUID
    lease_id: UUID
    seconds: float
    #: name of the signal to send to its process at once; None: it is killed after the grace period
    signal: str | None = None


def register(ledger: Ledger, card: WorkerInfo) -> None:
    """Write the worker's row."""
    with ledger.transaction() as connection:
        workers.register_worker(connection, asdict(card))


def beat(
    ledger: Ledger,
    card: WorkerInfo,
    leases: Sequence[UUID],
    waiting: Sequence[UUID] = (),
    seen_markers: Sequence[UUID] = (),
    draining: bool = False,
) -> list[CancelRequest]:
    """Write this process's heartbeat; returns its runs that are to be cancelled.

    `leases`: the leases that it handed to its pool. `waiting`: the jobs whose message it has and whose run has not
    started. `seen_markers`: the markers that it received since the last heartbeat. `draining`: it was asked to shut
    down.
    """
    with ledger.statement() as connection:
        if seen_markers:
            markers.note_seen(connection, seen_markers)
        known, requests = workers.record_heartbeat(connection, card.id, leases, waiting, draining)
    if not known:
        register(ledger, card)
    return [
        CancelRequest(row.job_id, row.lease_id, row.cancel_requested_seconds, row.cancel_signal) for row in requests
    ]


def find_unread_markers(ledger: Ledger, queues: Sequence[str], seconds: float) -> list[str]:
    """Return which of these queues have had their last marker unread for so long."""
    with ledger.statement() as connection:
        return markers.unread(connection, queues, seconds)


def find_running(ledger: Ledger, worker_id: UUID, leases: Sequence[UUID]) -> set[UUID]:
    """Return which of these leases belong to runs of this worker."""
    with ledger.statement() as connection:
        return runs.running_leases(connection, worker_id, leases)


def deregister(ledger: Ledger, card: WorkerInfo) -> None:
    """Deregister this process: runs that it still has are lost at once."""
    with ledger.transaction() as connection:
        workers.stop_worker(connection, card.id)
