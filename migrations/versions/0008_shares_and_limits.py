"""Tenants' shares, limits on keys, quotas of what waits; the order in which jobs are dispatched has an index by line.

Not for the dispatchers of the version before: they would pass by every limit, and find none of their functions. API and
workers of the version before go on beside new ones; their jobs have no limit keys.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

AVAILABLE = sa.text("state = 'available'")
ARRIVED = sa.text("state = 'available' AND attempt >= 0")
PROMISED = sa.text("state = 'available' AND start_by IS NOT NULL")
LIMITED = sa.text("state IN ('dispatched', 'running') AND limit_keys <> '{}'")
FUNCTIONS = (
    "look_at_queue",
    "dispatch_lines",
    "dispatch_promised",
    "mark_dispatched",
    "note_promise",
    "sweep_lines",
    "limits_of",
    "room_of_keys",
    "waiting_queues",
    "keys_of",
    "units_left",
    "take_units",
    "hold_key",
    "hold_by_run",
    "acquire_units",
    "refuse_run",
    "quota_left",
    "limits_in_use",
    "quota_seconds",
)


def upgrade() -> None:
    for table in ("jobs", "job_history"):
        op.add_column(
            table,
            sa.Column(
                "limit_keys",
                postgresql.ARRAY(sa.Text()),
                server_default=sa.text("'{}'"),
                nullable=False,
                comment="sorted",
            ),
        )
        op.add_column(
            table,
            sa.Column(
                "limit_units",
                postgresql.ARRAY(sa.Integer()),
                server_default=sa.text("'{}'"),
                nullable=False,
                comment="what it takes of each of them; one that is not there is 1",
            ),
        )
    op.create_check_constraint(op.f("jobs_limit_units_are_positive"), "jobs", "0 < ALL (limit_units)")
    op.create_index("ix_jobs_arrived", "jobs", ["queue", "state_at"], postgresql_where=ARRIVED)
    op.create_index(
        "ix_jobs_lines",
        "jobs",
        ["queue", "priority", "tenant_id", "limit_keys", "state_at"],
        postgresql_where=AVAILABLE,
    )
    op.create_index("ix_jobs_promised", "jobs", ["queue", "priority", "start_by"], postgresql_where=PROMISED)
    for name, comment in (("promises_kept", "began before its start_by"), ("promises_broken", "expired")):
        op.add_column(
            "queue_counters",
            sa.Column(name, sa.BigInteger(), server_default=sa.text("0"), nullable=False, comment=comment),
        )
    op.create_index("ix_jobs_limited", "jobs", ["dispatched_at"], postgresql_where=LIMITED)
    op.drop_index("ix_jobs_available", table_name="jobs", postgresql_where=AVAILABLE)

    op.add_column(
        "schedules",
        sa.Column("limit_keys", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
    )
    op.add_column(
        "schedules",
        sa.Column("limit_units", postgresql.ARRAY(sa.Integer()), server_default=sa.text("'{}'"), nullable=False),
    )
    op.add_column(
        "tenants",
        sa.Column(
            "limit_key",
            sa.Text(),
            nullable=True,
            comment="what `tenant` stands for among a job's limit keys",
        ),
    )
    # as domain/limits.py writes any value
    op.execute(
        "UPDATE tenants SET limit_key = left('tenant:' || (SELECT string_agg(CASE "
        "WHEN letter ~ '[A-Za-z0-9:@+=._~-]' THEN letter "
        "ELSE regexp_replace(upper(encode(convert_to(letter, 'UTF8'), 'hex')), '(..)', '%\\1', 'g') END, '') "
        "FROM regexp_split_to_table(name, '') AS letter), 200)"
    )
    op.alter_column("tenants", "limit_key", nullable=False)
    op.add_column(
        "tenants",
        sa.Column(
            "weight",
            sa.Double(),
            server_default=sa.text("1"),
            nullable=False,
            comment="its share of a queue, beside others'",
        ),
    )
    op.create_check_constraint(op.f("tenants_weight_is_positive"), "tenants", "weight > 0")
    op.add_column(
        "api_keys",
        sa.Column(
            "max_priority",
            sa.SmallInteger(),
            server_default=sa.text("9"),
            nullable=False,
            comment="the highest it can ask for",
        ),
    )
    op.create_check_constraint(op.f("api_keys_max_priority_in_range"), "api_keys", "max_priority BETWEEN 0 AND 9")
    op.add_column(
        "api_keys",
        sa.Column(
            "is_operator", sa.Boolean(), server_default=sa.text("false"), nullable=False, comment="may change limits"
        ),
    )

    now = sa.text("clock_timestamp()")
    op.create_table(
        "limits",
        sa.Column(
            "name", sa.Text(), nullable=False, comment="a key, 'provider:openai', or all keys of a name, 'domain:*'"
        ),
        sa.Column("max_concurrent", sa.Integer(), nullable=True, comment="jobs dispatched or running at once"),
        sa.Column(
            "rate_units",
            sa.Double(),
            nullable=True,
            comment="units per rate_seconds; a job takes limit_units of them at its claim",
        ),
        sa.Column("rate_seconds", sa.Double(), nullable=True),
        sa.Column("burst_units", sa.Double(), nullable=True, comment="what a token bucket holds; NULL: rate_units"),
        sa.Column(
            "sliding",
            sa.Boolean(),
            server_default=sa.text("false"),
            nullable=False,
            comment="a sliding window, not a bucket",
        ),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=now, nullable=False),
        sa.Column("updated_by", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_limits")),
        sa.CheckConstraint("max_concurrent >= 0", name=op.f("limits_concurrent_is_not_negative")),
        sa.CheckConstraint("(rate_units IS NULL) = (rate_seconds IS NULL)", name=op.f("limits_rate_has_a_period")),
        sa.CheckConstraint(
            "rate_units > 0 AND rate_seconds > 0 AND burst_units > 0", name=op.f("limits_rate_is_positive")
        ),
        sa.CheckConstraint(
            "rate_units IS NOT NULL OR (burst_units IS NULL AND NOT sliding)", name=op.f("limits_burst_has_a_rate")
        ),
        sa.CheckConstraint("NOT (sliding AND burst_units IS NOT NULL)", name=op.f("limits_window_has_no_burst")),
    )
    op.create_table(
        "limit_states",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("level", sa.Double(), nullable=True, comment="units that the bucket held at level_at"),
        sa.Column("level_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "slices",
            postgresql.ARRAY(sa.Double()),
            nullable=True,
            comment="units taken in each part of the sliding window that ends at slices_at",
        ),
        sa.Column("slices_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("held_until", sa.DateTime(timezone=True), nullable=True, comment="nothing of this key begins before"),
        sa.Column("held_reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_limit_states")),
    )
    op.create_index(
        "ix_limit_states_held_until",
        "limit_states",
        ["held_until"],
        postgresql_where=sa.text("held_until IS NOT NULL"),
    )
    op.create_table(
        "quota_samples",
        sa.Column("tenant_id", sa.UUID(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("old_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("old_finished", sa.BigInteger(), nullable=False, comment="how many jobs had ended then"),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "queue", name=op.f("pk_quota_samples")),
    )
    op.create_table(
        "quotas",
        sa.Column("tenant", sa.Text(), nullable=False, comment="a name, or '*': each tenant that has none of its own"),
        sa.Column("queue", sa.Text(), nullable=False, comment="a name, or '*': each queue that has none of its own"),
        sa.Column("max_waiting", sa.Integer(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=now, nullable=False),
        sa.Column("updated_by", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "queue", name=op.f("pk_quotas")),
        sa.CheckConstraint("max_waiting >= 0", name=op.f("quotas_waiting_is_not_negative")),
    )


def downgrade() -> None:
    op.execute("DROP VIEW IF EXISTS reporting.queues")  # shows the promises
    names = ", ".join(repr(name) for name in FUNCTIONS)
    op.execute(
        "DO $$ DECLARE f regprocedure; BEGIN FOR f IN SELECT p.oid::regprocedure FROM pg_proc p "
        f"JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = current_schema() AND (p.proname IN ({names}) "
        "OR p.proname = 'accept_job' AND p.pronargs = 22 OR p.proname = 'rescue_runs' AND p.pronargs = 4) "
        "LOOP EXECUTE 'DROP FUNCTION ' || f || ' CASCADE'; END LOOP; END $$"
    )
    for table in ("quotas", "quota_samples", "limit_states", "limits"):
        op.drop_table(table)
    op.drop_column("schedules", "limit_units")
    op.drop_column("schedules", "limit_keys")
    op.drop_column("api_keys", "is_operator")
    op.drop_constraint(op.f("api_keys_max_priority_in_range"), "api_keys")
    op.drop_column("api_keys", "max_priority")
    op.drop_constraint(op.f("tenants_weight_is_positive"), "tenants")
    op.drop_column("tenants", "weight")
    op.drop_column("tenants", "limit_key")
    op.create_index(
        "ix_jobs_available", "jobs", ["queue", sa.text("priority DESC"), "state_at"], postgresql_where=AVAILABLE
    )
    op.drop_index("ix_jobs_limited", table_name="jobs", postgresql_where=LIMITED)
    op.drop_column("queue_counters", "promises_broken")
    op.drop_column("queue_counters", "promises_kept")
    op.drop_index("ix_jobs_promised", table_name="jobs", postgresql_where=PROMISED)
    op.drop_index("ix_jobs_lines", table_name="jobs", postgresql_where=AVAILABLE)
    op.drop_index("ix_jobs_arrived", table_name="jobs", postgresql_where=ARRIVED)
    op.drop_constraint(op.f("jobs_limit_units_are_positive"), "jobs")
    for table in ("job_history", "jobs"):
        op.drop_column(table, "limit_units")
        op.drop_column(table, "limit_keys")
