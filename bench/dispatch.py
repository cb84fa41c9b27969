"""Dispatch: from the ledger to the confirm of RabbitMQ, with one dispatcher process and no workers."""

from __future__ import annotations

from kombu import Connection

from bench.sides import Ours, queue_setting
from jobplatform.devstack.processes import wait_for, wait_gone
from jobplatform.devstack.stack import Stack

WINDOW = 100_000
#: limited by time: under a long snapshot, a count of all rows would scan dead ones and use the CPU that is measured
_DISPATCHED = "SELECT count(*) FROM jobs WHERE queue = 'bench' AND state = 'dispatched' AND dispatched_at >= :since"
_RATE = (
    "WITH out AS MATERIALIZED (SELECT dispatched_at AS at FROM jobs WHERE state = 'dispatched'), "
    "first AS MATERIALIZED (SELECT min(at) AS at FROM out) "
    "SELECT count(*) FILTER (WHERE out.at > first.at) / extract(epoch FROM max(out.at) - min(first.at)) FROM out, first"
)


def measure(stack: Stack, ours: Ours, jobs: int) -> float:
    """Return jobs per second between the first batch's mark and the last one's; purges the dispatched messages.

    At least `jobs` jobs must be waiting already.
    """
    before = stack.extra
    stack.extra = {**before, "JOBPLATFORM_QUEUES": queue_setting("prefork", WINDOW)}
    since = ours.one("SELECT clock_timestamp()")
    dispatcher = stack.start_dispatcher()
    try:
        enough = lambda: ours.one(_DISPATCHED, since=since) >= jobs  # noqa: E731 - one line, used once
        wait_for(f"{jobs} jobs dispatched", enough, process=dispatcher, seconds=180)
    finally:
        dispatcher.terminate()
        wait_gone([dispatcher.pid], 20)
        stack.extra = before
    rate = float(ours.one(_RATE))
    purge(stack, "bench")
    return rate


def purge(stack: Stack, queue: str) -> None:
    """Purge a queue of the broker."""
    with Connection(stack.broker_url) as connection:  # type: ignore[no-untyped-call]
        connection.default_channel.queue_purge(queue)
