"""Look at jobs that were ordered in transactions of others: what fits its kind goes, the rest is a dead letter."""

from __future__ import annotations

from typing import Any, NamedTuple

from jobplatform.domain.kinds import Kind, KindRegistry
from jobplatform.errors import InvalidRequest
from jobplatform.ledger import orders
from jobplatform.ledger.orders import Unchecked
from jobplatform.ledger.session import Ledger
from jobplatform.observe.logs import get_log

log = get_log(__name__)


class Looked(NamedTuple):
    """How many were looked at, "queue priority,…" that got jobs, and whether there may be more."""

    jobs: int
    woken: str
    more: bool


def check_orders(ledger: Ledger, kinds: KindRegistry, limit: int) -> Looked:
    """Look at up to `limit` jobs of kinds that this process knows, in one transaction."""
    with ledger.transaction() as connection:
        found = orders.unchecked_orders(connection, [kind.name for kind in kinds], limit)
        if not found:
            return Looked(0, "", False)
        checked = [_look(kinds.get(one.kind), one) for one in found]
        keys = {one.key_id for one in found if one.key_id is not None}
        woken = orders.release_orders(connection, checked, keys)
    return Looked(len(found), woken, len(found) == limit)


def _look(kind: Kind, order: Unchecked) -> dict[str, Any]:
    try:
        limit_keys, limit_units = kind.limits_of(kind.parse(order.payload))
    except InvalidRequest as error:  # its payload, or what its limit keys are made of
        return {"id": order.id, "error": _error(error.code, str(error), errors=[one.as_dict() for one in error.errors])}
    except Exception as error:  # a bug in the kind's code: it must not hold up the others
        log.exception("order_not_checked", job_id=str(order.id), kind=kind.name)
        return {"id": order.id, "error": _error("bad_kind", f"{kind.name} can't be checked: {error!r}")}
    return {"id": order.id, "limit_keys": list(limit_keys), "limit_units": list(limit_units)}


def _error(code: str, message: str, **more: Any) -> dict[str, Any]:
    return {"code": code, "message": message, "retryable": False, **more}
