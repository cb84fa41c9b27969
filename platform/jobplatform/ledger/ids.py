"""Time-ordered ids (UUIDv7, RFC 9562) and the times inside them."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import uuid_utils.compat


def new_id() -> UUID:
    """Return a new UUIDv7."""
    return uuid_utils.compat.uuid7()


#: version of ids derived from a text (the id of a Celery task): they contain no time
WITHOUT_TIME = 8


def time_of(job_id: UUID) -> datetime:
    """Return the time inside a UUIDv7 (milliseconds, the maker's clock)."""
    return datetime.fromtimestamp((job_id.int >> 80) / 1000, tz=UTC)


def lowest_id_at(moment: datetime) -> UUID:
    """Return the smallest UUIDv7 of a moment: a bound for ranges by time."""
    milliseconds = max(0, int(moment.timestamp() * 1000))  # nothing is older than 1970
    return UUID(int=(milliseconds << 80) | (0x7 << 76) | (0b10 << 62))
