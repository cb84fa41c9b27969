"""Who calls: the tenant behind an API key."""

from __future__ import annotations

from uuid import UUID

from jobplatform.errors import Unauthorized
from jobplatform.ledger import keys
from jobplatform.ledger.session import Ledger


def admit(ledger: Ledger, authorization: str | None) -> UUID:
    """Return the tenant for the value of an Authorization header. Raises `Unauthorized`.

    The ledger is asked every time, so that revoking a key acts with the next request.
    """
    scheme, _, key = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise Unauthorized()
    with ledger.statement() as connection:
        tenant_id = keys.tenant_of(connection, key.strip())
    if tenant_id is None:
        raise Unauthorized("this API key is not known, or was revoked")
    return tenant_id
