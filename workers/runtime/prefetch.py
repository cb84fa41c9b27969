"""Change how many messages a running worker prefetches.

Before RabbitMQ 4.0 a channel's limit applies to its consumers at once. Since then a limit applies only to consumers
that start later (https://www.rabbitmq.com/docs/consumer-prefetch), so the worker cancels its consumers and starts them
again on the same channel: messages that it has are not affected.
"""

from __future__ import annotations

from functools import partial
from typing import Any

#: consumers are started again only when the prefetch changes by this factor
FACTOR = 2


def set_prefetch(consumer: Any, ahead: int) -> None:
    """Prefetch this many messages beyond the setting. Thread-safe: Celery's loop calls RabbitMQ.

    `consumer`: Celery's consumer. No-op while it has no connection.
    """
    qos = consumer.qos
    if qos is None:
        return
    wanted = consumer.initial_prefetch_count + ahead
    if not consumer.qos_global:
        if qos.value < wanted * FACTOR and wanted < qos.value * FACTOR:
            return
        qos.callback = partial(_start_again, consumer.task_consumer)
    qos.value = wanted


def _start_again(task_consumer: Any, prefetch_count: int) -> None:
    task_consumer.qos(prefetch_count=prefetch_count, apply_global=False)
    task_consumer.cancel()
    task_consumer.consume()
