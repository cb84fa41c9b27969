"""Hardening of message decoding in a worker's parent, before our code sees a message.

py-amqp and kombu decode a message in Celery's event loop. An exception there ends the worker; RabbitMQ redelivers the
message, and it ends the next worker.
"""

from __future__ import annotations

import kombu.compression

from jobplatform.broker.connection import tolerate_properties


def harden() -> None:
    """Ignore properties that can't be decoded, and decompress no body. Idempotent."""
    # a bomb of half a megabyte becomes a gigabyte in the parent; the platform's messages are never compressed
    kombu.compression._decoders.clear()
    tolerate_properties()
