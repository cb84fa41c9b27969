"""The audit: compares the ledger's records with each other, and the ledger with RabbitMQ (I8).

Compares counters with counted rows, each job's row with its history and its runs, and dispatched jobs with the
messages in RabbitMQ. Bounded: reads slices of jobs, newest first, until a start time or a time budget is reached.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from jobplatform.broker.declare import count_ready, epoch_continues
from jobplatform.broker.topology import DEAD_RECORDS
from jobplatform.errors import LedgerBusy
from jobplatform.ledger import auditing, dispatching
from jobplatform.ledger.ids import lowest_id_at
from jobplatform.ledger.session import Ledger

#: target duration of a slice (s); its size adapts
SLICE_SECONDS = 2.0
FIRST_SLICE, SMALLEST_SLICE = timedelta(minutes=10), timedelta(seconds=1)
#: unrecorded dead messages above this number are a finding
UNRECORDED = 1000


@dataclass(frozen=True)
class Finding:
    """One contradiction. `code` is stable; `examples` are ids of jobs."""

    code: str
    where: str
    count: int
    detail: str
    examples: list[str] = field(default_factory=list)


@dataclass
class Report:
    """Result of an audit. `checked_since`: how far back it got; `complete`: whether it covered the requested time."""

    findings: list[Finding] = field(default_factory=list)
    checked_jobs: int = 0
    checked_since: datetime | None = None
    complete: bool = True

    @property
    def is_clean(self) -> bool:
        """Return whether there are no findings."""
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
    on_progress: Callable[[Report], None] = lambda _: None,
) -> Report:
    """Check the jobs submitted in the last `hours`, newest first, for at most about `budget_seconds`.

    `patience_seconds`: jobs overdue by more than this are reported. Raises `LedgerUnavailable`.
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
    # ids carry the clocks of the API hosts: the first slice starts a day in the future
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
        on_progress(report)
    report.findings += findings.values()
    return report


def audit_broker(
    ledger: Ledger,
    connection: Any,
    queues: Iterable[str],
    *,
    lease_seconds: float,
    settle_seconds: float,
    queue_type: str = "auto",
) -> list[Finding]:
    """Compare dispatched jobs with RabbitMQ: the sentinel, each queue, and the number of messages.

    A missing message is detected unless a stale one balances it: counted twice, `settle_seconds` apart.
    Raises `BrokerUnavailable` or a `LedgerUnavailable`.
    """
    findings = []
    with ledger.statement() as statement:
        epoch = dispatching.current_epoch(statement)
    if epoch is None or not epoch_continues(connection, epoch, queue_type):
        detail = "the sentinel of the current epoch is gone: was RabbitMQ restarted or wiped?"
        findings.append(Finding("no_epoch", "RabbitMQ", 1, detail))
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
        # messages that a worker had before the count are in its heartbeat by now, or run; later ones were counted
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
