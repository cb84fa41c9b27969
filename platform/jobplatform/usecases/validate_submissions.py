"""Validate jobs that were submitted in other transactions: valid ones are released, the others are dead-lettered."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import orjson

from jobplatform.domain.kinds import Kind, KindRegistry
from jobplatform.errors import FieldError, InvalidPayload, InvalidRequest
from jobplatform.ledger import submissions
from jobplatform.ledger.session import Ledger
from jobplatform.ledger.submissions import UnvalidatedJob
from jobplatform.observe.logs import get_log

log = get_log(__name__)

#: time limit of one pass: a kind's own code is called here, and dispatching waits for it
LOOK_SECONDS = 0.5
#: maximum number of wrong fields that a dead letter names
MOST_ERRORS = 20


class Validated(NamedTuple):
    """How many jobs were checked, "queue priority,…" that got jobs, and whether there may be more."""

    jobs: int
    woken: str
    more: bool


def validate_submissions(ledger: Ledger, kinds: KindRegistry, limit: int) -> Validated:
    """Validate up to `limit` jobs of kinds that this process knows.

    Outside of any transaction, as a kind's code may be slow. If two dispatchers validate the same job, the second one's
    result is ignored.
    """
    with ledger.statement() as connection:
        unchecked = submissions.unvalidated_jobs(connection, [kind.name for kind in kinds], limit)
    if not unchecked:
        return Validated(0, "", False)
    until = time.monotonic() + LOOK_SECONDS
    checked: list[dict[str, Any]] = []
    for item in unchecked:
        checked.append(_look(kinds.get(item.kind), item))
        if time.monotonic() >= until:
            break
    keys = {item.key_id for item in unchecked[: len(checked)] if item.key_id is not None}
    with ledger.transaction() as connection:
        woken = submissions.release_validated_jobs(connection, checked, keys)
        submissions.fold_counters(connection)
    return Validated(len(checked), woken, len(checked) < len(unchecked) or len(unchecked) == limit)


def _look(kind: Kind, job: UnvalidatedJob) -> dict[str, Any]:
    try:
        limit_keys, limit_units = kind.limits_of(kind.parse(_parse(job.payload)))
    except InvalidRequest as error:  # its payload, or the values of its limit keys
        errors = [item.as_dict() for item in error.errors[:MOST_ERRORS]]
        return {"id": job.id, "error": _error(error.code, str(error), errors=errors)}
    except Exception as error:  # a bug in the kind's code: it must not block the other jobs
        log.exception("submission_not_validated", job_id=str(job.id), kind=kind.name)
        return {"id": job.id, "error": _error("bad_kind", f"{kind.name} can't be checked: {error!r}"[:500])}
    return {"id": job.id, "limit_keys": list(limit_keys), "limit_units": list(limit_units)}


def _parse(payload: str) -> Any:
    """Return the payload. Raises `InvalidPayload` for JSON that Postgres can store but Python can't read."""
    try:
        value = orjson.loads(payload)
        orjson.dumps(value)
    except (orjson.JSONDecodeError, TypeError) as error:
        wrong = FieldError("payload", "JSON of at most 250 levels, with numbers of 64 bits", str(error)[:200])
        raise InvalidPayload("the payload can't be read", (wrong,)) from None
    return value


def _error(code: str, message: str, **more: Any) -> dict[str, Any]:
    return {"code": code, "message": message, "retryable": False, **more}
