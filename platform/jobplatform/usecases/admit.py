"""Authentication: the tenant of an API key, and the key's grants."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

from jobplatform.domain.access import USUAL_SCOPES, Scope, allows, is_mistyped
from jobplatform.domain.jobs import MAX_PRIORITY
from jobplatform.errors import KindNotAllowed, NotAllowed, PriorityTooHigh, RateLimited, Unauthorized
from jobplatform.ledger import keys
from jobplatform.ledger.session import Ledger

UNKNOWN_KEY = "this API key is not known, has expired, or was revoked"


def read_key(authorization: str | None) -> str:
    """Return the API key of an Authorization header. Raises `Unauthorized` when it can't be a key."""
    scheme, _, key = (authorization or "").partition(" ")
    key = key.strip()
    if scheme.lower() != "bearer" or not key:
        raise Unauthorized()
    if is_mistyped(key):
        raise Unauthorized("this API key is mistyped: its check sum is wrong")
    return key


@dataclass(frozen=True)
class Rate:
    """Rate limit of a key: requests per minute, remaining requests, and seconds until all are available again."""

    requests: int
    left: int
    seconds: float

    def headers(self) -> dict[str, str]:
        """Return the header fields RateLimit and RateLimit-Policy (draft-ietf-httpapi-ratelimit-headers-10)."""
        return {
            "RateLimit-Policy": f'"key";q={self.requests};w=60',
            "RateLimit": f'"key";r={self.left};t={round(self.seconds)}',
        }


@dataclass(frozen=True)
class Caller:
    """The authenticated caller of a request."""

    tenant_id: UUID
    key_name: str
    #: the highest priority that it may submit with
    max_priority: int = MAX_PRIORITY
    #: may read and change limits, weights and quotas of all tenants
    is_operator: bool = False
    scopes: frozenset[str] = frozenset(USUAL_SCOPES)
    #: patterns of the kinds that it may submit; None: all
    kinds: tuple[str, ...] | None = None
    key_id: UUID | None = None
    rate: Rate | None = None

    def check_scope(self, scope: Scope) -> None:
        """Raise `NotAllowed` for a scope that this key does not have."""
        if scope not in self.scopes:
            has = ", ".join(sorted(self.scopes)) or "none"
            raise NotAllowed(f"expected a key with the scope {scope}; this key has {has}")

    def check_priority(self, *priorities: int | None) -> None:
        """Raise `PriorityTooHigh` for a priority above the key's maximum."""
        for asked in priorities:
            if asked is not None and asked > self.max_priority:
                raise PriorityTooHigh(asked, self.max_priority)

    def check_kinds(self, kinds: Iterable[str]) -> None:
        """Raise `KindNotAllowed` for a kind that this key may not submit."""
        for kind in kinds:
            if not allows(self.kinds, kind):
                raise KindNotAllowed(kind, self.kinds or ())

    def check_operator(self) -> None:
        """Raise `NotAllowed` unless this is an operator key."""
        if not self.is_operator:
            raise NotAllowed(
                "this concerns all tenants: expected an operator's key (`jobplatform keys create --operator`)"
            )


def valid_keys(ledger: Ledger, key_ids: Sequence[UUID]) -> set[UUID]:
    """Return which of these keys are still valid."""
    with ledger.statement() as connection:
        return keys.valid_keys(connection, key_ids)


def admit(ledger: Ledger, authorization: str | None) -> Caller:
    """Authenticate by an Authorization header. Raises `Unauthorized` or `RateLimited`."""
    return admit_key(ledger, read_key(authorization))


def admit_key(ledger: Ledger, key: str) -> Caller:
    """Authenticate by an API key, and count the request. Raises `Unauthorized` or `RateLimited`.

    Reads the ledger on every request, so that a revoked key is refused at once.
    """
    owner = keys.admit_key(ledger, key)
    if owner is None:
        raise Unauthorized(UNKNOWN_KEY)
    rate = None
    if owner.rate is not None and owner.rate_left is not None and owner.rate_seconds is not None:
        rate = Rate(owner.rate, max(0, int(owner.rate_left)), owner.rate_seconds)
        if owner.rate_left < 0:
            raise RateLimited(owner.rate, owner.rate_seconds)
    return Caller(
        tenant_id=UUID(owner.tenant_id),
        key_name=owner.name,
        max_priority=owner.max_priority,
        is_operator=owner.is_operator,
        scopes=frozenset(owner.scopes),
        kinds=tuple(owner.kinds) if owner.kinds is not None else None,
        key_id=UUID(owner.key_id),
        rate=rate,
    )
