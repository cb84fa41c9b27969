"""The definitions file: a blank node imports it at boot, so that a wiped broker recovers by itself."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping
from typing import Any

from jobplatform.broker.topology import Topology
from jobplatform.broker.users import ROLES


def hash_password(password: str, salt: bytes | None = None) -> str:
    """Return RabbitMQ's salted SHA-256 hash (https://www.rabbitmq.com/docs/passwords#computing-password-hash)."""
    salt = salt or os.urandom(4)
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def build_definitions(topology: Topology, *, vhost: str, passwords: Mapping[str, str]) -> dict[str, Any]:
    """Return the definitions of the vhost, the topology, and the roles that have a password here.

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
    roles = [role for role in ROLES if role.name in passwords]
    definitions["users"] = [
        {
            "name": role.name,
            "password_hash": hash_password(passwords[role.name]),
            "hashing_algorithm": "rabbit_password_hashing_sha256",
            "tags": list(role.tags),
        }
        for role in roles
    ]
    definitions["permissions"] = [
        {"user": role.name, "vhost": vhost, "configure": role.configure, "write": role.write, "read": role.read}
        for role in roles
    ]
    return definitions
