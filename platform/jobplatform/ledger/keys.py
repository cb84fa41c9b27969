"""Tenants, API keys and idempotency keys."""

from __future__ import annotations

import hashlib
import secrets
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, text

from jobplatform.domain.limits import MOST_CHARACTERS, TENANT
from jobplatform.domain.limits import key as limit_key
from jobplatform.ledger.ids import new_id

#: API keys look like `jp_<43 characters>`: 256 random bits, so a plain SHA-256 is a sound way to store them
KEY_MARK = "jp_"


def hash_key(key: str) -> bytes:
    """Return what the ledger keeps of an API key."""
    return hashlib.sha256(key.encode()).digest()


def create_tenant(connection: Connection, name: str) -> UUID:
    """Create the tenant, or find it by name."""
    tenant_id: UUID = connection.execute(
        text(
            "INSERT INTO tenants (id, name, limit_key) VALUES (:id, :name, :limit_key) "
            "ON CONFLICT (name) DO UPDATE SET name = excluded.name RETURNING id"
        ),
        {"id": new_id(), "name": name, "limit_key": limit_key(TENANT, name)[:MOST_CHARACTERS]},
    ).scalar_one()
    return tenant_id


def create_key(
    connection: Connection, tenant_id: UUID, name: str, *, max_priority: int = 9, is_operator: bool = False
) -> str:
    """Create an API key and return it: the only time it can be read."""
    key = KEY_MARK + secrets.token_urlsafe(32)
    connection.execute(
        text(
            "INSERT INTO api_keys (id, tenant_id, name, prefix, key_hash, max_priority, is_operator) "
            "VALUES (:id, :tenant, :name, :prefix, :hash, :priority, :operator)"
        ),
        {
            "id": new_id(),
            "tenant": tenant_id,
            "name": name,
            "prefix": key[:10],
            "hash": hash_key(key),
            "priority": max_priority,
            "operator": is_operator,
        },
    )
    return key


def revoke_keys(connection: Connection, prefix: str) -> int:
    """Revoke the keys that begin with `prefix`; returns how many. Acts with the next request."""
    return connection.execute(
        text("UPDATE api_keys SET revoked_at = clock_timestamp() WHERE prefix = :p AND revoked_at IS NULL"),
        {"p": prefix[:10]},
    ).rowcount


def revoke_named(connection: Connection, name: str) -> int:
    """Revoke all keys of this name; returns how many."""
    return connection.execute(
        text("UPDATE api_keys SET revoked_at = clock_timestamp() WHERE name = :n AND revoked_at IS NULL"), {"n": name}
    ).rowcount


def find_tenant(connection: Connection, name: str) -> UUID | None:
    """Return the tenant of this name."""
    found: UUID | None = connection.execute(text("SELECT id FROM tenants WHERE name = :n"), {"n": name}).scalar()
    return found


def list_keys(connection: Connection) -> list[Row[Any]]:
    """Return all keys with their tenants, without what could be used as one."""
    return list(
        connection.execute(
            text(
                "SELECT k.prefix, k.name, t.name AS tenant, k.max_priority, k.is_operator, k.created_at, k.revoked_at "
                "FROM api_keys k JOIN tenants t ON t.id = k.tenant_id ORDER BY k.created_at"
            )
        )
    )


_OWNER = text(
    "SELECT tenant_id, name, max_priority, is_operator FROM api_keys WHERE key_hash = :hash AND revoked_at IS NULL"
)


def owner_of(connection: Connection, key: str) -> Row[Any] | None:
    """Return tenant_id, name, max_priority, is_operator of a valid key. Asked every time: revoking acts at once."""
    return connection.execute(_OWNER, {"hash": hash_key(key)}).one_or_none()


def forget_expired_locks(connection: Connection, limit: int = 1000) -> int:
    """Delete up to `limit` unique locks whose period is over."""
    return connection.execute(
        text(
            "DELETE FROM unique_locks WHERE (tenant_id, key) IN (SELECT tenant_id, key FROM unique_locks "
            "WHERE expires_at < clock_timestamp() LIMIT :limit FOR UPDATE SKIP LOCKED)"
        ),
        {"limit": limit},
    ).rowcount


def forget_expired_keys(connection: Connection, limit: int = 1000) -> int:
    """Delete up to `limit` idempotency keys whose time is over."""
    return connection.execute(
        text(
            "DELETE FROM idempotency_keys WHERE (tenant_id, key) IN (SELECT tenant_id, key FROM idempotency_keys "
            "WHERE expires_at < clock_timestamp() ORDER BY expires_at LIMIT :limit FOR UPDATE SKIP LOCKED)"
        ),
        {"limit": limit},
    ).rowcount
