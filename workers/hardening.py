"""What one message may do to a worker's parent before our code sees it: nothing.

py-amqp and kombu decode a message in Celery's event loop; what they raise there ends the worker, the message comes
back, and takes the next one.
"""

from __future__ import annotations

from typing import Any

import kombu.compression
from amqp.serialization import GenericContent

from jobplatform.observe.logs import get_log

log = get_log(__name__)


def harden() -> None:
    """Take properties that can't be decoded as none, and expand no compressed body. Idempotent."""
    # a bomb of half a megabyte becomes a gigabyte in the parent; ours are never compressed
    kombu.compression._decoders.clear()
    if getattr(GenericContent._load_properties, "hardened", False):
        return
    load = GenericContent._load_properties

    def load_properties(self: Any, class_id: int, buf: Any, offset: int) -> int:
        try:
            end: int = load(self, class_id, buf, offset)
        except Exception as error:  # whatever is in it, it is no message of ours: no headers, so it is refused
            log.warning("message_properties_undecodable", error=repr(error))
            self.properties = {}
            return offset
        return end

    load_properties.hardened = True  # type: ignore[attr-defined]
    GenericContent._load_properties = load_properties
