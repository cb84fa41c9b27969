"""Declare the topology, and check whether queues exist."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import amqp

from jobplatform.broker.connection import server_version
from jobplatform.broker.topology import EPOCH_PREFIX, Topology, choose_queue_type
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


def declare_epoch(connection: Any, epoch: UUID) -> None:
    """Declare an epoch's sentinel: durable, empty, never consumed.

    It has the type of the job queues: in a cluster, a classic queue is missing while its node restarts, as if the
    broker had been wiped.
    """
    channel = connection.channel()
    arguments = {"x-queue-type": choose_queue_type("auto", server_version(connection)), "x-max-length": 1}
    channel.queue_declare(epoch_queue(epoch), durable=True, auto_delete=False, arguments=arguments)
    channel.close()
