"""Jobs, their runs and events, the counters of queues, and the locks that accepting a job takes."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Double,
    Identity,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSON, JSONB, UUID

from jobplatform.domain.states import FINAL, LIVE
from jobplatform.ledger.tables.columns import metadata, moment, now, one_of


def _job_columns() -> list[Column[Any]]:
    """The columns that a live job and a finished one share, in the order in which they are stored."""
    return [
        Column("id", UUID(as_uuid=True), nullable=False),
        Column("tenant_id", UUID(as_uuid=True), nullable=False),
        Column("queue", Text, nullable=False),
        Column("kind", Text, nullable=False),
        Column("state", Text, nullable=False),
        Column("priority", SmallInteger, nullable=False),
        Column("payload", JSON, nullable=False, comment="the text as sent; jsonb would sort its keys"),
        Column("tags", ARRAY(Text), nullable=False, server_default=text("'{}'")),
        Column("attempt", Integer, nullable=False, server_default=text("0")),
        Column("max_attempts", Integer, nullable=False),
        Column("run_no", Integer, nullable=False, server_default=text("0")),
        Column("dispatch_no", Integer, nullable=False, server_default=text("0")),
        Column("crash_count", Integer, nullable=False, server_default=text("0")),
        Column("crash_limit", Integer, nullable=False),
        Column("lost_count", Integer, nullable=False, server_default=text("0")),
        Column("lost_limit", Integer, nullable=False),
        now("created_at"),
        now("state_at"),
        moment("run_at", nullable=False),
        moment("start_by"),
        moment("dispatched_at"),
        moment("started_at"),
        moment("run_started_at"),
        moment("cancel_requested_at"),
        Column("cancel_reason", Text),
        Column("epoch", UUID(as_uuid=True)),
        Column("worker_id", UUID(as_uuid=True)),
        Column("lease_id", UUID(as_uuid=True)),
        Column("progress", JSONB),
        Column("result", JSON),
        Column("error", JSONB),
        Column("workflow_id", UUID(as_uuid=True)),
        Column("limit_keys", ARRAY(Text), nullable=False, server_default=text("'{}'"), comment="sorted"),
        Column(
            "limit_units",
            ARRAY(Integer),
            nullable=False,
            server_default=text("'{}'"),
            comment="units per limit key; missing ones are 1",
        ),
    ]


queues = Table(
    "queues",
    metadata,
    Column("name", Text, primary_key=True),
    Column("window_min", Integer, nullable=False),
    Column("window_factor", Double, nullable=False),
    moment("paused_at"),
    moment("paused_until", comment="NULL: until it is resumed"),
    now("created_at"),
    CheckConstraint("paused_until IS NULL OR paused_at IS NOT NULL", name="queues_paused_until_is_a_pause"),
    CheckConstraint("window_min > 0 AND window_factor > 0", name="queues_window_is_positive"),
)

kinds = Table(
    "kinds",
    metadata,
    Column("name", Text, primary_key=True),
    Column("queue", Text, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    Column("crash_limit", Integer, nullable=False),
    Column("lost_limit", Integer, nullable=False),
    now("seen_at"),
)


jobs = Table(
    "jobs",
    metadata,
    *_job_columns(),
    moment("reserved_at", comment="position in its flow, kept while its limit keys refuse it"),
    Column("cancel_signal", Text, comment="signal sent to the run's process at once, instead of the grace period"),
    PrimaryKeyConstraint("id"),
    CheckConstraint(one_of("state", LIVE), name="jobs_state_is_live"),
    CheckConstraint("priority BETWEEN 0 AND 9", name="jobs_priority_in_range"),
    CheckConstraint("attempt BETWEEN 0 AND max_attempts", name="jobs_attempt_in_range"),
    CheckConstraint("run_no >= attempt", name="jobs_run_no_covers_attempts"),
    CheckConstraint("(state = 'running') = (lease_id IS NOT NULL)", name="jobs_lease_iff_running"),
    CheckConstraint("(lease_id IS NULL) = (worker_id IS NULL)", name="jobs_lease_names_its_worker"),
    CheckConstraint("state <> 'running' OR run_started_at IS NOT NULL", name="jobs_running_has_started"),
    CheckConstraint(
        "state <> 'dispatched' OR (dispatch_no > 0 AND epoch IS NOT NULL AND dispatched_at IS NOT NULL)",
        name="jobs_dispatched_has_epoch",
    ),
    CheckConstraint("state <> 'dead' OR error IS NOT NULL", name="jobs_dead_has_reason"),
    CheckConstraint("cancel_requested_at IS NULL OR state = 'running'", name="jobs_cancel_request_is_running"),
    CheckConstraint("result IS NULL", name="jobs_live_has_no_result"),
    CheckConstraint("0 < ALL (limit_units)", name="jobs_limit_units_are_positive"),
    # "attempt >= 0" is always true. Only queries that contain it can use this index. Otherwise Postgres may choose it
    # for a query of one flow's jobs (if one tenant has nearly all waiting jobs), and read a million to find one
    Index("ix_jobs_arrived", "queue", "state_at", postgresql_where=text("state = 'available' AND attempt >= 0")),
    Index(
        "ix_jobs_lines",
        "queue",
        "priority",
        "tenant_id",
        "limit_keys",
        "state_at",
        postgresql_where=text("state = 'available'"),
    ),
    Index("ix_jobs_reserved", "queue", postgresql_where=text("state = 'available' AND reserved_at IS NOT NULL")),
    Index("ix_jobs_scheduled", "run_at", postgresql_where=text("state = 'scheduled'")),
    Index("ix_jobs_in_flight", "queue", "dispatched_at", postgresql_where=text("state IN ('dispatched', 'running')")),
    Index(
        "ix_jobs_by_deadline",
        "queue",
        "priority",
        "start_by",
        postgresql_where=text("state = 'available' AND start_by IS NOT NULL"),
    ),
    Index(
        "ix_jobs_limited",
        "dispatched_at",
        postgresql_where=text("state IN ('dispatched', 'running') AND limit_keys <> '{}'"),
    ),
    Index("ix_jobs_running_worker", "worker_id", postgresql_where=text("state = 'running'")),
    Index(
        "ix_jobs_set_aside",
        "tenant_id",
        "queue",
        "state",
        postgresql_where=text("state IN ('blocked', 'scheduled', 'held', 'dead')"),
    ),
    Index("ix_jobs_needs_person", "tenant_id", "id", postgresql_where=text("state IN ('dead', 'held')")),
    Index(
        "ix_jobs_start_by",
        "start_by",
        postgresql_where=text("start_by IS NOT NULL AND state IN ('blocked', 'scheduled', 'available', 'dispatched')"),
    ),
    Index("ix_jobs_tenant", "tenant_id", "id"),
    Index("ix_jobs_unchecked", "id", postgresql_where=text("state = 'blocked' AND workflow_id IS NULL")),
)

job_history = Table(
    "job_history",
    metadata,
    *_job_columns(),
    moment("finished_at", nullable=False),
    PrimaryKeyConstraint("id", "finished_at"),
    CheckConstraint(one_of("state", FINAL), name="job_history_state_is_final"),
    CheckConstraint("lease_id IS NULL AND worker_id IS NULL", name="job_history_has_no_lease"),
    CheckConstraint("state = 'succeeded' OR result IS NULL", name="job_history_result_is_success"),
    Index("ix_job_history_tenant", "tenant_id", "id"),
    # only jobs with tags: others are not indexed
    Index("ix_job_history_tags", "tags", postgresql_using="gin", postgresql_where=text("tags <> '{}'")),
    postgresql_partition_by="RANGE (finished_at)",
)

job_runs = Table(
    "job_runs",
    metadata,
    Column("job_id", UUID(as_uuid=True), nullable=False),
    Column("run_no", Integer, nullable=False),
    Column("tenant_id", UUID(as_uuid=True), nullable=False),
    Column("queue", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("lease_id", UUID(as_uuid=True), nullable=False),
    Column("worker_id", UUID(as_uuid=True), nullable=False),
    moment("dispatched_at"),
    moment("started_at", nullable=False),
    moment("finished_at", nullable=False),
    Column("error", JSONB),
    Column("usage", JSONB, comment="resource usage reported by the kind: tokens, bytes, peak memory"),
    PrimaryKeyConstraint("job_id", "run_no", "finished_at"),
    CheckConstraint(
        one_of(
            "outcome",
            ("succeeded", "failed", "timed_out", "snoozed", "released", "held", "crashed", "lost", "cancelled"),
        ),
        name="job_runs_outcome_is_known",
    ),
    CheckConstraint("finished_at >= started_at", name="job_runs_end_after_start"),
    # runs are written in the order of their end: an index of some kB per partition finds any hour (views of reporting)
    Index(
        "ix_job_runs_finished_at",
        "finished_at",
        postgresql_using="brin",
        postgresql_with={"autosummarize": "on", "pages_per_range": 32},
    ),
    postgresql_partition_by="RANGE (finished_at)",
)

job_events = Table(
    "job_events",
    metadata,
    Column("id", BigInteger, Identity(always=True), nullable=False),
    Column("job_id", UUID(as_uuid=True), nullable=False),
    Column("tenant_id", UUID(as_uuid=True), nullable=False),
    now("at"),
    Column("event", Text, nullable=False),
    Column("state", Text, nullable=False, comment="the state after it"),
    Column("run_no", Integer, nullable=False),
    Column("data", JSONB),
    Column(
        "tx",
        BigInteger,
        server_default=text("(pg_current_xact_id())::text::bigint"),
        comment="transaction id, the order of feeds (read_feed)",
    ),
    PrimaryKeyConstraint("job_id", "id", "at"),
    Index("ix_job_events_feed", "tenant_id", "tx", "id"),
    postgresql_partition_by="RANGE (at)",
)

queue_counters = Table(
    "queue_counters",
    metadata,
    Column("tenant_id", UUID(as_uuid=True), nullable=False),
    Column("queue", Text, nullable=False),
    Column(
        "slot",
        Integer,
        nullable=False,
        comment="backend pid modulo 64, as one row would serialise submissions; negative: of one transaction",
    ),
    Column("accepted", BigInteger, nullable=False, server_default=text("0")),
    Column("finished", BigInteger, nullable=False, server_default=text("0")),
    Column(
        "deadlines_met",
        BigInteger,
        nullable=False,
        server_default=text("0"),
        comment="jobs that began before their start_by",
    ),
    Column("deadlines_missed", BigInteger, nullable=False, server_default=text("0"), comment="jobs that expired"),
    PrimaryKeyConstraint("tenant_id", "queue", "slot"),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("tenant_id", UUID(as_uuid=True), nullable=False),
    Column("key", Text, nullable=False),
    Column("request_hash", LargeBinary, nullable=False),
    Column("job_id", UUID(as_uuid=True), nullable=False, comment="id of the job, workflow or batch"),
    now("created_at"),
    moment("expires_at", nullable=False),
    Column("answer", JSONB, comment="of a batch: outcome of each submission"),
    PrimaryKeyConstraint("tenant_id", "key"),
    Index("ix_idempotency_keys_expires_at", "expires_at"),
)

unique_locks = Table(
    "unique_locks",
    metadata,
    Column("tenant_id", UUID(as_uuid=True), nullable=False),
    Column("key", Text, nullable=False),
    Column("job_id", UUID(as_uuid=True), nullable=False),
    moment("expires_at", comment="NULL: while the job is live"),
    PrimaryKeyConstraint("tenant_id", "key"),
    Index("ix_unique_locks_job_id", "job_id"),
)
