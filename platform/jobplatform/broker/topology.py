"""The topology in RabbitMQ, as data: exchanges, queues, bindings. Nothing here connects to a broker."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

#: dispatched jobs, routed by queue name
JOBS_EXCHANGE = "jobs"
#: the dead-letter exchange of every queue
DEAD_EXCHANGE = "jobs.dead"
#: the queue from which the recorder consumes them
DEAD_RECORDS = "jobs.dead.records"
#: copies of dead messages for RabbitMQ's management page: kept some days, bounded
DEAD_COPIES = "jobs.dead.copies"
#: exchange and queue of submissions over AMQP (docs/howto/submit-over-amqp.md)
SUBMISSIONS = "jobs.submit"
#: a queue without consumers: if it or its message is missing, RabbitMQ has lost messages (docs/concepts/delivery.md)
EPOCH_PREFIX = "jobs.epoch."
#: delivery mode of jobs' messages: a classic queue does not write them to disk, and loses them when the broker
#: restarts. A quorum queue ignores it, and writes all messages
TRANSIENT = 1

MAX_PRIORITY = 9
_DAY_MS = 24 * 3600 * 1000


@dataclass(frozen=True)
class Exchange:
    """An exchange to declare; always durable."""

    name: str
    type: str


@dataclass(frozen=True)
class Queue:
    """A queue to declare; always durable."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Binding:
    """A binding from an exchange to a queue."""

    exchange: str
    queue: str
    routing_key: str


@dataclass(frozen=True)
class Topology:
    """Everything that `jobplatform broker apply` declares."""

    exchanges: tuple[Exchange, ...]
    queues: tuple[Queue, ...]
    bindings: tuple[Binding, ...]


def choose_queue_type(wanted: str, broker_version: str) -> str:
    """Return "quorum" or "classic" for the setting and the broker.

    `auto`: quorum queues have strict priorities from RabbitMQ 4.3 on; before, only classic ones with x-max-priority do
    (measured on 3.10.8, 4.0.5, 4.3.6: docs/decisions/0004-queue-types.md).
    """
    if wanted != "auto":
        return wanted
    numbers = [int(part) for part in broker_version.split(".")[:2] if part.isdigit()]
    return "quorum" if numbers >= [4, 3] else "classic"


def job_queue_arguments(queue_type: str) -> dict[str, Any]:
    """Return the arguments of a job queue of this type."""
    if queue_type == "quorum":
        # no x-max-priority: a quorum queue refuses it with a 406
        return {
            "x-queue-type": "quorum",
            "x-dead-letter-exchange": DEAD_EXCHANGE,
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
            "x-delivery-limit": 20,
            "x-consumer-timeout": _DAY_MS,
        }
    return {"x-max-priority": MAX_PRIORITY, "x-dead-letter-exchange": DEAD_EXCHANGE}


def submission_queue_arguments(queue_type: str) -> dict[str, Any]:
    """Return the arguments of the queue of submissions. No delivery limit: they wait while the ledger is down."""
    if queue_type == "quorum":
        return {**job_queue_arguments(queue_type), "x-delivery-limit": 1_000_000_000}
    return {"x-dead-letter-exchange": DEAD_EXCHANGE}


def build_topology(queues: Iterable[str], queue_type: str) -> Topology:
    """Return the topology for these queues; `queue_type` is "quorum" or "classic"."""
    names = sorted(queues)
    return Topology(
        exchanges=(
            Exchange(JOBS_EXCHANGE, "direct"),
            Exchange(DEAD_EXCHANGE, "fanout"),
            Exchange(SUBMISSIONS, "fanout"),
        ),
        queues=(
            *(Queue(name, job_queue_arguments(queue_type)) for name in names),
            Queue(SUBMISSIONS, submission_queue_arguments(queue_type)),
            Queue(DEAD_RECORDS, {"x-queue-type": queue_type}),
            Queue(
                DEAD_COPIES,
                {"x-message-ttl": 7 * _DAY_MS, "x-max-length": 100_000, "x-overflow": "drop-head"},
            ),
        ),
        bindings=(
            *(Binding(JOBS_EXCHANGE, name, name) for name in names),
            Binding(SUBMISSIONS, SUBMISSIONS, ""),
            Binding(DEAD_EXCHANGE, DEAD_RECORDS, ""),
            Binding(DEAD_EXCHANGE, DEAD_COPIES, ""),
        ),
    )
