"""Celery's task ids, which may be any text, and the ledger's job ids, which are UUIDs."""

from __future__ import annotations

import hashlib
from uuid import UUID

from jobplatform.ledger.ids import WITHOUT_TIME, new_id


def new_task_id(*_: object) -> str:
    """Return an id for a task: a UUIDv7, as in the ledger, where Celery would create a UUIDv4."""
    return str(new_id())


def job_id_of(task_id: str, tenant_id: UUID) -> UUID:
    """Return the job's id: the task's own when it may be a job id, else one that is derived from text and tenant.

    Job ids are UUIDv7, or UUIDv8 where this function has derived them.
    """
    try:
        own: UUID | None = UUID(task_id)
    except (ValueError, AttributeError, TypeError):
        own = None
    if own is not None and own.version in (7, WITHOUT_TIME):
        return own
    digest = bytearray(hashlib.sha256(tenant_id.bytes + str(task_id).encode()).digest()[:16])
    digest[6] = (digest[6] & 0x0F) | 0x80
    digest[8] = (digest[8] & 0x3F) | 0x80
    return UUID(bytes=bytes(digest))
