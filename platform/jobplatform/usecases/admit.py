"""Who calls: the tenant behind an API key."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from jobplatform.domain.jobs import MAX_PRIORITY
from jobplatform.errors import Unauthorized
from jobplatform.ledger import keys
from jobplatform.ledger.session import Ledger
from jobplatform.refusals import NotAllowed, PriorityTooHigh

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
    #: the highest priority that it may ask for
    max_priority: int = MAX_PRIORITY
    #: may read and change what concerns all tenants
    is_operator: bool = False

    def check_priority(self, *priorities: int | None) -> None:
        """Raise `PriorityTooHigh` for one that this key may not ask for."""
        for asked in priorities:
            if asked is not None and asked > self.max_priority:
                raise PriorityTooHigh(asked, self.max_priority)

    def check_operator(self) -> None:
        """Raise `NotAllowed` unless this is an operator's key."""
        if not self.is_operator:
            raise NotAllowed(
                "this concerns all tenants: expected an operator's key (`jobplatform keys create --operator`)"
            )


def admit(ledger: Ledger, authorization: str | None) -> Caller:
    """Return who calls by the value of an Authorization header. Raises `Unauthorized`.

    The ledger is asked every time, so that revoking a key acts with the next request.
    """
    with ledger.statement() as connection:
        owner = keys.owner_of(connection, read_key(authorization))
    if owner is None:
        raise Unauthorized(UNKNOWN_KEY)
    return Caller(owner.tenant_id, owner.name, owner.max_priority, owner.is_operator)
