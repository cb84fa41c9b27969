"""The tables of delivery: workers and dispatchers, lost and dead messages, replays, effects. See `tables`."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
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
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID

from jobplatform.ledger.tables.columns import metadata, moment, now, one_of

workers = Table(
    "workers",
    metadata,
    Column("id", UUID(as_uuid=True), primary_key=True, comment="one per process; not the node name"),
    Column("node", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("pool", Text, nullable=False),
    Column("slots", Integer, nullable=False),
    Column("queues", ARRAY(Text), nullable=False),
    Column("kinds", ARRAY(Text), nullable=False),
    now("started_at"),
    now("heartbeat_at"),
    Column("leases", ARRAY(UUID(as_uuid=True)), nullable=False, server_default=text("'{}'")),
    Column(
        "waiting",
        ARRAY(UUID(as_uuid=True)),
        nullable=False,
        server_default=text("'{}'"),
        comment="jobs whose message it has received and whose run has not begun",
    ),
    moment("previous_heartbeat_at"),
    Column("previous_leases", ARRAY(UUID(as_uuid=True)), nullable=False, server_default=text("'{}'")),
    moment("stopped_at"),
    Column("session_pid", Integer, comment="pid of the Postgres session that wrote the last heartbeat"),
    moment("draining_at", comment="start of its shutdown: it takes no more jobs, and finishes its runs"),
    Index("ix_workers_heartbeat_at", "heartbeat_at"),
)

dispatchers = Table(
    "dispatchers",
    metadata,
    Column("id", UUID(as_uuid=True), primary_key=True, comment="one per process"),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    now("started_at"),
    now("heartbeat_at"),
    Column("broker_error", Text, comment="error of RabbitMQ; NULL: none"),
    moment("broker_error_at", comment="start of the error"),
)

broker_epochs = Table(
    "broker_epochs",
    metadata,
    Column("epoch", UUID(as_uuid=True), primary_key=True),
    Column("current", Boolean, nullable=False),
    now("declared_at"),
    Index("uq_broker_epochs_current", "current", unique=True, postgresql_where=text("current")),
)

installation = Table(
    "installation",
    metadata,
    Column("singleton", Boolean, primary_key=True, server_default=text("true")),
    Column("cluster", Text, comment="system identifier of Postgres, whose transaction ids order the feeds"),
    Column("feed_offset", BigInteger, nullable=False, server_default=text("0")),
    # settings that the ledger's own functions read, as recorded by a dispatcher
    Column("max_body_bytes", Integer, nullable=False, server_default=text("1048576")),
    Column("idempotency_seconds", Integer, nullable=False, server_default=text("86400")),
    CheckConstraint("singleton", name="installation_is_one_row"),
)

locks = Table(
    "locks",
    metadata,
    Column("name", Text, primary_key=True),
    prefixes=["UNLOGGED"],
    comment="locks by name, held by transactions (take_lock, try_locks)",
)

dead_messages = Table(
    "dead_messages",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    now("at"),
    Column("queue", Text, comment="its queue, according to RabbitMQ"),
    Column("reason", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("job_id", UUID(as_uuid=True)),
    Column("dispatch_no", Integer),
    Column("kind", Text),
    Column("message", JSONB, nullable=False, comment="headers, properties and x-death, truncated"),
    Column("body", LargeBinary, nullable=False, comment="first bytes of the body"),
    Column("body_bytes", BigInteger, nullable=False),
    CheckConstraint(
        one_of("reason", ("malformed", "no_job", "refused", "stale")), name="dead_messages_reason_is_known"
    ),
    Index("ix_dead_messages_at", "at"),
    Index("ix_dead_messages_job_id", "job_id", postgresql_where=text("job_id IS NOT NULL")),
)

replays = Table(
    "replays",
    metadata,
    Column("id", UUID(as_uuid=True), primary_key=True),
    Column("tenant_id", UUID(as_uuid=True), nullable=False),
    now("created_at"),
    Column("created_by", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("filter", JSONB, nullable=False),
    Column("chosen", Integer, nullable=False, comment="number of replayed dead letters"),
    Column("rate_per_second", Double, comment="NULL: all at once"),
    Column("stop_after", Integer, comment="stops after this many repeated failures; NULL: never"),
    Column("died_again", Integer, nullable=False, server_default=text("0")),
    Column("stopped", Integer, nullable=False, server_default=text("0"), comment="returned without a run"),
    moment("ended_at"),
    CheckConstraint("state IN ('running', 'done', 'stopped')", name="replays_state_is_known"),
    CheckConstraint("(state = 'running') = (ended_at IS NULL)", name="replays_ended_has_its_time"),
    Index("ix_replays_running", "created_at", postgresql_where=text("state = 'running'")),
    Index("ix_replays_tenant", "tenant_id", "created_at"),
)

replay_jobs = Table(
    "replay_jobs",
    metadata,
    Column("replay_id", UUID(as_uuid=True), nullable=False),
    Column("job_id", UUID(as_uuid=True), nullable=False),
    Column("run_no", Integer, nullable=False, comment="the previous run"),
    PrimaryKeyConstraint("replay_id", "job_id"),
)

queue_markers = Table(
    "queue_markers",
    metadata,
    Column("id", UUID(as_uuid=True), primary_key=True),
    Column("queue", Text, nullable=False),
    Column("priority", SmallInteger, nullable=False),
    now("sent_at"),
    moment("seen_at", comment="time at which a worker received it"),
    Column("used", Boolean, nullable=False, server_default=text("false"), comment="its evidence was used"),
    Index("ix_queue_markers_queue", "queue", "priority", "sent_at"),
)

effects = Table(
    "effects",
    metadata,
    Column("job_id", UUID(as_uuid=True), nullable=False),
    Column("key", Text, nullable=False),
    Column("tenant_id", UUID(as_uuid=True), nullable=False),
    Column("state", Text, nullable=False),
    Column("run_no", Integer, nullable=False, comment="last run that recorded the intent"),
    Column(
        "token", UUID(as_uuid=True), nullable=False, comment="token of the intent: a retried write is recognised by it"
    ),
    Column("receipt", JSONB, comment="response of the other system"),
    now("intended_at"),
    moment("done_at"),
    PrimaryKeyConstraint("job_id", "key"),
    CheckConstraint("state IN ('intended', 'done', 'skipped')", name="effects_state_is_known"),
    CheckConstraint("(state = 'intended') = (done_at IS NULL)", name="effects_done_has_its_time"),
    Index("ix_effects_intended_at", "intended_at"),
)
