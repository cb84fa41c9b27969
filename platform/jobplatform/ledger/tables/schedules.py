"""The tables of schedules (docs/concepts/schedules.md). See `tables`."""

from __future__ import annotations

from sqlalchemy import (
    CheckConstraint,
    Column,
    Double,
    Index,
    Integer,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSON, JSONB, UUID

from jobplatform.domain.schedules import MISSED, OUTCOMES, OVERLAPS
from jobplatform.ledger.tables.columns import metadata, moment, now, one_of

schedules = Table(
    "schedules",
    metadata,
    Column("id", UUID(as_uuid=True), primary_key=True),
    Column("tenant_id", UUID(as_uuid=True), nullable=False),
    Column("name", Text, nullable=False),
    Column("spec", JSONB, nullable=False, comment="cron, every_seconds or times, and the time zone"),
    Column("kind", Text, nullable=False),
    Column("queue", Text, nullable=False),
    Column("payload", JSON, nullable=False),
    Column("priority", SmallInteger, nullable=False),
    Column("tags", ARRAY(Text), nullable=False),
    Column("max_attempts", Integer, nullable=False),
    Column("crash_limit", Integer, nullable=False),
    Column("lost_limit", Integer, nullable=False),
    Column("limit_keys", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    Column("limit_units", ARRAY(Integer), nullable=False, server_default=text("'{}'")),
    Column("start_within_seconds", Double),
    Column("jitter_seconds", Double, nullable=False),
    Column("overlap", Text, nullable=False),
    Column("missed", Text, nullable=False),
    Column("catch_up", Integer, nullable=False),
    moment("start_at"),
    moment("end_at"),
    moment("anchor_at", nullable=False, comment="origin of intervals"),
    moment("paused_at"),
    moment("next_planned_at", comment="NULL: it does not fire again"),
    moment("next_due_at", comment="planned time plus jitter"),
    moment("last_planned_at"),
    Column("last_job_id", UUID(as_uuid=True)),
    Column("queued", Integer, nullable=False, server_default=text("0"), comment="pending fires"),
    now("created_at"),
    now("updated_at"),
    Column("updated_by", Text, nullable=False),
    Column("origin", Text, nullable=False),
    UniqueConstraint("tenant_id", "name"),
    CheckConstraint(one_of("overlap", OVERLAPS), name="schedules_overlap_is_known"),
    CheckConstraint("priority BETWEEN 0 AND 9", name="schedules_priority_in_range"),
    CheckConstraint(one_of("origin", ("beat", "person", "platform")), name="schedules_origin_is_known"),
    CheckConstraint(one_of("missed", MISSED), name="schedules_missed_is_known"),
    CheckConstraint("(next_planned_at IS NULL) = (next_due_at IS NULL)", name="schedules_next_is_planned_and_due"),
    Index("ix_schedules_due", "next_due_at", postgresql_where=text("paused_at IS NULL")),
    Index("ix_schedules_queued", "id", postgresql_where=text("queued > 0")),
)

schedule_fires = Table(
    "schedule_fires",
    metadata,
    Column("schedule_id", UUID(as_uuid=True), nullable=False),
    moment("planned_at", nullable=False),
    now("at"),
    Column("outcome", Text, nullable=False),
    Column("by", Text, comment="who requested it; NULL: the schedule"),
    Column("job_id", UUID(as_uuid=True)),
    Column("payload", JSON, comment="of a pending fire"),
    moment("missed_until"),
    PrimaryKeyConstraint("schedule_id", "planned_at"),
    CheckConstraint(one_of("outcome", OUTCOMES), name="schedule_fires_outcome_is_known"),
    CheckConstraint("(outcome = 'fired') = (job_id IS NOT NULL)", name="schedule_fires_fired_has_its_job"),
    Index("ix_schedule_fires_at", "at"),
    Index("ix_schedule_fires_queued", "schedule_id", "planned_at", postgresql_where=text("outcome = 'queued'")),
)
