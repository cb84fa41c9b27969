"""Create the ledger: tenants, keys, live jobs, history, runs, events, counters, locks, workers, queues, artifacts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

PARTITIONED = ("job_history", "job_runs", "job_events")

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "artifacts",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("tenant_id", sa.UUID(), nullable=False),
        sa.Column("job_id", sa.UUID(), nullable=True, comment="NULL: an upload"),
        sa.Column("run_no", sa.Integer(), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("content_type", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("location", sa.Text(), nullable=False, comment="key below JOBPLATFORM_ARTIFACT_URL"),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint("(job_id IS NULL) = (run_no IS NULL)", name=op.f("artifacts_of_a_job_name_its_run")),
        sa.CheckConstraint("size >= 0", name=op.f("artifacts_size_is_not_negative")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_artifacts")),
    )
    op.create_index("ix_artifacts_job_id", "artifacts", ["job_id"], unique=False)
    op.create_table(
        "broker_epochs",
        sa.Column("epoch", sa.UUID(), nullable=False),
        sa.Column("current", sa.Boolean(), nullable=False),
        sa.Column(
            "declared_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("epoch", name=op.f("pk_broker_epochs")),
    )
    op.create_index(
        "uq_broker_epochs_current",
        "broker_epochs",
        ["current"],
        unique=True,
        postgresql_where=sa.text("current"),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("tenant_id", sa.UUID(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("request_hash", sa.LargeBinary(), nullable=False),
        sa.Column("job_id", sa.UUID(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "key", name=op.f("pk_idempotency_keys")),
    )
    op.create_index("ix_idempotency_keys_expires_at", "idempotency_keys", ["expires_at"], unique=False)
    op.create_table(
        "job_events",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("job_id", sa.UUID(), nullable=False),
        sa.Column("tenant_id", sa.UUID(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False, comment="the state after it"),
        sa.Column("run_no", sa.Integer(), nullable=False),
        sa.Column("data", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.PrimaryKeyConstraint("id", "at", name=op.f("pk_job_events")),
        postgresql_partition_by="RANGE (at)",
    )
    op.create_index("ix_job_events_job", "job_events", ["job_id", "id"], unique=False)
    op.create_table(
        "job_history",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("tenant_id", sa.UUID(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("payload", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("tags", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("attempt", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        sa.Column("run_no", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("dispatch_no", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("crash_count", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("crash_limit", sa.Integer(), nullable=False),
        sa.Column("lost_count", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("lost_limit", sa.Integer(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column(
            "state_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("run_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("start_by", sa.DateTime(timezone=True), nullable=True),
        sa.Column("dispatched_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("run_started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cancel_requested_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cancel_reason", sa.Text(), nullable=True),
        sa.Column("epoch", sa.UUID(), nullable=True),
        sa.Column("worker_id", sa.UUID(), nullable=True),
        sa.Column("lease_id", sa.UUID(), nullable=True),
        sa.Column("progress", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("result", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("error", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("state = 'succeeded' OR result IS NULL", name=op.f("job_history_result_is_success")),
        sa.CheckConstraint(
            "state IN ('cancelled', 'discarded', 'expired', 'succeeded')",
            name=op.f("job_history_state_is_final"),
        ),
        sa.CheckConstraint("lease_id IS NULL AND worker_id IS NULL", name=op.f("job_history_has_no_lease")),
        sa.PrimaryKeyConstraint("id", "finished_at", name=op.f("pk_job_history")),
        postgresql_partition_by="RANGE (finished_at)",
    )
    op.create_index("ix_job_history_tenant", "job_history", ["tenant_id", "id"], unique=False)
    op.create_table(
        "job_runs",
        sa.Column("job_id", sa.UUID(), nullable=False),
        sa.Column("run_no", sa.Integer(), nullable=False),
        sa.Column("tenant_id", sa.UUID(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("lease_id", sa.UUID(), nullable=False),
        sa.Column("worker_id", sa.UUID(), nullable=False),
        sa.Column("dispatched_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("error", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column(
            "usage",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="what the run used: tokens, bytes, peak memory, as the kind reports it",
        ),
        sa.CheckConstraint(
            "outcome IN ('cancelled', 'crashed', 'failed', 'lost', 'released', 'snoozed', 'succeeded', 'timed_out')",
            name=op.f("job_runs_outcome_is_known"),
        ),
        sa.CheckConstraint("finished_at >= started_at", name=op.f("job_runs_end_after_start")),
        sa.PrimaryKeyConstraint("job_id", "run_no", "finished_at", name=op.f("pk_job_runs")),
        postgresql_partition_by="RANGE (finished_at)",
    )
    op.create_index("ix_job_runs_lease", "job_runs", ["lease_id"], unique=False)
    op.create_table(
        "jobs",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("tenant_id", sa.UUID(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("payload", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("tags", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("attempt", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        sa.Column("run_no", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("dispatch_no", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("crash_count", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("crash_limit", sa.Integer(), nullable=False),
        sa.Column("lost_count", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("lost_limit", sa.Integer(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column(
            "state_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("run_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("start_by", sa.DateTime(timezone=True), nullable=True),
        sa.Column("dispatched_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("run_started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cancel_requested_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cancel_reason", sa.Text(), nullable=True),
        sa.Column("epoch", sa.UUID(), nullable=True),
        sa.Column("worker_id", sa.UUID(), nullable=True),
        sa.Column("lease_id", sa.UUID(), nullable=True),
        sa.Column("progress", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("result", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("error", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.CheckConstraint("(state = 'running') = (lease_id IS NOT NULL)", name=op.f("jobs_lease_iff_running")),
        sa.CheckConstraint(
            "cancel_requested_at IS NULL OR state = 'running'", name=op.f("jobs_cancel_request_is_running")
        ),
        sa.CheckConstraint("state <> 'dead' OR error IS NOT NULL", name=op.f("jobs_dead_has_reason")),
        sa.CheckConstraint(
            "state <> 'dispatched' OR (dispatch_no > 0 AND epoch IS NOT NULL AND dispatched_at IS NOT NULL)",
            name=op.f("jobs_dispatched_has_epoch"),
        ),
        sa.CheckConstraint("state <> 'running' OR run_started_at IS NOT NULL", name=op.f("jobs_running_has_started")),
        sa.CheckConstraint(
            "state IN ('available', 'blocked', 'dead', 'dispatched', 'held', 'running', 'scheduled')",
            name=op.f("jobs_state_is_live"),
        ),
        sa.CheckConstraint("(lease_id IS NULL) = (worker_id IS NULL)", name=op.f("jobs_lease_names_its_worker")),
        sa.CheckConstraint("attempt BETWEEN 0 AND max_attempts", name=op.f("jobs_attempt_in_range")),
        sa.CheckConstraint("priority BETWEEN 0 AND 9", name=op.f("jobs_priority_in_range")),
        sa.CheckConstraint("result IS NULL", name=op.f("jobs_live_has_no_result")),
        sa.CheckConstraint("run_no >= attempt", name=op.f("jobs_run_no_covers_attempts")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
    )
    op.create_index(
        "ix_jobs_active",
        "jobs",
        ["queue", "priority"],
        unique=False,
        postgresql_where=sa.text("state IN ('dispatched', 'running')"),
    )
    op.create_index(
        "ix_jobs_available",
        "jobs",
        ["queue", sa.literal_column("priority DESC"), "state_at"],
        unique=False,
        postgresql_where=sa.text("state = 'available'"),
    )
    op.create_index(
        "ix_jobs_needs_person",
        "jobs",
        ["tenant_id", "id"],
        unique=False,
        postgresql_where=sa.text("state IN ('dead', 'held')"),
    )
    op.create_index(
        "ix_jobs_running_worker",
        "jobs",
        ["worker_id"],
        unique=False,
        postgresql_where=sa.text("state = 'running'"),
    )
    op.create_index(
        "ix_jobs_scheduled", "jobs", ["run_at"], unique=False, postgresql_where=sa.text("state = 'scheduled'")
    )
    op.create_index(
        "ix_jobs_start_by",
        "jobs",
        ["start_by"],
        unique=False,
        postgresql_where=sa.text(
            "start_by IS NOT NULL AND state IN ('blocked', 'scheduled', 'available', 'dispatched')"
        ),
    )
    op.create_index("ix_jobs_tenant", "jobs", ["tenant_id", "id"], unique=False)
    op.create_table(
        "queue_counters",
        sa.Column("tenant_id", sa.UUID(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column(
            "slot",
            sa.SmallInteger(),
            nullable=False,
            comment="backend pid modulo 64: one row would serialise submits",
        ),
        sa.Column("accepted", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("finished", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "queue", "slot", name=op.f("pk_queue_counters")),
    )
    op.create_table(
        "queues",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("window_min", sa.Integer(), nullable=False),
        sa.Column("window_factor", sa.Double(), nullable=False),
        sa.Column("paused_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint("window_min > 0 AND window_factor > 0", name=op.f("queues_window_is_positive")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_queues")),
    )
    op.create_table(
        "tenants",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tenants")),
        sa.UniqueConstraint("name", name=op.f("uq_tenants_name")),
    )
    op.create_table(
        "unique_locks",
        sa.Column("tenant_id", sa.UUID(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("job_id", sa.UUID(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True, comment="NULL: while the job is live"),
        sa.PrimaryKeyConstraint("tenant_id", "key", name=op.f("pk_unique_locks")),
    )
    op.create_index("ix_unique_locks_job_id", "unique_locks", ["job_id"], unique=False)
    op.create_table(
        "workers",
        sa.Column("id", sa.UUID(), nullable=False, comment="one per process, not its node name"),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("pool", sa.Text(), nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("queues", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("kinds", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column(
            "started_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("beat_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("holding", postgresql.ARRAY(sa.UUID()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("previous_beat_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("previous_holding", postgresql.ARRAY(sa.UUID()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("stopped_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workers")),
    )
    op.create_index("ix_workers_beat_at", "workers", ["beat_at"], unique=False)
    op.create_table(
        "api_keys",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("tenant_id", sa.UUID(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("prefix", sa.Text(), nullable=False, comment="the first characters, to recognise a key by"),
        sa.Column(
            "key_hash",
            sa.LargeBinary(),
            nullable=False,
            comment="SHA-256 of the key; keys are 256 random bits",
        ),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_api_keys_tenant_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("key_hash", name=op.f("uq_api_keys_key_hash")),
    )

    for table in PARTITIONED:
        # the safety net: a row whose partition is missing is kept, and found, here
        op.execute(f"CREATE TABLE {table}_default PARTITION OF {table} DEFAULT")
    # every job passes through this small table with a handful of updates: vacuum it early and without pauses
    op.execute(
        "ALTER TABLE jobs SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, "
        "autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0.05)"
    )
    op.execute("ALTER TABLE queue_counters SET (fillfactor = 20, autovacuum_vacuum_threshold = 500)")
    op.execute("ALTER TABLE workers SET (fillfactor = 50)")


def downgrade() -> None:
    op.execute("DROP SCHEMA IF EXISTS reporting CASCADE")
    op.execute(
        "DO $$ DECLARE f regprocedure; BEGIN FOR f IN SELECT p.oid::regprocedure FROM pg_proc p "
        "JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = current_schema() AND p.proname IN "
        "('note_event', 'finish_job', 'claim_job', 'settle_run', 'cancel_job', 'return_job', 'beat_worker', "
        "'rescue_runs', 'make_due', 'expire_jobs', 'return_other_epochs', 'ensure_partitions') "
        "LOOP EXECUTE 'DROP FUNCTION ' || f || ' CASCADE'; END LOOP; END $$"
    )
    op.drop_table("api_keys")
    op.drop_index("ix_workers_beat_at", table_name="workers")
    op.drop_table("workers")
    op.drop_index("ix_unique_locks_job_id", table_name="unique_locks")
    op.drop_table("unique_locks")
    op.drop_table("tenants")
    op.drop_table("queues")
    op.drop_table("queue_counters")
    op.drop_index("ix_jobs_tenant", table_name="jobs")
    op.drop_index(
        "ix_jobs_start_by",
        table_name="jobs",
        postgresql_where=sa.text(
            "start_by IS NOT NULL AND state IN ('blocked', 'scheduled', 'available', 'dispatched')"
        ),
    )
    op.drop_index("ix_jobs_scheduled", table_name="jobs", postgresql_where=sa.text("state = 'scheduled'"))
    op.drop_index("ix_jobs_running_worker", table_name="jobs", postgresql_where=sa.text("state = 'running'"))
    op.drop_index("ix_jobs_needs_person", table_name="jobs", postgresql_where=sa.text("state IN ('dead', 'held')"))
    op.drop_index("ix_jobs_available", table_name="jobs", postgresql_where=sa.text("state = 'available'"))
    op.drop_index("ix_jobs_active", table_name="jobs", postgresql_where=sa.text("state IN ('dispatched', 'running')"))
    op.drop_table("jobs")
    op.drop_index("ix_job_runs_lease", table_name="job_runs")
    op.drop_table("job_runs")
    op.drop_index("ix_job_history_tenant", table_name="job_history")
    op.drop_table("job_history")
    op.drop_index("ix_job_events_job", table_name="job_events")
    op.drop_table("job_events")
    op.drop_index("ix_idempotency_keys_expires_at", table_name="idempotency_keys")
    op.drop_table("idempotency_keys")
    op.drop_index("uq_broker_epochs_current", table_name="broker_epochs", postgresql_where=sa.text("current"))
    op.drop_table("broker_epochs")
    op.drop_index("ix_artifacts_job_id", table_name="artifacts")
    op.drop_table("artifacts")
