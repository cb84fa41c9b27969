"""Checks of the ledger (reachable, migrated, with room, no old snapshots) and of the processes that it knows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection

from jobplatform.config import Settings
from jobplatform.doctor.finding import Finding, failed, ok, warning
from jobplatform.domain.kinds import KindRegistry
from jobplatform.errors import LedgerUnavailable
from jobplatform.ledger import dispatching, queues, server, workers
from jobplatform.ledger.feed import is_another_cluster
from jobplatform.ledger.schema import head, revision_of
from jobplatform.ledger.session import Ledger
from jobplatform.usecases.explain_job import DISPATCHER_HEARTBEATS

#: s; submissions with times are refused when the caller's clock differs from the ledger's by five
SKEW_SECONDS = 2.0
OLD_SNAPSHOT_SECONDS = 600
#: of all connections
CROWDED = 0.8
#: s; a longer wait is reported when a slot is free
WAITS_SECONDS = 60.0
OVERDUE_SECONDS = 30.0


def check_ledger(ledger: Ledger, config: Settings) -> Iterator[Finding]:
    """Yield findings on Postgres itself; only the first when it is not reachable."""
    began = time.perf_counter()
    try:
        with ledger.statement() as connection:
            version = server.version(connection)
            yield ok("database", f"Postgres {version} answers in {(time.perf_counter() - began) * 1000:.1f} ms")
            yield from _revision(connection)
            yield from _mode(connection)
            yield from _check_schema_grants(connection)
            yield from _clock(connection)
            yield from _room(connection)
    except LedgerUnavailable as error:
        cause = str(error.__cause__ or error).strip().splitlines()[0]
        yield failed("database", f"it can't be reached: {cause}", "start Postgres, or mend JOBPLATFORM_DATABASE_URL")


def _revision(connection: Connection) -> Iterator[Finding]:
    revision, newest = revision_of(connection), head()
    if revision == newest:
        yield ok("migrated", f"the ledger has revision {revision}, as this version has")
    elif revision is None or revision < newest:
        yield failed(
            "migrated", f"the ledger has revision {revision or 'none'}, this version {newest}", "jobplatform migrate"
        )
    else:
        yield failed(
            "migrated",
            f"the ledger has revision {revision}, this version only {newest}",
            "deploy the version it belongs to",
        )


def _mode(connection: Connection) -> Iterator[Finding]:
    """Yield a finding when the database is read-only, or is not the cluster whose transaction ids the feeds use."""
    mode = server.read_mode(connection)
    if mode.is_standby or mode.is_read_only:
        what = "a standby" if mode.is_standby else "set to read only (default_transaction_read_only)"
        yield failed(
            "writable",
            f"this database is {what}: nothing can be accepted, dispatched or settled",
            "point JOBPLATFORM_DATABASE_URL at the primary, or promote this one (SELECT pg_promote())",
        )
        return
    if revision_of(connection) == head() and is_another_cluster(connection):
        yield failed(
            "feeds",
            "the ledger was restored into another cluster: webhooks and feeds would miss what happens now",
            "jobplatform migrate",
        )


def _check_schema_grants(connection: Connection) -> Iterator[Finding]:
    """Yield a finding when other roles may create functions in the search path of the ledger's (CVE-2018-1058)."""
    schema, creators = server.other_creators(connection)
    if names := ", ".join(creators):
        yield warning(
            "schema",
            f"{names} may create functions in the schema {schema}, where the ledger's functions would call them",
            f"REVOKE CREATE ON SCHEMA {schema} FROM {names}",
        )


def _clock(connection: Connection) -> Iterator[Finding]:
    before = datetime.now(UTC)
    theirs = server.now(connection)
    after = datetime.now(UTC)
    skew = (theirs - before - (after - before) / 2).total_seconds()
    if abs(skew) <= SKEW_SECONDS:
        yield ok("clock", f"Postgres and this machine agree to {abs(skew):.2f} s")
    else:
        yield warning("clock", f"Postgres' clock is {skew:+.1f} s off from this machine's", "timedatectl set-ntp true")


