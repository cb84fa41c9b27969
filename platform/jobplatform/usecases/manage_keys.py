"""API keys: create, list, rotate with an overlap, revoke; and the audit log (docs/concepts/access.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row

from jobplatform.domain.access import Scope, is_pattern
from jobplatform.domain.jobs import MAX_PRIORITY
from jobplatform.errors import FieldError, InvalidRequest, KeyNotFound
from jobplatform.ledger import audit_log, keys
from jobplatform.ledger.keys import Grants
from jobplatform.ledger.session import Ledger
from jobplatform.usecases.admit import Caller

MOST_NAME_CHARACTERS = 100
MOST_KINDS = 50
MOST_REQUESTS = 10_000_000
#: overlap of both keys after a rotation (s)
USUAL_OVERLAP_SECONDS = 86_400.0
LONGEST_OVERLAP_SECONDS = 31 * 86_400.0


@dataclass(frozen=True)
class NewKey:
    """A new key; `key` can't be read again."""

    key: str
    view: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form of the API."""
        return self.view | {"key": self.key}


def create_key(ledger: Ledger, tenant_id: UUID, name: str, grants: Grants, *, by: str) -> NewKey:
    """Create a key of a tenant. Raises `InvalidRequest`."""
    _check(name, grants)
    with ledger.transaction() as connection:
        return _create(connection, tenant_id, name, grants, by=by)


def check_grants(caller: Caller, grants: Grants) -> None:
    """Raise `NotAllowed` if a key would have more rights across tenants than the key that creates it."""
    caller.check_priority(grants.max_priority)
    if grants.is_operator:
        caller.check_operator()
    if caller.kinds is not None:
        caller.check_kinds(grants.kinds if grants.kinds is not None else ["*"])


def rotate_key(
    ledger: Ledger, caller: Caller | None, key_id: UUID, *, by: str, overlap_seconds: float = USUAL_OVERLAP_SECONDS
) -> NewKey:
    """Create a key with the same grants; the old one expires after the overlap. `caller` None: of any tenant.

    Raises `KeyNotFound` for a key that is no longer valid, `NotAllowed` for one with more rights than the caller's,
    or `InvalidRequest`.
    """
    if not 0 <= overlap_seconds <= LONGEST_OVERLAP_SECONDS:
        wrong = FieldError(
            "overlap_seconds", f"from 0 to {LONGEST_OVERLAP_SECONDS:.0f}, a month", repr(overlap_seconds)
        )
        raise InvalidRequest("the overlap can't work", (wrong,))
    with ledger.transaction() as connection:
        old = keys.get_key(connection, key_id, caller.tenant_id if caller is not None else None, lock=True)
        if old is None or old.revoked_at is not None or (old.expires_at and old.expires_at <= datetime.now(UTC)):
            raise KeyNotFound(f"no valid API key {key_id}")
        grants = _grants(old)
        if caller is not None:
            check_grants(caller, grants)
        # the same lifetime as the old key; if that was rotated before (the response was lost, for example), its
        # successor has it
        model = keys.successor_of(connection, key_id) or old
        if model.expires_at is not None:
            grants = replace(grants, expires_at=datetime.now(UTC) + (model.expires_at - model.created_at))
        made = _create(connection, old.tenant_id, old.name, grants, by=by, replaces=key_id)
        keys.end_key(connection, key_id, overlap_seconds)
        return made


def revoke_key(ledger: Ledger, tenant_id: UUID | None, key_id: UUID) -> dict[str, Any]:
    """Revoke a key: its next request is refused. Idempotent. Raises `KeyNotFound`."""
    with ledger.transaction() as connection:
        if keys.get_key(connection, key_id, tenant_id) is None:
            raise KeyNotFound(f"no API key {key_id}")
        keys.revoke_key(connection, key_id)
        return view_of(_found(connection, key_id))


def list_keys(
    ledger: Ledger, tenant_id: UUID | None, *, after: UUID | None = None, limit: int = 50
) -> tuple[list[dict[str, Any]], UUID | None]:
    """Return a page of keys, oldest first, without secrets, and the id to continue after."""
    with ledger.statement() as connection:
        rows = keys.list_keys(connection, tenant_id, after=after, limit=limit + 1)
    return [view_of(row) for row in rows[:limit]], rows[limit - 1].id if len(rows) > limit else None


def list_actions(
    ledger: Ledger, tenant_id: UUID, *, before: int | None, key_id: UUID | None, limit: int
) -> tuple[list[dict[str, Any]], int | None]:
    """Return a page of the audit log, newest first, and the id to continue below."""
    with ledger.statement() as connection:
        rows = audit_log.list_actions(connection, tenant_id, before=before, key_id=key_id, limit=limit + 1)
    return [dict(row._mapping) for row in rows[:limit]], rows[limit - 1].id if len(rows) > limit else None


def view_of(row: Row[Any]) -> dict[str, Any]:
    """Return the JSON form of a key, without its secret."""
    return {name: value for name, value in row._mapping.items() if name != "tenant_id"}


def _create(
    connection: Connection, tenant_id: UUID, name: str, grants: Grants, *, by: str, replaces: UUID | None = None
) -> NewKey:
    key_id, key = keys.make_key(connection, tenant_id, name, grants, by=by, replaces=replaces)
    return NewKey(key, view_of(_found(connection, key_id)))


def _found(connection: Connection, key_id: UUID) -> Row[Any]:
    row = keys.get_key(connection, key_id, None)
    assert row is not None
    return row


def _grants(row: Row[Any]) -> Grants:
    return Grants(
        scopes=tuple(Scope(scope) for scope in row.scopes),
        kinds=tuple(row.kinds) if row.kinds is not None else None,
        max_priority=row.max_priority,
        is_operator=row.is_operator,
        requests_per_minute=row.requests_per_minute,
    )


def _check(name: str, grants: Grants) -> None:
    wrong: list[FieldError] = []
    if not 0 < len(name) <= MOST_NAME_CHARACTERS or not name.isprintable():
        wrong.append(FieldError("name", f"1 to {MOST_NAME_CHARACTERS} printable characters", repr(name)[:200]))
    if not grants.scopes and not grants.is_operator:
        wrong.append(FieldError("scopes", f"some of {', '.join(Scope)}", "none"))
    wrong += wrong_kinds(grants.kinds)
    if not 0 <= grants.max_priority <= MAX_PRIORITY:
        wrong.append(FieldError("max_priority", f"from 0 to {MAX_PRIORITY}", repr(grants.max_priority)))
    if grants.requests_per_minute is not None and not 1 <= grants.requests_per_minute <= MOST_REQUESTS:
        wrong.append(FieldError("requests_per_minute", f"from 1 to {MOST_REQUESTS}", repr(grants.requests_per_minute)))
    if grants.expires_at is not None and grants.expires_at <= datetime.now(UTC):
        wrong.append(FieldError("expires_at", "a time in the future", grants.expires_at.isoformat()))
    if wrong:
        raise InvalidRequest("the key can't work", tuple(wrong))


def wrong_kinds(kinds: Sequence[str] | None) -> list[FieldError]:
    """Return what is wrong with a list of kinds and patterns; None matches all kinds."""
    if kinds is None:
        return []
    if not 0 < len(kinds) <= MOST_KINDS:
        return [FieldError("kinds", f"1 to {MOST_KINDS} kinds, or none for all", f"{len(kinds)} kinds")]
    return [
        FieldError(f"kinds.{position}", "a kind like email.send, or all below a name like email.*", repr(item)[:200])
        for position, item in enumerate(kinds)
        if not is_pattern(item)
    ]
