"""Steps whose failure ends their own branch only, jobs that a failure makes, steps replaced by what they add.

Compatible with the running code: new columns with defaults. A process of the version before reads a workflow that uses
them, and settles its steps by the ledger's functions, which are the new ones.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

POLICIES = "workflow_steps_on_failure_is_known"
FUNCTIONS = (
    "step_failure",
    "call_errbacks",
    "end_sinks",
    "skip_steps",
    "untell_steps",
    "restore_steps",
    "branch_error",
)


def upgrade() -> None:
    false = sa.text("false")
    for column in (
        sa.Column(
            "failed_parents",
            sa.Integer(),
            server_default=sa.text("0"),
            nullable=False,
            comment="of those it waited for",
        ),
        sa.Column("failed_by", sa.UUID(), nullable=True, comment="the job whose failure reached it first"),
        sa.Column(
            "told_failed", sa.Boolean(), server_default=false, nullable=False, comment="its children count it as failed"
        ),
        sa.Column(
            "result_of", sa.UUID(), nullable=True, comment="the step that replaced it: what it returns is its result"
        ),
        sa.Column(
            "errbacks",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="orders of the jobs that its failure makes",
        ),
        sa.Column(
            "skip_calls_errbacks",
            sa.Boolean(),
            server_default=false,
            nullable=False,
            comment="also when what it waited for has failed",
        ),
    ):
        op.add_column("workflow_steps", column)
    op.alter_column(
        "workflow_steps", "template", comment="what a map makes; of a job: times that count from its turn on"
    )
    op.drop_constraint(op.f(POLICIES), "workflow_steps")
    op.create_check_constraint(op.f(POLICIES), "workflow_steps", "on_failure IN ('continue', 'fail', 'ignore', 'skip')")


def downgrade() -> None:
    names = ", ".join(repr(name) for name in FUNCTIONS)
    op.execute(
        "DO $$ DECLARE f regprocedure; BEGIN FOR f IN SELECT p.oid::regprocedure FROM pg_proc p "
        "JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = current_schema() AND (p.proname IN "
        f"({names}) OR p.proname = 'settle_run' AND p.pronargs = 11 OR p.proname = 'tell_steps' AND p.pronargs = 6 "
        "OR p.proname = 'cancel_job' AND p.pronargs = 6) "
        "LOOP EXECUTE 'DROP FUNCTION ' || f || ' CASCADE'; END LOOP; END $$"
    )
    # the version before stops the whole workflow; it would open what waits for a failed step
    op.execute(
        "UPDATE workflows SET state = 'stopping', stop_as = 'failed', error = coalesce(error, "
        "jsonb_build_object('code', 'downgraded', 'message', 'one of its branches has failed')) "
        "WHERE state = 'running' AND id IN "
        "(SELECT workflow_id FROM workflow_steps WHERE told_failed OR state = 'failed')"
    )
    op.execute("UPDATE workflow_steps SET on_failure = 'fail' WHERE on_failure = 'skip'")
    op.drop_constraint(op.f(POLICIES), "workflow_steps")
    op.create_check_constraint(op.f(POLICIES), "workflow_steps", "on_failure IN ('continue', 'fail', 'ignore')")
    op.alter_column("workflow_steps", "template", comment="what a map makes")
    for name in ("failed_parents", "failed_by", "told_failed", "result_of", "errbacks", "skip_calls_errbacks"):
        op.drop_column("workflow_steps", name)
