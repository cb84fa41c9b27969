"""Workflows: their rows and steps, and which workflow a job belongs to.

Compatible with the running code: columns without a default are added at once, and nothing that was there is changed.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

FUNCTIONS = (
    "step_ended",
    "tell_steps",
    "open_steps",
    "insert_steps",
    "add_steps",
    "expand_map",
    "fail_workflow",
    "create_workflow",
    "stop_workflow",
    "time_out_workflows",
    "step_is_blocked",
    "gen_step_id",
    "cancel_workflow",
    "revive_workflow",
    "replay_workflow",
    "step_replayed",
    "step_value",
    "resolve_references",
    "forget_workflows",
)


def upgrade() -> None:
    op.add_column("jobs", sa.Column("workflow_id", sa.UUID(), nullable=True))
    op.add_column("job_history", sa.Column("workflow_id", sa.UUID(), nullable=True))
    op.create_table(
        "workflows",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("tenant_id", sa.UUID(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("pending", sa.Integer(), nullable=False, comment="steps without children that have not ended"),
        sa.Column("time_limit_seconds", sa.Double(), nullable=True),
        sa.Column("deadline_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("stop_as", sa.Text(), nullable=True, comment="the state it will end in"),
        sa.Column("kills", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("error", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "state IN ('cancelled', 'failed', 'running', 'stopping', 'succeeded')",
            name=op.f("workflows_state_is_known"),
        ),
        sa.CheckConstraint(
            "(state IN ('running', 'stopping')) = (ended_at IS NULL)", name=op.f("workflows_ended_has_its_time")
        ),
        sa.CheckConstraint(
            "(state = 'running') = (stop_as IS NULL) OR state = 'succeeded'", name=op.f("workflows_stopped_says_how")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workflows")),
    )
    op.create_index("ix_workflows_tenant_id_id", "workflows", ["tenant_id", "id"])
    op.create_index("ix_workflows_stopping", "workflows", ["id"], postgresql_where=sa.text("state = 'stopping'"))
    op.create_index(
        "ix_workflows_deadline", "workflows", ["deadline_at"], postgresql_where=sa.text("state = 'running'")
    )
    op.create_index(
        "ix_workflows_ended_at", "workflows", ["ended_at"], postgresql_where=sa.text("ended_at IS NOT NULL")
    )
    op.create_table(
        "workflow_steps",
        sa.Column("id", sa.UUID(), nullable=False, comment="of its job, where it has one"),
        sa.Column("workflow_id", sa.UUID(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("place", sa.Integer(), nullable=False, comment="order of the results of a group"),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("pending", sa.Integer(), nullable=False, comment="steps it waits for"),
        sa.Column("children", postgresql.ARRAY(sa.UUID()), nullable=False, comment="steps that wait for it"),
        sa.Column("on_failure", sa.Text(), nullable=False),
        sa.Column("item", postgresql.JSONB(astext_type=sa.Text()), nullable=True, comment="of the list of a map"),
        sa.Column("template", postgresql.JSONB(astext_type=sa.Text()), nullable=True, comment="what a map makes"),
        sa.CheckConstraint("type IN ('gate', 'job', 'map')", name=op.f("workflow_steps_type_is_known")),
        sa.CheckConstraint(
            "state IN ('cancelled', 'done', 'failed', 'joining', 'open', 'skipped', 'waiting')",
            name=op.f("workflow_steps_state_is_known"),
        ),
        sa.CheckConstraint(
            "on_failure IN ('continue', 'fail', 'ignore')", name=op.f("workflow_steps_on_failure_is_known")
        ),
        sa.CheckConstraint("pending >= 0", name=op.f("workflow_steps_pending_is_not_negative")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workflow_steps")),
        sa.UniqueConstraint("workflow_id", "name", name=op.f("uq_workflow_steps_workflow_id_name")),
    )


def downgrade() -> None:
    names = ", ".join(repr(name) for name in FUNCTIONS)
    op.execute(
        "DO $$ DECLARE f regprocedure; BEGIN FOR f IN SELECT p.oid::regprocedure FROM pg_proc p "
        "JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = current_schema() AND (p.proname IN "
        f"({names}) OR p.proname = 'settle_run' AND p.pronargs = 10) "
        "LOOP EXECUTE 'DROP FUNCTION ' || f || ' CASCADE'; END LOOP; END $$"
    )
    # the version before knows no steps: those that wait for others would wait for ever
    op.execute(
        "UPDATE jobs SET state = 'dead', state_at = clock_timestamp(), error = jsonb_build_object("
        "'code', 'downgraded', 'retryable', false, "
        "'message', 'a step of a workflow, which this version does not know') "
        "WHERE state = 'blocked' OR (workflow_id IS NOT NULL AND state IN ('scheduled', 'available', 'dispatched') "
        "AND payload::text ~ '\"[$](from|item|literal)\"')"
    )
    op.drop_table("workflow_steps")
    op.drop_table("workflows")
    op.drop_column("job_history", "workflow_id")
    op.drop_column("jobs", "workflow_id")
