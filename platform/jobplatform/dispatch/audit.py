"""The audit: what the ledger's records say of each other, and what RabbitMQ says of the ledger (I8).

Counters written by submit and settle against counted rows, each job's row against its history and its runs, what is
dispatched against the messages that are there. Bounded: slices of jobs, newest first, until a time is reached or used.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from jobplatform.broker.declare import count_ready, epoch_queue
from jobplatform.broker.topology import DEAD_RECORDS
from jobplatform.errors import LedgerBusy
from jobplatform.ledger import auditing, dispatching
from jobplatform.ledger.ids import lowest_id_at
from jobplatform.ledger.session import Ledger

#: a slice is made smaller or larger so that it takes about this long
SLICE_SECONDS = 2.0
FIRST_SLICE, SMALLEST_SLICE = timedelta(minutes=10), timedelta(seconds=1)
#: dead messages that nobody has recorded yet: more are a sign
UNRECORDED = 1000


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be. `code` is stable; `examples` are ids of jobs."""

    code: str
    where: str
    count: int
    detail: str
    examples: list[str] = field(default_factory=list)


@dataclass
class Report:
    """What an audit found; `checked_since` says how far back it came, `complete` whether that was as far as asked."""

    findings: list[Finding] = field(default_factory=list)
    checked_jobs: int = 0
    checked_since: datetime | None = None
    complete: bool = True

    @property
    def is_clean(self) -> bool:
        """Return whether nothing was found."""
        return not self.findings

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"clean": self.is_clean, **asdict(self)}


def audit_ledger(
    ledger: Ledger,
    *,
    hours: float,
    budget_seconds: float,
    patience_seconds: float,
    tell: Callable[[Report], None] = lambda _: None,
) -> Report:
    """Check the jobs submitted in the last `hours`, newest first, for at most about `budget_seconds`.

    `patience_seconds`: what is overdue for so long is found. Raises a `LedgerUnavailable`.
    """
    report, deadline = Report(), time.monotonic() + budget_seconds
    with ledger.statement() as connection:
        for row in auditing.unconserved(connection):
            detail = f"{row.accepted:,} accepted, {row.finished:,} finished, {row.live:,} live"
            off = abs(row.accepted - row.finished - row.live)
            report.findings.append(Finding("not_conserved", f"queue {row.queue}, tenant {row.tenant_id}", off, detail))
        for row in (*auditing.long_standing(connection, patience_seconds), *auditing.broken_workflows(connection)):
            if row.jobs:
                report.findings.append(Finding(row.code, "jobs", row.jobs, row.detail, _texts(row.examples)))
    findings: dict[str, Finding] = {}
    now = datetime.now(UTC)
    # ids are made by the clocks of the API's hosts: the first slice reaches a day ahead
    beyond, oldest, width = now + timedelta(days=1), now - timedelta(hours=hours), FIRST_SLICE
    while beyond > oldest:
        if time.monotonic() > deadline:
            report.complete = False
            break
        lowest, began = max(oldest, min(beyond, now) - width), time.monotonic()
        try:
            with ledger.statement() as connection:
                rows = auditing.check_slice(connection, lowest_id_at(lowest), lowest_id_at(beyond))
        except LedgerBusy:  # too many jobs for one statement
            if width <= SMALLEST_SLICE:
                raise
            width /= 8
            continue
        for row in rows:
            report.checked_jobs += row.jobs
            if row.code is not None:
                findings[row.code] = _add(findings.get(row.code), row)
        beyond = report.checked_since = lowest
        took = max(time.monotonic() - began, 0.001)
        width = max(SMALLEST_SLICE, width * min(4.0, max(0.25, SLICE_SECONDS / took)))
        tell(report)
    report.findings += findings.values()
    return report


def audit_broker(
    ledger: Ledger, connection: Any, queues: Iterable[str], *, lease_seconds: float, settle_seconds: float
) -> list[Finding]:
    """Hold what is dispatched against RabbitMQ: the sentinel, each queue, and how many messages there are.

    A message that is missing is found where no stale one makes up for it: looked for twice, `settle_seconds` apart.
    Raises `BrokerUnavailable` or a `LedgerUnavailable`.
    """
    findings = []
    with ledger.statement() as statement:
        epoch = dispatching.current_epoch(statement)
    if epoch is None or count_ready(connection, epoch_queue(epoch)) is None:
        findings.append(Finding("no_epoch", "RabbitMQ", 1, "the sentinel of the current epoch is gone: was it wiped?"))
    unrecorded = count_ready(connection, DEAD_RECORDS)
    if unrecorded is None:
        findings.append(Finding("queue_missing", DEAD_RECORDS, 1, "run `jobplatform broker apply`"))
    elif unrecorded > UNRECORDED:
        findings.append(Finding("not_recorded", DEAD_RECORDS, unrecorded, "dead messages that no dispatcher records"))
    suspects: dict[str, tuple[dict[Any, int], int]] = {}
    for queue in sorted(queues):
        with ledger.statement() as statement:
            out = auditing.dispatched_of(statement, queue)
        ready = count_ready(connection, queue)
        if ready is None:
            findings.append(Finding("queue_missing", queue, 1, "run `jobplatform broker apply`"))
        elif len(out) > ready:
            suspects[queue] = (out, ready)
    if suspects:
        time.sleep(settle_seconds)
    for queue, (before, ready) in suspects.items():
        # what a worker had before the count is named in a beat by now, or runs; what it got later was in the count
        with ledger.statement() as statement:
            out = auditing.dispatched_of(statement, queue)
            waiting = auditing.waiting_in_workers(statement, lease_seconds)
        still = [job_id for job_id, number in before.items() if out.get(job_id) == number and job_id not in waiting]
        if (lost := len(still) - ready) > 0:
            detail = f"of {len(before)} dispatched jobs so many have no message in RabbitMQ and none in a worker"
            findings.append(Finding("message_lost", f"queue {queue}", lost, detail, _texts(still)))
    return findings


def _add(before: Finding | None, row: Any) -> Finding:
    examples = [*(before.examples if before else []), *_texts(row.examples)][: auditing.EXAMPLES]
    return Finding(row.code, "jobs", row.jobs + (before.count if before else 0), row.detail, examples)


def _texts(ids: Iterable[Any] | None) -> list[str]:
    return [str(item) for item in ids or ()][: auditing.EXAMPLES]
