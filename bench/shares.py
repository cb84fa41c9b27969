"""Rounds of the dispatcher with more and more waiting jobs: of one tenant, of ten thousand, and with limit keys.

Rounds run in this process, on the real ledger and the real broker. Each is timed from its read to its commit. Between
rounds the dispatched jobs end, so that the next one has free slots, as with workers that keep up.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from bench.dispatch import purge
from bench.sides import Ours
from jobplatform.broker.publisher import Publisher
from jobplatform.dispatch.guard import guard_epoch
from jobplatform.dispatch.policy import Policy
from jobplatform.dispatch.queue_round import run_round
from jobplatform.dispatch.waiting import Waiting
from jobplatform.ledger import dispatching
from jobplatform.ledger.session import DISPATCHER, Ledger, open_ledger

#: numbers of waiting jobs
WAITING = (1_000, 10_000, 100_000, 1_000_000)
TENANTS, KEYS, LIMIT_SLOTS = 10_000, 50, 20
#: jobs per round, timed rounds, and warm-up rounds
BATCH, ROUNDS, WARM = 100, 60, 10


@dataclass(frozen=True)
class Case:
    """The waiting jobs: of `tenants` tenants in turn, with `keys` limit keys of LIMIT_SLOTS slots each."""

    name: str
    tenants: int
    keys: int


CASES = (
    Case("one tenant", 1, 0),
    Case(f"{TENANTS:,} tenants", TENANTS, 0),
    Case(f"{TENANTS:,} tenants, {KEYS} limit keys", TENANTS, KEYS),
)

_LOAD = """
INSERT INTO jobs (id, tenant_id, queue, kind, state, priority, payload, max_attempts, crash_limit, lost_limit, run_at,
    limit_keys)
SELECT gen_random_uuid(), CAST(lpad(to_hex(n % :tenants), 32, '0') AS uuid), 'bench', 'bench.noop', 'available', 4,
    '{"n": 1}', 5, 3, 50, clock_timestamp(),
    CASE WHEN :keys > 0 THEN ARRAY['provider:' || (n % :tenants + n / :tenants) % greatest(:keys, 1)] ELSE '{}' END
FROM generate_series(1, :count) AS n
"""


def measure(ours: Ours, echo: Callable[[str], None]) -> list[dict[str, Any]]:
    """Return a row per case and number of waiting jobs: milliseconds of a round, jobs per second."""
    result = []
    ledger = open_ledger(ours.stack.database_url, name="dispatcher", limits=DISPATCHER)
    try:
        for case in CASES:
            for count in WAITING:
                echo(f"rounds: {case.name}, {count:,} jobs waiting …")
                ours.clear()
                ours.one("DELETE FROM limits")
                if case.keys:
                    ours.one(
                        "INSERT INTO limits (name, max_concurrent, updated_by) VALUES ('provider:*', :n, 'bench')",
                        n=LIMIT_SLOTS,
                    )
                # includes the jobs that the rounds will dispatch
                ours.one(_LOAD, count=count + (ROUNDS + WARM) * BATCH, tenants=case.tenants, keys=case.keys)
                ours.one("VACUUM (ANALYZE) jobs")
                ours.one("CHECKPOINT")
                times, jobs = _rounds(ours, ledger)
                result.append(
                    {
                        "waiting jobs": case.name,
                        "jobs waiting": count,
                        "ms per round": 1000 * statistics.median(times),
                        "jobs per round": jobs / len(times),
                        "jobs/s": jobs / sum(times),
                    }
                )
                purge(ours.stack, "bench")
    finally:
        ledger.close()
        ours.one("DELETE FROM limits")
        ours.clear()
    return result


def _rounds(ours: Ours, ledger: Ledger) -> tuple[list[float], int]:
    publisher = Publisher(ours.stack.broker_url)
    guard_epoch(ledger, publisher)
    policy = Policy()
    policy.read(ledger)
    waiting = Waiting(policy.weight)
    while waiting.sweep(partial(dispatching.sweep_flows, ledger, "bench"), 2000):
        pass
    times, jobs = [], 0
    for number in range(WARM + ROUNDS):
        began = time.perf_counter()
        report = run_round(ledger, publisher, waiting, policy, "bench", BATCH, BATCH)
        if number >= WARM:
            times.append(time.perf_counter() - began)
            jobs += report.sent
        ours.one(
            "DELETE FROM jobs WHERE queue = 'bench' AND state = 'dispatched' AND state IN ('dispatched', 'running')"
        )
    publisher.close()
    return times, jobs
