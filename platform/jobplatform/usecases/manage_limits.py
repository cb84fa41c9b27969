"""Limits, pauses of limit keys, weights and quotas of tenants, changed at run time (docs/concepts/limits.md)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row

from jobplatform.domain.limits import MOST_UNITS, Limit, is_key
from jobplatform.domain.texts import null_error
from jobplatform.errors import FieldError, InvalidRequest, LimitNotFound
from jobplatform.ledger import keys, limits
from jobplatform.ledger.session import Ledger

#: flows per queue that are read for waiting jobs: "2,000 or more"
LINES = 2000
#: keys that are shown per limit
KEYS_SHOWN = 100
LONGEST_HOLD_SECONDS = 31 * 86_400


@dataclass(frozen=True)
class KeyUse:
    """Current usage of a limit key. `waiting_lines` counts waiting flows; of `units_left`
    some may be reserved for a job that was refused and has precedence.
    """

    key: str
    dispatched: int
    running: int
    waiting_lines: int
    waiting_tenants: int
    oldest_seconds: float | None
    units_left: float | None
    units_reserved: float | None
    paused_until: datetime | None
    paused_reason: str | None


@dataclass(frozen=True)
class LimitView:
    """A limit and its keys in use; `limit` is None for keys that are only paused."""

    limit: Limit | None
    keys: list[KeyUse]
    #: there are more keys than are shown
    more_keys: bool
    updated_at: datetime | None = None
    updated_by: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form of the API."""
        result = asdict(self)
        limit = result.pop("limit") or dict.fromkeys(Limit.__dataclass_fields__) | {"name": None, "sliding": False}
        return limit | result


def put_limit(ledger: Ledger, limit: Limit, *, by: str) -> LimitView:
    """Set a limit. It takes effect with the next round of a dispatcher, and the next claim. Raises `InvalidRequest`."""
    limit.check()
    with ledger.transaction() as connection:
        limits.put_limit(connection, limit, by)
    return next(view for view in list_limits(ledger) if view.limit and view.limit.name == limit.name)


def remove_limit(ledger: Ledger, name: str) -> None:
    """Remove a limit. Raises `LimitNotFound`."""
    _check_names(name)
    with ledger.transaction() as connection:
        if not limits.remove_limit(connection, name):
            raise LimitNotFound(f"no limit {name!r}: {_known(row.name for row in limits.list_limits(connection))}")


def list_limits(ledger: Ledger) -> list[LimitView]:
    """Return all limits, their usage and waiting jobs; last the keys that are paused without a limit."""
    with ledger.statement() as connection:
        rows, used = limits.list_limits(connection), limits.in_use(connection, LINES)
    uses: dict[str, list[KeyUse]] = {row.name: [] for row in rows}
    only_held = []
    for row in used:
        use = KeyUse(**row._mapping)
        name = row.key if row.key in uses else row.key.partition(":")[0] + ":*"
        if name in uses:
            uses[name].append(use)
        elif use.paused_until is not None:
            only_held.append(use)
    result = [_view(row, uses[row.name]) for row in rows]
    return result + ([LimitView(None, only_held[:KEYS_SHOWN], len(only_held) > KEYS_SHOWN)] if only_held else [])


def _view(row: Row[Any], uses: Sequence[KeyUse]) -> LimitView:
    limit = Limit(*(getattr(row, name) for name in Limit.__dataclass_fields__))
    busiest = sorted(uses, key=lambda use: (-use.waiting_lines, -use.running - use.dispatched, use.key))
    return LimitView(limit, busiest[:KEYS_SHOWN], len(uses) > KEYS_SHOWN, row.updated_at, row.updated_by)


def pause_key(ledger: Ledger, key: str, seconds: float, reason: str) -> datetime:
    """Pause a limit key; 0 seconds resume it. Returns until when. Raises `InvalidRequest`."""
    wrong = []
    if not is_key(key):
        wrong.append(FieldError("key", "a limit key like 'provider:openai'", repr(key)[:200]))
    if not 0 <= seconds <= LONGEST_HOLD_SECONDS:
        wrong.append(FieldError("seconds", f"from 0 (ends it) to {LONGEST_HOLD_SECONDS}, a month", repr(seconds)))
    if wrong_text := null_error({"reason": reason}):
        wrong.append(wrong_text)
    if wrong:
        raise InvalidRequest("the hold can't work", tuple(wrong))
    return limits.pause_key(ledger, key, seconds, reason, exactly=True)


def set_weight(ledger: Ledger, tenant: str, weight: float) -> None:
    """Set the weight of a tenant. Raises `InvalidRequest` or `LimitNotFound`."""
    if not 0.001 <= weight <= 1000:
        raise InvalidRequest("the weight can't work", (FieldError("weight", "from 0.001 to 1000", repr(weight)),))
    _check_names(tenant)
    with ledger.transaction() as connection:
        if not limits.set_weight(connection, tenant, weight):
            raise LimitNotFound(f"no tenant {tenant!r}: see `jobplatform tenants list`")


def list_tenants(ledger: Ledger, *, after: str = "", limit: int = 100) -> tuple[list[dict[str, Any]], str | None]:
    """Return a page of tenants with their weights, and the name to continue after."""
    with ledger.statement() as connection:
        rows = limits.list_tenants(connection, after, limit + 1)
    shown = [{"name": row.name, "weight": row.weight} for row in rows[:limit]]
    return shown, shown[-1]["name"] if len(rows) > limit else None


def put_quota(ledger: Ledger, tenant: str, queue: str, max_waiting: int, *, queues: Iterable[str], by: str) -> None:
    """Limit how many jobs of a tenant may wait in a queue. `*` stands for every tenant or queue without its own quota.

    The queue `+` stands for all queues together and counts all live jobs, dead letters included.

    Raises `InvalidRequest` or `LimitNotFound`.
    """
    _check_names(tenant, queue)
    known = sorted(queues)
    wrong = []
    if queue not in ("*", "+", *known):
        wrong.append(FieldError("queue", f"'*', '+' or one of {', '.join(known)}", repr(queue)[:200]))
    if not 0 <= max_waiting <= MOST_UNITS:
        wrong.append(FieldError("max_waiting", f"a number of jobs, from 0 to {MOST_UNITS}", repr(max_waiting)))
    if wrong:
        raise InvalidRequest("the quota can't work", tuple(wrong))
    with ledger.transaction() as connection:
        if tenant != "*" and keys.find_tenant(connection, tenant) is None:
            raise LimitNotFound(f"no tenant {tenant!r}: see `jobplatform tenants list`")
        limits.put_quota(connection, tenant, queue, max_waiting, by)


def remove_quota(ledger: Ledger, tenant: str, queue: str) -> None:
    """Remove a quota. Raises `LimitNotFound`."""
    _check_names(tenant, queue)
    with ledger.transaction() as connection:
        if not limits.remove_quota(connection, tenant, queue):
            known = _known(f"{row.tenant}/{row.queue}" for row in limits.list_quotas(connection))
            raise LimitNotFound(f"no quota {tenant}/{queue}: {known}")


def list_quotas(ledger: Ledger) -> list[dict[str, Any]]:
    """Return all quotas."""
    with ledger.statement() as connection:
        return [dict(row._mapping) for row in limits.list_quotas(connection)]


def _check_names(*names: str) -> None:
    """Raise `LimitNotFound` for a name that the ledger can't store."""
    if any("\x00" in name for name in names):
        raise LimitNotFound("no name has a NUL character")


def _known(names: Iterable[str]) -> str:
    result = list(names)
    return f"there are {', '.join(result[:20])}" if result else "there are none"
