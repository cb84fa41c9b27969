"""The platform's own jobs (clean-up and queue health), and their schedules."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection

from jobplatform.config import Settings
from jobplatform.domain.kinds import KindRegistry, runs_in_workers
from jobplatform.domain.maintenance import SCHEDULES, TENANT, CleanUp, QueueHealth, maintenance_kind
from jobplatform.errors import LedgerBusy
from jobplatform.ledger import audit_log, keys, queues, retention, schedules, webhooks, workflows
from jobplatform.ledger.session import Ledger
from jobplatform.observe.logs import get_log
from jobplatform.usecases.manage_schedules import put_schedule

log = get_log(__name__)

BATCH = 1000
#: smaller, as workflows have many steps
FEW = 50
#: a job that waits longer than this in a queue without workers is reported (s)
WAITS_LONG = 300.0


def declare_schedules(ledger: Ledger, settings: Settings) -> None:
    """Create missing schedules of the platform. Schedules that an operator has changed or paused are left unchanged."""
    queue = settings.own_queue
    with ledger.transaction() as connection:
        tenant_id = keys.find_tenant(connection, TENANT) or keys.create_tenant(connection, TENANT)
    kinds = KindRegistry()
    add_kinds(kinds, settings)
    for definition in SCHEDULES:
        with ledger.statement() as connection:
            before = schedules.get_schedule(connection, tenant_id, definition.name)
        if before is None:
            put_schedule(ledger, kinds, tenant_id, definition, by="jobplatform", origin="platform")
        elif before.queue != queue:
            with ledger.statement() as connection:
                schedules.move_to_queue(connection, before.id, queue)


def add_kinds(kinds: KindRegistry, settings: Settings) -> None:
    """Register the platform's own kinds in processes that create their schedules and do not run them."""
    for definition in SCHEDULES:
        kinds.add(maintenance_kind(definition.kind, settings.own_queue, runs_in_workers))


def clean_up(ledger: Ledger, settings: Settings, on_progress: Callable[[str], None], folders: int) -> CleanUp:
    """Delete data past its retention period, one batch at a time. `folders`: leftover run folders that the caller
    deleted."""
    partitions = []
    if settings.history_days:
        with ledger.statement() as connection:
            result = retention.old_partitions(connection, settings.history_days)
        for name in result:
            on_progress(f"dropping {name}")
            try:
                with ledger.transaction() as connection:
                    retention.drop_partition(connection, name)
            except LedgerBusy:  # a dump reads it, and all writers would queue behind this lock: retry next night
                log.warning("partition_is_read", partition=name)
                continue
            partitions.append(name)
    on_progress("files")
    uploads = _all(ledger, lambda c: retention.forget_files(c, settings.upload_days, uploads=True))
    outputs = workflows_gone = 0
    if settings.history_days:
        outputs = _all(ledger, lambda c: retention.forget_files(c, settings.history_days, uploads=False))
        on_progress("workflows")
        workflows_gone = _all(ledger, lambda c: workflows.forget_workflows(c, settings.history_days, FEW), FEW)
    fires = _all(ledger, lambda c: schedules.forget_fires(c, settings.history_days or 90, BATCH))
    _all(ledger, lambda c: webhooks.forget_messages(c, settings.history_days or 90, BATCH))
    idempotency_keys = _all(ledger, keys.forget_expired_keys)
    _all(ledger, lambda c: retention.delete_free_locks(c, BATCH))
    if settings.audit_log_days:
        _all(ledger, lambda c: audit_log.forget_actions(c, settings.audit_log_days, BATCH))
    return CleanUp(
        partitions=partitions,
        uploads=uploads,
        artifacts=outputs,
        workflows=workflows_gone,
        fires=fires,
        idempotency_keys=idempotency_keys,
        folders=folders,
    )


def _all(ledger: Ledger, forget: Callable[[Connection], int], batch: int = BATCH) -> int:
    """Delete batch after batch, each in a transaction; returns how many rows."""
    gone = 0
    while True:
        with ledger.transaction() as connection:
            some = forget(connection)
        gone += some
        if some < batch:
            return gone


def check_queue_health(ledger: Ledger, settings: Settings) -> QueueHealth:
    """Return every queue with its waiting time, workers and slots, and a list of problems."""
    with ledger.statement() as connection:
        rows = [dict(row._mapping) for row in queues.measure_queues(connection, settings.lease_seconds)]
        dead = queues.dead_letters(connection)
        overdue = queues.overdue_seconds(connection)
    problems = []
    for row in rows:
        waits = f"queue {row['queue']}: jobs wait since {row['oldest_seconds']:.0f} s"
        if row["paused"]:
            if row["oldest_seconds"]:
                problems.append(f"{waits}; it is paused")
        elif not row["workers"] and (row["oldest_seconds"] or row["dispatched"]):
            problems.append(f"queue {row['queue']}: no worker consumes it")
        elif row["oldest_seconds"] > WAITS_LONG:
            problems.append(f"{waits}; {row['running']} of {row['slots']} slots are busy")
    if overdue > 60:
        problems.append(f"a scheduled job is overdue since {overdue:.0f} s: does a dispatcher run?")
    if dead:
        problems.append(f"{dead:,} dead letters wait for an operator")
    return QueueHealth(queues=rows, dead_letters=dead, overdue_seconds=overdue, problems=problems)
