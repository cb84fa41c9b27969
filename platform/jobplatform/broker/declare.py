"""Declare the topology, and check whether queues exist."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import amqp

from jobplatform.broker.connection import server_version
from jobplatform.broker.topology import EPOCH_PREFIX, TRANSIENT, Topology, choose_queue_type
from jobplatform.errors import ConfigurationError


def declare_topology(connection: Any, topology: Topology) -> None:
    """Declare everything; idempotent. Raises `ConfigurationError` when a queue exists with other arguments."""
    for exchange in topology.exchanges:
        channel = connection.channel()
        channel.exchange_declare(exchange.name, exchange.type, durable=True, auto_delete=False)
        channel.close()
    for queue in topology.queues:
        channel = connection.channel()
        try:
            channel.queue_declare(queue.name, durable=True, auto_delete=False, arguments=queue.arguments)
        except amqp.exceptions.PreconditionFailed as error:
            raise ConfigurationError(
                f"queue {queue.name!r} stands in RabbitMQ with other arguments: {error.reply_text}. To change the type "
                f"of a queue, drain it (pause, wait until it is empty), delete it, and apply again"
            ) from None
        channel.close()
    channel = connection.channel()
    for binding in topology.bindings:
        channel.queue_bind(binding.queue, binding.exchange, binding.routing_key)
    channel.close()


def count_ready(connection: Any, name: str) -> int | None:
    """Return the number of messages of a queue that are not delivered to a worker; None when there is no such queue."""
    channel = connection.channel()
    try:
        declared = channel.queue_declare(name, passive=True)
    except amqp.exceptions.NotFound:
        return None
    channel.close()
    return int(declared.message_count)


def queue_exists(connection: Any, name: str) -> bool:
    """Return whether the queue exists, by a passive declare."""
    return count_ready(connection, name) is not None


def epoch_queue(epoch: UUID) -> str:
    """Return the name of an epoch's sentinel queue."""
    return f"{EPOCH_PREFIX}{epoch}"


def declare_epoch(connection: Any, epoch: UUID, wanted_type: str = "auto") -> None:
    """Declare an epoch's sentinel: a durable queue with one transient message, never consumed.

    Queue and message are of the types of jobs' queues and messages, so that what deletes those deletes the sentinel:
    a restart of the broker deletes transient messages of classic queues, and keeps those of quorum queues.
    `wanted_type`: the setting JOBPLATFORM_QUEUE_TYPE.
    """
    name = epoch_queue(epoch)
    channel = connection.channel()
    arguments = {"x-queue-type": choose_queue_type(wanted_type, server_version(connection)), "x-max-length": 1}
    channel.queue_declare(name, durable=True, auto_delete=False, arguments=arguments)
    channel.basic_publish_confirm(amqp.Message(b"", delivery_mode=TRANSIENT), exchange="", routing_key=name)
    channel.close()


def delete_epoch(connection: Any, epoch: UUID) -> None:
    """Delete the sentinel of an epoch that is over; no-op when there is none."""
    channel = connection.channel()
    channel.queue_delete(epoch_queue(epoch))
    channel.close()


def epoch_continues(connection: Any, epoch: UUID, wanted_type: str = "auto") -> bool:
    """Return whether the epoch's sentinel still stands: no message of the epoch was lost with the broker's data.

    Of a quorum queue only the existence counts: while it has no leader, its count of messages is reported as 0.
    """
    ready = count_ready(connection, epoch_queue(epoch))
    if ready is None:
        return False
    return ready > 0 or choose_queue_type(wanted_type, server_version(connection)) == "quorum"
