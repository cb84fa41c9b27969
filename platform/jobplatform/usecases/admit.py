"""Who calls: the tenant behind an API key."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from jobplatform.errors import Unauthorized
from jobplatform.ledger import keys
from jobplatform.ledger.session import Ledger

UNKNOWN_KEY = "this API key is not known, or was revoked"


def read_key(authorization: str | None) -> str:
    """Return the API key in the value of an Authorization header. Raises `Unauthorized` when there is none."""
    scheme, _, key = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise Unauthorized()
    return key.strip()


@dataclass(frozen=True)
class Caller:
    """Whose request it is, and by which key."""

    tenant_id: UUID
    key_name: str


def admit(ledger: Ledger, authorization: str | None) -> Caller:
    """Return who calls by the value of an Authorization header. Raises `Unauthorized`.

    The ledger is asked every time, so that revoking a key acts with the next request.
    """
    with ledger.statement() as connection:
        owner = keys.owner_of(connection, read_key(authorization))
    if owner is None:
        raise Unauthorized(UNKNOWN_KEY)
    return Caller(owner.tenant_id, owner.name)
