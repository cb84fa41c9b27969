"""Schedules and their fires. Compatible with the running code: two new tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

JSON = postgresql.JSONB(astext_type=sa.Text())
NOW = sa.text("clock_timestamp()")
FUNCTIONS = ("due_schedules", "fire_schedules", "release_fires", "insert_fired")


def upgrade() -> None:
    op.create_table(
        "schedules",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("tenant_id", sa.UUID(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("spec", JSON, nullable=False, comment="cron, every_seconds or times, and the time zone"),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("payload", JSON, nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("tags", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        sa.Column("crash_limit", sa.Integer(), nullable=False),
        sa.Column("lost_limit", sa.Integer(), nullable=False),
        sa.Column("start_within_seconds", sa.Double(), nullable=True),
        sa.Column("jitter_seconds", sa.Double(), nullable=False),
        sa.Column("overlap", sa.Text(), nullable=False),
        sa.Column("missed", sa.Text(), nullable=False),
        sa.Column("catch_up", sa.Integer(), nullable=False),
        sa.Column("start_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("end_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("anchor_at", sa.DateTime(timezone=True), nullable=False, comment="intervals count from here"),
        sa.Column("paused_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("next_planned_at", sa.DateTime(timezone=True), nullable=True, comment="NULL: no more"),
        sa.Column("next_due_at", sa.DateTime(timezone=True), nullable=True, comment="planned and its jitter"),
        sa.Column("last_planned_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_job_id", sa.UUID(), nullable=True),
        sa.Column("queued", sa.Integer(), server_default=sa.text("0"), nullable=False, comment="fires that wait"),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.Column("updated_by", sa.Text(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.CheckConstraint("overlap IN ('allow', 'cancel', 'queue', 'skip')", name=op.f("schedules_overlap_is_known")),
        sa.CheckConstraint("priority BETWEEN 0 AND 9", name=op.f("schedules_priority_in_range")),
        sa.CheckConstraint("origin IN ('beat', 'person', 'platform')", name=op.f("schedules_origin_is_known")),
        sa.CheckConstraint("missed IN ('catch_up', 'once', 'skip')", name=op.f("schedules_missed_is_known")),
        sa.CheckConstraint(
            "(next_planned_at IS NULL) = (next_due_at IS NULL)", name=op.f("schedules_next_is_planned_and_due")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_schedules")),
        sa.UniqueConstraint("tenant_id", "name", name=op.f("uq_schedules_tenant_id_name")),
    )
    op.create_index("ix_schedules_due", "schedules", ["next_due_at"], postgresql_where=sa.text("paused_at IS NULL"))
    op.create_index("ix_schedules_queued", "schedules", ["id"], postgresql_where=sa.text("queued > 0"))
    op.create_table(
        "schedule_fires",
        sa.Column("schedule_id", sa.UUID(), nullable=False),
        sa.Column("planned_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("by", sa.Text(), nullable=True, comment="who asked for it; NULL: its time had come"),
        sa.Column("job_id", sa.UUID(), nullable=True),
        sa.Column("payload", JSON, nullable=True, comment="of a fire that waits"),
        sa.Column("missed_until", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "outcome IN ('fired', 'missed', 'queued', 'skipped')", name=op.f("schedule_fires_outcome_is_known")
        ),
        sa.CheckConstraint("(outcome = 'fired') = (job_id IS NOT NULL)", name=op.f("schedule_fires_fired_has_its_job")),
        sa.PrimaryKeyConstraint("schedule_id", "planned_at", name=op.f("pk_schedule_fires")),
    )
    op.create_index("ix_schedule_fires_at", "schedule_fires", ["at"])
    op.create_index(
        "ix_schedule_fires_queued",
        "schedule_fires",
        ["schedule_id", "planned_at"],
        postgresql_where=sa.text("outcome = 'queued'"),
    )


def downgrade() -> None:
    names = ", ".join(repr(name) for name in FUNCTIONS)
    op.execute(
        "DO $$ DECLARE f regprocedure; BEGIN FOR f IN SELECT p.oid::regprocedure FROM pg_proc p "
        f"JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = current_schema() AND p.proname IN ({names}) "
        "LOOP EXECUTE 'DROP FUNCTION ' || f || ' CASCADE'; END LOOP; END $$"
    )
    op.drop_table("schedule_fires")
    op.drop_table("schedules")