def _room(connection: Connection) -> Iterator[Finding]:
    use = server.read_use(connection)
    share = use.connections / use.max_connections
    say = warning if share > CROWDED else ok
    line = f"{use.connections} of {use.max_connections} connections are in use"
    yield (
        say("connections", line, "raise max_connections, or use a pooler")
        if say is warning
        else ok("connections", line)
    )
    old = server.oldest_snapshot(connection)
    if old is not None and old.seconds > OLD_SNAPSHOT_SECONDS:
        yield warning(
            "snapshots",
            f"{old.application_name or 'a session'} (pid {old.pid}) has a transaction open since {old.seconds} s: "
            "nothing is cleaned up meanwhile",
            f"SELECT pg_terminate_backend({old.pid})",
        )
    else:
        yield ok("snapshots", "no transaction is older than ten minutes")
    if use.dead_jobs is not None and use.dead_jobs > 100_000 + 5 * use.live_jobs:
        yield warning(
            "bloat", f"jobs has {use.dead_jobs:,} dead rows beside {use.live_jobs:,}", "VACUUM (ANALYZE) jobs"
        )
    else:
        yield ok("bloat", f"jobs has {use.dead_jobs or 0:,} dead rows beside {use.live_jobs or 0:,}")


def check_processes(ledger: Ledger, config: Settings, kinds: KindRegistry | None) -> Iterator[Finding]:
    """Yield findings on dispatchers, workers of every queue and kind, and waiting jobs."""
    with ledger.statement() as connection:
        yield from _dispatchers(connection, config)
        for row in queues.measure_queues(connection, config.lease_seconds):
            yield _queue(row, config)
        for missing in sorted(set(config.queues) - {row.name for row in queues.list_queues(connection)}):
            yield failed(
                f"queue {missing}",
                "the ledger does not know it yet: a dispatcher writes it when it starts",
                "jobplatform dispatch",
            )
        if kinds is not None:
            yield from _kinds(connection, config, kinds)
        overdue = queues.overdue_seconds(connection)
        if overdue > OVERDUE_SECONDS:
            yield failed("scheduled", f"a scheduled job is overdue since {overdue:.0f} s", "jobplatform dispatch")
        else:
            yield ok("scheduled", "no scheduled job is overdue")
        if dead := queues.dead_letters(connection):
            more = " or more" if dead >= queues.COUNT_CAP else ""
            yield warning("dead letters", f"{dead:,}{more} jobs need an operator", "jobplatform dead list")
        else:
            yield ok("dead letters", "none")


def _dispatchers(connection: Connection, config: Settings) -> Iterator[Finding]:
    dispatchers = dispatching.live_dispatchers(connection, DISPATCHER_HEARTBEATS * config.heartbeat_seconds)
    if not dispatchers:
        yield failed(
            "dispatcher", "none is alive: nothing is published, and nothing becomes due", "jobplatform dispatch"
        )
        return
    broken = [item for item in dispatchers if item.broker_error]
    if len(broken) == len(dispatchers):
        yield failed("dispatcher", f"it can't use RabbitMQ: {broken[0].broker_error}", "see the lines on RabbitMQ")
    else:
        yield ok(
            "dispatcher",
            f"{len(dispatchers)} alive: {', '.join(f'{item.host} (pid {item.pid})' for item in dispatchers)}",
        )


def _queue(row: Any, config: Settings) -> Finding:
    check, remedy = f"queue {row.queue}", f"celery -A workers.app worker -Q {row.queue}"
    waits = f"the first job waits since {row.oldest_seconds:.0f} s" if row.oldest_seconds else "no job waits"
    if row.queue not in config.queues:
        text_of = f"the ledger has it, JOBPLATFORM_QUEUES has not; {waits}"
        return warning(check, text_of, "add it to JOBPLATFORM_QUEUES, or drain it")
    if row.paused:
        return warning(check, f"it is paused; {waits}", f"jobplatform queues resume {row.queue}")
    if not row.workers:
        say = failed if row.oldest_seconds or row.dispatched else warning
        drain = f", {row.draining} drain and take no more jobs" if row.draining else ""
        return say(check, f"no live worker consumes it{drain}; {waits}", remedy)
    busy = f"{row.workers} workers, {row.running} of {row.slots} slots busy"
    if row.oldest_seconds > WAITS_SECONDS and row.running < row.slots:
        return warning(
            check, f"{waits}, and slots are free ({busy})", "jobplatform limits list; jobplatform doctor JOB_ID"
        )
    if row.oldest_seconds > WAITS_SECONDS:
        return warning(check, f"{waits}; {busy}", f"more workers: {remedy}")
    return ok(check, f"{busy}; {waits}")


def _kinds(connection: Connection, config: Settings, kinds: KindRegistry) -> Iterator[Finding]:
    known = workers.live_kinds(connection, config.lease_seconds)
    staffed = {queue for queue, _ in known}
    missing = [kind for kind in kinds if kind.queue in staffed and (kind.queue, kind.name) not in known]
    for kind in missing:
        yield failed(
            f"kind {kind.name}",
            f"no live worker of queue {kind.queue} knows it",
            "deploy it to the workers, restart them",
        )
    if not missing:
        yield ok("kinds", f"all {len(list(kinds))} are known to the workers of their queues")
