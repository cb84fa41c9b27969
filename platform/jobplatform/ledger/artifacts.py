"""Queries on artifacts and uploads; their bytes are in the artifact store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, text

_COLUMNS = "id, job_id, run_no, name, content_type, size, sha256, location, created_at"

_INSERT_UPLOAD = text(
    """
    INSERT INTO artifacts (id, tenant_id, name, content_type, size, sha256, location)
    VALUES (:id, :tenant_id, :name, :content_type, :size, :sha256, :location)
    """
)
_INSERT_OUTPUT = text(
    """
    WITH mine AS (
        SELECT id, tenant_id, run_no FROM jobs WHERE id = :job_id AND lease_id = :lease_id FOR SHARE
    )
    INSERT INTO artifacts (id, tenant_id, job_id, run_no, name, content_type, size, sha256, location)
    SELECT :id, tenant_id, mine.id, run_no, :name, :content_type, :size, :sha256, :location FROM mine
    ON CONFLICT (id) DO UPDATE SET name = excluded.name  -- the answer was lost: a row as at the first time
    """
)


def insert_upload(connection: Connection, values: dict[str, Any]) -> None:
    """Record an upload."""
    connection.execute(_INSERT_UPLOAD, values)


def insert_output(connection: Connection, values: dict[str, Any]) -> bool:
    """Record a run's artifact. Idempotent; False when the lease is lost."""
    return connection.execute(_INSERT_OUTPUT, values).rowcount == 1


def get_artifact(connection: Connection, tenant_id: UUID, artifact_id: UUID) -> Row[Any] | None:
    """Return one artifact or upload of the tenant."""
    return connection.execute(
        text(f"SELECT {_COLUMNS} FROM artifacts WHERE id = :id AND tenant_id = :t"), {"id": artifact_id, "t": tenant_id}
    ).one_or_none()


_REMOVALS = text(
    "SELECT location FROM (SELECT location FROM artifact_removals ORDER BY at LIMIT 1000) AS oldest "
    "ORDER BY random() LIMIT :limit"
)


def removals(connection: Connection, limit: int) -> Sequence[str]:
    """Return locations of unreferenced files: some of the oldest, in random order for concurrent callers."""
    return connection.execute(_REMOVALS, {"limit": limit}).scalars().all()


def note_removed(connection: Connection, locations: Sequence[str]) -> None:
    """Delete the records of files that were deleted from the store."""
    connection.execute(
        text("DELETE FROM artifact_removals WHERE location = ANY (:locations)"), {"locations": list(locations)}
    )


def artifacts_of(connection: Connection, tenant_id: UUID, job_id: UUID) -> Sequence[Row[Any]]:
    """Return the artifacts of a job, at most 1,000, in order of creation."""
    return connection.execute(
        text(f"SELECT {_COLUMNS} FROM artifacts WHERE job_id = :id AND tenant_id = :t ORDER BY id LIMIT 1000"),
        {"id": job_id, "t": tenant_id},
    ).all()
