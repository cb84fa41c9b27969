"""Tenants, API keys and idempotency keys."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, Row, text

from jobplatform.domain.access import PREFIX_CHARACTERS, USUAL_SCOPES, Scope, new_key
from jobplatform.domain.limits import MOST_CHARACTERS, TENANT
from jobplatform.domain.limits import key as limit_key
from jobplatform.ledger.ids import new_id
from jobplatform.ledger.session import Ledger


def hash_key(key: str) -> bytes:
    """Return the stored hash of an API key: plain SHA-256 is sound for 190 random bits."""
    return hashlib.sha256(key.encode()).digest()


def create_tenant(connection: Connection, name: str) -> UUID:
    """Create a tenant, or return the existing one of this name."""
    tenant_id: UUID = connection.execute(
        text(
            "INSERT INTO tenants (id, name, limit_key) VALUES (:id, :name, :limit_key) "
            "ON CONFLICT (name) DO UPDATE SET name = excluded.name RETURNING id"
        ),
        {"id": new_id(), "name": name, "limit_key": limit_key(TENANT, name)[:MOST_CHARACTERS]},
    ).scalar_one()
    return tenant_id


@dataclass(frozen=True)
class Grants:
    """What a key may do."""

    scopes: tuple[Scope, ...] = USUAL_SCOPES
    #: kinds that it may submit, or patterns of them (`email.*`); None: all
    kinds: tuple[str, ...] | None = None
    #: the highest priority that it may submit with
    max_priority: int = 9
    #: may read and change limits, weights and quotas of all tenants
    is_operator: bool = False
    requests_per_minute: int | None = None
    expires_at: datetime | None = None


class KeyOwner(NamedTuple):
    """Result of `admit_key`."""

    key_id: str
    tenant_id: str
    name: str
    max_priority: int
    is_operator: bool
    scopes: list[str]
    kinds: list[str] | None
    rate: int | None
    rate_left: float | None
    rate_seconds: float | None


def admit_key(ledger: Ledger, key: str) -> KeyOwner | None:
    """Call `admit_key.sql`: returns the key's owner and grants, None if it is invalid. Takes a request of its rate."""
    row = ledger.call("admit_key", hash_key(key))
    return KeyOwner(*row[0]) if row else None


_COLUMNS = (
    "k.id, k.tenant_id, k.prefix, k.name, t.name AS tenant, k.scopes, k.kinds, k.max_priority, k.is_operator, "
    "k.requests_per_minute, k.created_at, k.created_by, k.expires_at, k.last_used_at, k.revoked_at, k.replaces"
)
_FROM = f"SELECT {_COLUMNS} FROM api_keys k JOIN tenants t ON t.id = k.tenant_id"


def create_key(
    connection: Connection,
    tenant_id: UUID,
    name: str,
    grants: Grants = Grants(),
    *,
    by: str = "",
    replaces: UUID | None = None,
) -> str:
    """Create an API key and return it; it can't be read later."""
    return make_key(connection, tenant_id, name, grants, by=by, replaces=replaces)[1]


def make_key(
    connection: Connection, tenant_id: UUID, name: str, grants: Grants, *, by: str, replaces: UUID | None = None
) -> tuple[UUID, str]:
    """Create an API key; returns its id and the key itself."""
    key, key_id = new_key(), new_id()
    values = asdict(grants) | {"scopes": [str(scope) for scope in grants.scopes]}
    values["kinds"] = list(grants.kinds) if grants.kinds is not None else None
    connection.execute(
        text(
            "INSERT INTO api_keys (id, tenant_id, name, prefix, key_hash, scopes, kinds, max_priority, is_operator, "
            "requests_per_minute, expires_at, created_by, replaces) VALUES (:id, :tenant, :name, :prefix, :hash, "
            ":scopes, :kinds, :max_priority, :is_operator, :requests_per_minute, :expires_at, :by, :replaces)"
        ),
        {
            "id": key_id,
            "tenant": tenant_id,
            "name": name,
            "prefix": key[:PREFIX_CHARACTERS],
            "hash": hash_key(key),
            "by": by,
            "replaces": replaces,
            **values,
        },
    )
    return key_id, key


