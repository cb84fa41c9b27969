"""Idempotency keys, for all requests that accept one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from jobplatform.errors import IdempotencyConflict, IdempotencyInProgress, LedgerBusy
from jobplatform.ledger.session import LOCK_NOT_AVAILABLE


@contextmanager
def one_at_a_time(idempotency_key: str | None) -> Iterator[None]:
    """Raise `IdempotencyInProgress` if the wait for the first request with the key exceeds lock_timeout."""
    try:
        yield
    except LedgerBusy as error:
        if idempotency_key is not None and getattr(error.__cause__, "pgcode", None) == LOCK_NOT_AVAILABLE:
            raise IdempotencyInProgress() from error
        raise


def key_conflict(idempotency_key: str | None, earlier: str = "") -> IdempotencyConflict:
    """Return the error for a key that was used for another request; `earlier` is the id that it created, if known."""
    made = f" ({earlier})" if earlier else ""
    return IdempotencyConflict(
        f"Idempotency-Key {idempotency_key!r} was used for another request{made}: expected the same body, or a new key"
    )
