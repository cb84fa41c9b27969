"""Jobs that are ordered in transactions of others: the kinds that the ledger knows, and what nobody has looked at yet.

Compatible with the running code: a new table, an index, and counters with more places.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

FUNCTIONS = (
    "order_job",
    "unchecked_orders",
    "release_orders",
    "fold_counters",
    "live_left",
    "waiting_left",
    "find_job",
)


def upgrade() -> None:
    op.create_table(
        "kinds",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        sa.Column("crash_limit", sa.Integer(), nullable=False),
        sa.Column("lost_limit", sa.Integer(), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_kinds")),
    )
    op.create_index(
        "ix_jobs_unchecked", "jobs", ["id"], postgresql_where=sa.text("state = 'blocked' AND workflow_id IS NULL")
    )
    op.alter_column(
        "queue_counters",
        "slot",
        type_=sa.Integer(),
        comment="backend pid modulo 64: one row would serialise submits; negative: a transaction's own",
    )


def downgrade() -> None:
    names = ", ".join(repr(name) for name in FUNCTIONS)
    op.execute(
        "DO $$ DECLARE f regprocedure; BEGIN FOR f IN SELECT p.oid::regprocedure FROM pg_proc p "
        "JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = current_schema() AND (p.proname IN "
        f"({names}) OR p.proname = 'accept_job' AND p.pronargs = 25) "
        "LOOP EXECUTE 'DROP FUNCTION ' || f || ' CASCADE'; END LOOP; END $$"
    )
    op.execute(
        "INSERT INTO queue_counters AS c (tenant_id, queue, slot, accepted, finished, promises_kept, promises_broken) "
        "SELECT tenant_id, queue, 0, sum(accepted), sum(finished), sum(promises_kept), sum(promises_broken) "
        "FROM queue_counters WHERE slot < 0 GROUP BY tenant_id, queue ON CONFLICT (tenant_id, queue, slot) DO UPDATE "
        "SET accepted = c.accepted + excluded.accepted, finished = c.finished + excluded.finished, "
        "promises_kept = c.promises_kept + excluded.promises_kept, "
        "promises_broken = c.promises_broken + excluded.promises_broken"
    )
    op.execute("DELETE FROM queue_counters WHERE slot < 0")
    op.alter_column(
        "queue_counters",
        "slot",
        type_=sa.SmallInteger(),
        comment="backend pid modulo 64: one row would serialise submits",
    )
    # the version before never lets them go: as a step of no workflow they would wait for ever
    op.execute("UPDATE jobs SET state = 'available', state_at = now() WHERE state = 'blocked' AND workflow_id IS NULL")
    op.drop_index("ix_jobs_unchecked", table_name="jobs")
    op.drop_table("kinds")
