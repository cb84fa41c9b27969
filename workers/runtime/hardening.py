"""Hardening of message decoding in a worker's parent, before our code sees a message.

py-amqp and kombu decode a message in Celery's event loop; what they raise there ends the worker, the message comes
back, and takes the next one.
"""

from __future__ import annotations

import kombu.compression

from jobplatform.broker.connection import tolerate_properties


def harden() -> None:
    """Take properties that can't be decoded as none, and expand no compressed body. Idempotent."""
    # a bomb of half a megabyte becomes a gigabyte in the parent; ours are never compressed
    kombu.compression._decoders.clear()
    tolerate_properties()
