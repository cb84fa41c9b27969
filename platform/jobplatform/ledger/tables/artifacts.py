"""Files of uploads and runs, and files to be deleted from the store."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Index,
    Integer,
    Table,
    Text,
)
from sqlalchemy.dialects.postgresql import UUID

from jobplatform.ledger.tables.columns import metadata, now

artifacts = Table(
    "artifacts",
    metadata,
    Column("id", UUID(as_uuid=True), primary_key=True),
    Column("tenant_id", UUID(as_uuid=True), nullable=False),
    Column("job_id", UUID(as_uuid=True), comment="NULL: an upload"),
    Column("run_no", Integer),
    Column("name", Text, nullable=False),
    Column("content_type", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("location", Text, nullable=False, comment="key below JOBPLATFORM_ARTIFACT_URL"),
    now("created_at"),
    CheckConstraint("size >= 0", name="artifacts_size_is_not_negative"),
    CheckConstraint("(job_id IS NULL) = (run_no IS NULL)", name="artifacts_of_a_job_name_its_run"),
    Index("ix_artifacts_job_id", "job_id"),
)

artifact_removals = Table(
    "artifact_removals",
    metadata,
    Column("location", Text, primary_key=True, comment="key below JOBPLATFORM_ARTIFACT_URL"),
    now("at"),
    Index("ix_artifact_removals_at", "at"),
)
