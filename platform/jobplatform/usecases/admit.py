"""Who calls: the tenant behind an API key."""

from __future__ import annotations

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


def admit(ledger: Ledger, authorization: str | None) -> UUID:
    """Return the tenant for the value of an Authorization header. Raises `Unauthorized`.

    The ledger is asked every time, so that revoking a key acts with the next request.
    """
    with ledger.statement() as connection:
        tenant_id = keys.tenant_of(connection, read_key(authorization))
    if tenant_id is None:
        raise Unauthorized(UNKNOWN_KEY)
    return tenant_id
