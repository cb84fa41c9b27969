"""One round for one queue: lock, pick and mark → publish → await confirms → commit. On any doubt roll back (I3)."""

from __future__ import annotations

from dataclasses import dataclass

from jobplatform.broker.envelope import Envelope
from jobplatform.broker.publisher import Publisher
from jobplatform.dispatch.marks import LowWaterMarks
from jobplatform.ledger import dispatching
from jobplatform.ledger.session import Ledger


@dataclass(frozen=True)
class RoundReport:
    """What a round did."""

    sent: int = 0
    unroutable: int = 0
    refused: int = 0
    #: jobs that were out before it
    active: int = 0
    #: the highest priority without a free place; -1: every priority has one
    closed: int = -1
    #: jobs wait that a free place (`full`) or another round would take
    waiting: bool = False
    skipped: str = ""

    @property
    def full(self) -> bool:
        """Return whether the window, not the ledger, was the limit."""
        return self.waiting and self.closed >= 0


def run_round(
    ledger: Ledger, publisher: Publisher, marks: LowWaterMarks, queue: str, window: int, batch: int
) -> RoundReport:
    """Dispatch as many of the queue's jobs as fit its window, at most `batch`.

    The transaction is open while the broker confirms (2 s at most, and the server bounds it): the rows stay locked, so
    that a claim waits until their state says `dispatched`.

    Raises `BrokerUnavailable`, a `LedgerUnavailable` or `OutcomeUnknown`; nothing may be taken as marked then.
    """
    known = marks.current()
    with dispatching.dispatch_jobs(ledger, queue, window, batch, known, marks.active(queue)) as (found, take_back):
        if not found.jobs:
            if found.verdict not in ("empty", "full"):
                return RoundReport(skipped=found.verdict)
            marks.note_oldest(queue, found.oldest)
            return RoundReport(active=found.active, closed=found.closed, waiting=found.waiting)
        receipt = publisher.publish(
            [Envelope(job.id, job.dispatch_no, job.kind, queue, job.priority) for job in found.jobs]
        )
        unsent = {envelope.job_id for envelope in (*receipt.unroutable, *receipt.refused)}
        if unsent:
            take_back([job for job in found.jobs if job.id in unsent])
    marks.note_oldest(queue, found.oldest)
    marks.advance(queue, [job for job in found.jobs if job.id not in unsent])
    return RoundReport(
        sent=len(receipt.confirmed),
        unroutable=len(receipt.unroutable),
        refused=len(receipt.refused),
        active=found.active,
        closed=found.closed,
        waiting=found.waiting,
    )
