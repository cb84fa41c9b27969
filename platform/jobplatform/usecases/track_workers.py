"""What a worker's parent process does to the ledger: registration, beats, and reports about its children."""

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
    #: to be sent to its process at once, by name; None: it is killed after the grace
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
    """Tell that this process lives; returns which of its runs to cancel.

    `leases`: the leases it handed to its pool; `waiting`: the jobs whose message it has and whose run has not begun;
    `seen_markers`: those it took from their queues since the last beat; `draining`: it was asked to end.
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
    """Return which of these queues have had a marker unread for so long, the last one that was sent."""
    with ledger.statement() as connection:
        return markers.unread(connection, queues, seconds)


def find_running(ledger: Ledger, worker_id: UUID, leases: Sequence[UUID]) -> set[UUID]:
    """Return which of these leases belong to runs of this worker."""
    with ledger.statement() as connection:
        return runs.running_leases(connection, worker_id, leases)


def deregister(ledger: Ledger, card: WorkerInfo) -> None:
    """Tell that this process ends: what it still runs is lost at once."""
    with ledger.transaction() as connection:
        workers.stop_worker(connection, card.id)
