"""Payloads as they were sent (json keeps the order of keys and -0.0), cancels that name a signal, locks that are rows.

Rewrites `jobs`, `job_history`, `schedules` and `schedule_fires`, and nothing else can use them meanwhile: with millions
of ended jobs plan some minutes, and stop API, dispatchers and workers for it.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

#: table → the columns that hold what a caller or a handler has sent
COLUMNS = {
    "jobs": ("payload", "result"),
    "job_history": ("payload", "result"),
    "schedules": ("payload",),
    "schedule_fires": ("payload",),
}
#: functions whose parameters or results have another type: the other form must not stay beside the new one
FUNCTIONS = (
    *(
        "accept_batch",
        "accept_job",
        "accept_jobs",
        "add_steps",
        "beat_worker",
        "cancel_job",
        "chord_has_begun",
        "chord_is_told",
    ),
    *("claim_run", "create_workflow", "find_job", "fire_schedules", "insert_fired", "insert_steps", "order_job"),
    *("resolve_references", "settle_run", "step_value", "take_lock", "try_locks", "make_locks"),
    *(
        "drop_partition",
        "rebase_feed",
        "cluster_identity",
        "last_event_tx",
        "feed_is_ahead",
        "read_feed",
        "is_writable",
    ),
)


def drop_functions() -> None:
    """Drop these functions, whatever their parameters: the version that follows makes its own."""
    names = ", ".join(repr(name) for name in FUNCTIONS)
    op.execute(
        "DO $$ DECLARE f regprocedure; BEGIN FOR f IN SELECT p.oid::regprocedure FROM pg_proc p "
        "JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = current_schema() "
        f"AND p.proname IN ({names}) LOOP EXECUTE 'DROP FUNCTION ' || f || ' CASCADE'; END LOOP; END $$"
    )


def change_types(wanted: str) -> None:
    """Give the columns a type, all of a table in one rewrite."""
    op.execute("DROP VIEW IF EXISTS reporting.dead_letters")
    for table, columns in COLUMNS.items():
        changes = ", ".join(f"ALTER COLUMN {name} TYPE {wanted} USING {name}::{wanted}" for name in columns)
        op.execute(f"ALTER TABLE {table} {changes}")


def upgrade() -> None:
    drop_functions()
    change_types("json")
    for table in ("jobs", "job_history"):
        op.execute(f"COMMENT ON COLUMN {table}.payload IS 'the text as it was sent: jsonb would sort its keys'")
    op.add_column(
        "jobs",
        sa.Column("cancel_signal", sa.Text(), comment="sent to the run's process at once, in place of the grace"),
    )

    op.create_table(
        "installation",
        sa.Column("singleton", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("cluster", sa.Text(), nullable=True, comment="of Postgres, whose transactions the feeds count"),
        sa.Column("feed_offset", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("max_body_bytes", sa.Integer(), server_default=sa.text("1048576"), nullable=False),
        sa.Column("idempotency_seconds", sa.Integer(), server_default=sa.text("86400"), nullable=False),
        sa.PrimaryKeyConstraint("singleton", name=op.f("pk_installation")),
        sa.CheckConstraint("singleton", name="installation_is_one_row"),
    )
    op.execute("INSERT INTO installation DEFAULT VALUES")
    op.add_column(
        "workers",
        sa.Column(
            "draining_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="when it was asked to end: it takes no more jobs, and finishes those it has",
        ),
    )
    op.create_index(
        "ix_jobs_set_aside",
        "jobs",
        ["tenant_id", "queue", "state"],
        postgresql_where=sa.text("state IN ('blocked', 'scheduled', 'held', 'dead')"),
    )
    # runs are written in the order of their end: some kB per partition find any hour (the views of reporting)
    op.create_index(
        "ix_job_runs_finished_at",
        "job_runs",
        ["finished_at"],
        postgresql_using="brin",
        postgresql_with={"autosummarize": "on", "pages_per_range": 32},
    )
    # only where there are tags: jobs without any pay nothing for it
    op.create_index(
        "ix_job_history_tags",
        "job_history",
        ["tags"],
        postgresql_using="gin",
        postgresql_where=sa.text("tags <> '{}'"),
    )
    op.create_table(
        "locks",
        sa.Column("name", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_locks")),
        prefixes=["UNLOGGED"],
        comment="locks by name, held by transactions (take_lock, try_locks)",
    )


def downgrade() -> None:
    drop_functions()
    op.execute("ALTER TABLE job_events ALTER COLUMN tx SET DEFAULT (pg_current_xact_id())::text::bigint")
    op.drop_index("ix_job_history_tags", table_name="job_history")
    op.drop_index("ix_job_runs_finished_at", table_name="job_runs")
    op.drop_index("ix_jobs_set_aside", table_name="jobs")
    op.drop_column("workers", "draining_at")
    op.drop_table("installation")
    op.drop_table("locks")
    op.drop_column("jobs", "cancel_signal")
    change_types("jsonb")
    for table in ("jobs", "job_history"):
        op.execute(f"COMMENT ON COLUMN {table}.payload IS NULL")
