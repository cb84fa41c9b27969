"""One round for one queue: lock → pick → publish → mark → commit. On any doubt roll back (I3 makes that safe)."""

from __future__ import annotations

from dataclasses import dataclass

from jobplatform.broker.envelope import Envelope
from jobplatform.broker.publisher import Publisher
from jobplatform.dispatch.marks import LowWaterMarks
from jobplatform.dispatch.window import choose, free_places
from jobplatform.ledger import dispatching
from jobplatform.ledger.session import Ledger


@dataclass(frozen=True)
class RoundReport:
    """What a round did. `full` says that the window, not the ledger, was the limit."""

    sent: int = 0
    unroutable: int = 0
    refused: int = 0
    full: bool = False
    skipped: str = ""


def run_round(
    ledger: Ledger, publisher: Publisher, marks: LowWaterMarks, queue: str, window: int, batch: int
) -> RoundReport:
    """Dispatch as many of the queue's jobs as fit its window, at most `batch`.

    The transaction is open while the broker confirms (2 s at most, and the server bounds it): the rows stay locked, so
    that a claim waits until their state says `dispatched`.

    Raises `BrokerUnavailable` or a `LedgerUnavailable`; nothing is marked then.
    """
    with ledger.transaction() as connection:
        if not dispatching.try_lock_queue(connection, queue):
            return RoundReport(skipped="another dispatcher has the queue")
        look = dispatching.look_at_queue(connection, queue)
        if look.paused:
            return RoundReport(skipped="paused")
        if look.epoch is None:
            return RoundReport(skipped="no epoch yet")
        free = free_places(window, look.active, batch)
        if not any(free.values()):
            return RoundReport(full=True)
        picked = dispatching.pick_jobs(connection, queue, free, marks.current())
        chosen = choose(picked, free, batch)
        if not chosen:
            return RoundReport(full=bool(picked))
        receipt = publisher.publish(
            [Envelope(job.id, job.dispatch_no + 1, job.kind, queue, job.priority) for job in chosen]
        )
        sent = {envelope.job_id for envelope in receipt.confirmed}
        if sent:
            # the epoch that was current before publishing: the guard may have made a new one meanwhile
            dispatching.mark_dispatched(connection, list(sent), look.epoch)
    marks.advance(queue, [job for job in chosen if job.id in sent])
    return RoundReport(
        sent=len(sent),
        unroutable=len(receipt.unroutable),
        refused=len(receipt.refused),
        full=len(chosen) < batch and len(chosen) >= free[chosen[-1].priority],
    )
