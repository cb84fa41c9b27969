"""A big ledger compared with an empty one: a million waiting jobs, a million in history, a report's long snapshot."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.request import Request, urlopen

from sqlalchemy import text

from bench import dispatch
from bench.accept import measure as measure_accept
from bench.load import Load, run_wrk
from bench.sides import Bare, Ours, Pool
from jobplatform.devstack.processes import wait_gone
from jobplatform.devstack.stack import Stack

Echo = Callable[[str], None]

DRAINED, DISPATCHED = 1500, 20_000
#: jobs that pass through the ledger in twenty minutes at a hundred jobs per second
DURING_REPORT = 120_000

_HISTORY = """
WITH finished AS (
    INSERT INTO job_history (
        id, tenant_id, queue, kind, state, priority, payload, max_attempts, crash_limit, lost_limit, attempt, run_no,
        dispatch_no, created_at, run_at, dispatched_at, started_at, run_started_at, result, finished_at)
    -- ids as the platform generates them, from the time of acceptance: lookups depend on it
    SELECT encode(set_bit(set_bit(overlay(
               uuid_send(gen_random_uuid())
               PLACING substring(int8send((extract(epoch FROM at) * 1000)::bigint) FROM 3) FROM 1 FOR 6
           ), 52, 1), 53, 1), 'hex')::uuid, :tenant, 'bench', 'bench.noop', 'succeeded', 4, '{"n": 1}', 5, 3, 50,
        1, 1, 1, at, at, at, at, at, '1', at
    FROM (SELECT now() - n * interval '1 second' AS at FROM generate_series(1, :count) AS n) AS times
    RETURNING id, started_at, finished_at
), ran AS (
    INSERT INTO job_runs (job_id, run_no, tenant_id, queue, kind, attempt, outcome, lease_id, worker_id, started_at,
        finished_at)
    SELECT id, 1, :tenant, 'bench', 'bench.noop', 1, 'succeeded', gen_random_uuid(), gen_random_uuid(), started_at,
        finished_at FROM finished
)
INSERT INTO job_events (job_id, tenant_id, at, event, state, run_no)
SELECT id, :tenant, finished_at, 'succeeded', 'succeeded', 1 FROM finished
"""
#: a job's whole lifecycle, without broker and worker: each step leaves the same index entries as the real one
_PASS = (
    "UPDATE jobs SET state = 'dispatched', state_at = clock_timestamp(), dispatched_at = clock_timestamp(), "
    "dispatch_no = 1, epoch = (SELECT epoch FROM broker_epochs WHERE current)",
    "UPDATE jobs SET state = 'running', run_no = 1, attempt = 1, lease_id = gen_random_uuid(), "
    "worker_id = gen_random_uuid(), run_started_at = clock_timestamp(), started_at = clock_timestamp()",
    "DELETE FROM jobs",
)


#: number of jobs whose status is read
SAMPLE = 2000
_KNOWN = "SELECT EXISTS (SELECT 1 FROM jobs) OR EXISTS (SELECT 1 FROM job_history)"
_ANY = (
    "SELECT id FROM (SELECT id FROM jobs UNION ALL SELECT id FROM job_history) AS known ORDER BY random() LIMIT :count"
)

LEDGERS = ("empty", "waiting", "history")


def measure(
    stack: Stack, ours: Ours, bare: Bare, echo: Callable[[str], None], rows: int, number: int
) -> dict[str, dict[str, float]]:
    """Return work → ledger → figure. Each round `number` starts with a different ledger."""
    result: dict[str, dict[str, float]] = {}
    first = number % len(LEDGERS)
    for ledger in (*LEDGERS[first:], *LEDGERS[:first]):
        ours.clear()
        if ledger != "empty":
            echo(f"{ledger} ledger: writing {rows:,} jobs …")
        if ledger == "waiting":
            ours.load(rows)
        elif ledger == "history":
            ours.one(_HISTORY, tenant=ours.tenant, count=rows)
        _settle(ours)
        for work, value in _all(stack, ours, bare, echo, ledger).items():
            result.setdefault(work, {})[ledger] = value
    ours.clear()
    echo(f"passing {DURING_REPORT:,} jobs under a report's open transaction …")
    with _report(ours):
        for _ in range(4):
            ours.load(DURING_REPORT // 4)
            for step in _PASS:
                ours.one(step)
        ours.load(DISPATCHED)
        ours.one("CHECKPOINT")
        result["big ledger: dispatch (jobs/s)"]["report open"] = dispatch.measure(stack, ours, DISPATCHED)
    ours.clear()
    return result


def _all(stack: Stack, ours: Ours, bare: Bare, echo: Echo, ledger: str) -> dict[str, float]:
    result = {}
    echo(f"{ledger} ledger: accept, status read …")
    result["big ledger: accept (req/s)"] = measure_accept(stack, ours, bare, "job platform, granian", 5).per_second
    read = _read(stack, ours)
    result["big ledger: status read (req/s)"] = read.per_second
    result["status read, any of the jobs, p99 (ms)"] = read.p99_ms
    echo(f"{ledger} ledger: drain …")
    ours.begin()
    if ledger != "waiting":
        ours.one("DELETE FROM jobs")
        ours.load(DRAINED)
    with ours.workers(Pool("prefork", 2)):
        ours.wait_done(DRAINED)
        result["big ledger: drain, prefork 2 (jobs/s)"] = ours.drain_rate()
    _return(stack, ours)
    echo(f"{ledger} ledger: dispatch …")
    if ledger != "waiting":
        ours.load(DISPATCHED)
    result["big ledger: dispatch (jobs/s)"] = dispatch.measure(stack, ours, DISPATCHED)
    _return(stack, ours)
    return result


def _settle(ours: Ours) -> None:
    """Let Postgres finish the work that a load of a million rows leaves: in production they do not come at once."""
    ours.one("VACUUM (ANALYZE) jobs")
    ours.one("VACUUM (ANALYZE) job_history")
    ours.one("CHECKPOINT")


def _return(stack: Stack, ours: Ours) -> None:
    """Return jobs in flight to the queue, so that the next measurement starts from the same state."""
    dispatch.purge(stack, "bench")
    ours.one(
        "UPDATE jobs SET state = 'available', lease_id = NULL, worker_id = NULL "
        "WHERE state IN ('dispatched', 'running')"
    )


def _read(stack: Stack, ours: Ours) -> Load:
    """Read the status of jobs in turn, from a random sample of the whole ledger."""
    if not ours.one(_KNOWN):
        ours.load(SAMPLE)
    paths = [f"/v1/jobs/{row.id}" for row in ours.rows(_ANY, count=SAMPLE)]
    process = stack.start_api()
    try:
        stack.wait_answers("API", stack.local_url("api", "/readyz"), process, "api")
        url = stack.local_url("api")
        urlopen(Request(url + paths[0], headers={"Authorization": f"Bearer {ours.key}"})).close()
        run_wrk(stack.instance.folder, url, 1, key=ours.key, paths=paths)
        return run_wrk(stack.instance.folder, url, 5, key=ours.key, paths=paths)
    finally:
        process.terminate()
        wait_gone([process.pid], 20)


@contextmanager
def _report(ours: Ours) -> Iterator[None]:
    """Hold a report's snapshot open for a block."""
    with ours.engine.connect() as connection:
        connection.execution_options(isolation_level="REPEATABLE READ")
        connection.execute(text("SELECT count(*) FROM job_history"))
        yield
        connection.rollback()