def revoke_key(connection: Connection, key_id: UUID) -> None:
    """Revoke a key. Takes effect with the next request."""
    connection.execute(
        text("UPDATE api_keys SET revoked_at = clock_timestamp() WHERE id = :id AND revoked_at IS NULL"), {"id": key_id}
    )


def end_key(connection: Connection, key_id: UUID, seconds: float) -> None:
    """Let a key expire after so long, unless it expires earlier."""
    connection.execute(
        text(
            "UPDATE api_keys SET expires_at = least(expires_at, clock_timestamp() + make_interval(secs => :seconds)) "
            "WHERE id = :id"
        ),
        {"id": key_id, "seconds": seconds},
    )


def revoke_named(connection: Connection, name: str) -> int:
    """Revoke all keys of this name; returns how many."""
    return connection.execute(
        text("UPDATE api_keys SET revoked_at = clock_timestamp() WHERE name = :n AND revoked_at IS NULL"), {"n": name}
    ).rowcount


def find_tenant(connection: Connection, name: str) -> UUID | None:
    """Return the tenant of this name."""
    tenant: UUID | None = connection.execute(text("SELECT id FROM tenants WHERE name = :n"), {"n": name}).scalar()
    return tenant


def get_key(connection: Connection, key_id: UUID, tenant_id: UUID | None, *, lock: bool = False) -> Row[Any] | None:
    """Return a key without its secret; of this tenant, or of any tenant if None."""
    lock_clause = " FOR UPDATE OF k" if lock else ""
    return connection.execute(
        text(f"{_FROM} WHERE k.id = :id AND (CAST(:tenant AS uuid) IS NULL OR k.tenant_id = :tenant){lock_clause}"),
        {"id": key_id, "tenant": tenant_id},
    ).one_or_none()


def successor_of(connection: Connection, key_id: UUID) -> Row[Any] | None:
    """Return the first key that replaced this one."""
    return connection.execute(
        text(f"{_FROM} WHERE k.replaces = :id ORDER BY k.id LIMIT 1"), {"id": key_id}
    ).one_or_none()


def find_keys(connection: Connection, prefix: str) -> Sequence[Row[Any]]:
    """Return the valid keys that begin with `prefix`."""
    return connection.execute(
        text(f"{_FROM} WHERE k.prefix = :prefix AND k.revoked_at IS NULL"), {"prefix": prefix[:PREFIX_CHARACTERS]}
    ).all()


def list_keys(
    connection: Connection, tenant_id: UUID | None = None, *, after: UUID | None = None, limit: int | None = None
) -> Sequence[Row[Any]]:
    """Return keys with their tenants in order of creation, without secrets."""
    return connection.execute(
        text(
            f"{_FROM} WHERE (CAST(:tenant AS uuid) IS NULL OR k.tenant_id = :tenant) "
            "AND (CAST(:after AS uuid) IS NULL OR k.id > :after) ORDER BY k.id LIMIT :limit"
        ),
        {"tenant": tenant_id, "after": after, "limit": limit},
    ).all()


def valid_keys(connection: Connection, key_ids: Sequence[UUID]) -> set[UUID]:
    """Return which of these keys are valid."""
    statement = text(
        "SELECT id FROM api_keys WHERE id = ANY (:ids) AND revoked_at IS NULL "
        "AND (expires_at IS NULL OR expires_at > clock_timestamp())"
    )
    return set(connection.execute(statement, {"ids": list(key_ids)}).scalars())


def forget_expired_locks(connection: Connection, limit: int = 1000) -> int:
    """Delete up to `limit` expired unique locks."""
    return connection.execute(
        text(
            "DELETE FROM unique_locks WHERE (tenant_id, key) IN (SELECT tenant_id, key FROM unique_locks "
            "WHERE expires_at < clock_timestamp() LIMIT :limit FOR UPDATE SKIP LOCKED)"
        ),
        {"limit": limit},
    ).rowcount


def forget_expired_keys(connection: Connection, limit: int = 1000) -> int:
    """Delete up to `limit` expired idempotency keys."""
    return connection.execute(
        text(
            "DELETE FROM idempotency_keys WHERE (tenant_id, key) IN (SELECT tenant_id, key FROM idempotency_keys "
            "WHERE expires_at < clock_timestamp() ORDER BY expires_at LIMIT :limit FOR UPDATE SKIP LOCKED)"
        ),
        {"limit": limit},
    ).rowcount
