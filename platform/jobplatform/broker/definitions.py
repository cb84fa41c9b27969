"""The definitions file: what a blank node imports at boot, so that a wiped broker comes back by itself."""

from __future__ import annotations

import base64
import hashlib
import os
from typing import Any

from jobplatform.broker.topology import Topology


def hash_password(password: str, salt: bytes | None = None) -> str:
    """Return RabbitMQ's salted SHA-256 form (https://www.rabbitmq.com/docs/passwords#computing-password-hash)."""
    salt = salt or os.urandom(4)
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def build_definitions(
    topology: Topology, *, vhost: str = "/", user: str | None = None, password: str | None = None
) -> dict[str, Any]:
    """Return the definitions of the vhost and the topology, and of one administrator when `user` is given.

    Importing definitions on a blank node suppresses its default vhost and user, so both must be in it.
    """
    definitions: dict[str, Any] = {
        "vhosts": [{"name": vhost}],
        "exchanges": [
            {"name": e.name, "vhost": vhost, "type": e.type, "durable": True, "auto_delete": False, "arguments": {}}
            for e in topology.exchanges
        ],
        "queues": [
            {"name": q.name, "vhost": vhost, "durable": True, "auto_delete": False, "arguments": q.arguments}
            for q in topology.queues
        ],
        "bindings": [
            {
                "source": b.exchange,
                "vhost": vhost,
                "destination": b.queue,
                "destination_type": "queue",
                "routing_key": b.routing_key,
                "arguments": {},
            }
            for b in topology.bindings
        ],
    }
    if user and password:
        definitions["users"] = [
            {
                "name": user,
                "password_hash": hash_password(password),
                "hashing_algorithm": "rabbit_password_hashing_sha256",
                "tags": ["administrator"],
            }
        ]
        definitions["permissions"] = [{"user": user, "vhost": vhost, "configure": ".*", "write": ".*", "read": ".*"}]
    return definitions
