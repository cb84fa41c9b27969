"""Weights of tenants and names of limits, as operators have set them; read every second.

Names only: the limit itself and its usage are read in the round's transaction, under the key's lock.
"""

from __future__ import annotations

from collections.abc import Mapping

from jobplatform.ledger import limits
from jobplatform.ledger.session import Ledger


class Policy:
    """The weights of tenants, and the names of limits."""

    def __init__(self, weights: Mapping[str, float] | None = None, names: frozenset[str] = frozenset()) -> None:
        self._weights = weights or {}
        self._names = names

    def read(self, ledger: Ledger) -> None:
        """Read them. Raises `LedgerUnavailable`."""
        with ledger.statement() as connection:
            self._weights = limits.weights(connection)
            self._names = limits.names(connection)

    def weight(self, tenant: str) -> float:
        """Return the weight of a tenant, by its id."""
        return self._weights.get(tenant, 1.0)

    def is_limited(self, key: str) -> bool:
        """Return whether a key has a limit, its prefix has one, or it is paused."""
        return bool(self._names) and (key in self._names or key.partition(":")[0] + ":*" in self._names)
