"""The tables of limits and quotas (docs/concepts/limits.md). See `tables`."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, UUID

from jobplatform.ledger.tables.columns import metadata, moment, now

limits = Table(
    "limits",
    metadata,
    Column("name", Text, primary_key=True, comment="a key ('provider:openai'), or a prefix ('domain:*')"),
    Column("max_concurrent", Integer, comment="jobs dispatched or running at once"),
    Column("rate_units", Double, comment="units per rate_seconds; a job takes limit_units of them at its claim"),
    Column("rate_seconds", Double),
    Column("burst_units", Double, comment="capacity of the token bucket; NULL: rate_units"),
    Column(
        "sliding",
        Boolean,
        nullable=False,
        server_default=text("false"),
        comment="sliding window instead of a token bucket",
    ),
    now("updated_at"),
    Column("updated_by", Text, nullable=False),
    CheckConstraint("max_concurrent >= 0", name="limits_concurrent_is_not_negative"),
    CheckConstraint("(rate_units IS NULL) = (rate_seconds IS NULL)", name="limits_rate_has_a_period"),
    CheckConstraint("rate_units > 0 AND rate_seconds > 0 AND burst_units > 0", name="limits_rate_is_positive"),
    CheckConstraint("rate_units IS NOT NULL OR (burst_units IS NULL AND NOT sliding)", name="limits_burst_has_a_rate"),
    CheckConstraint("NOT (sliding AND burst_units IS NOT NULL)", name="limits_window_has_no_burst"),
)

limit_states = Table(
    "limit_states",
    metadata,
    Column("key", Text, primary_key=True),
    Column("level", Double, comment="units in the bucket at level_at"),
    moment("level_at"),
    Column("slices", ARRAY(Double), comment="units taken in each part of the sliding window that ends at slices_at"),
    moment("slices_at"),
    moment("paused_until", comment="no run with this key starts before this time"),
    Column("paused_reason", Text),
    Column("reserved_for", UUID(as_uuid=True), comment="the refused job that has precedence"),
    Column("reserved_units", Double),
    moment("reserved_until"),
    Index("ix_limit_states_paused_until", "paused_until", postgresql_where=text("paused_until IS NOT NULL")),
)

quota_samples = Table(
    "quota_samples",
    metadata,
    Column("tenant_id", UUID(as_uuid=True), nullable=False),
    Column("queue", Text, nullable=False),
    moment("old_at", nullable=False),
    Column("old_finished", BigInteger, nullable=False, comment="number of ended jobs at that time"),
    moment("at", nullable=False),
    Column("finished", BigInteger, nullable=False),
    PrimaryKeyConstraint("tenant_id", "queue"),
)

quotas = Table(
    "quotas",
    metadata,
    Column("tenant", Text, nullable=False, comment="a tenant, or '*': every tenant without its own quota"),
    Column("queue", Text, nullable=False, comment="a queue, or '*': every queue without its own quota"),
    Column("max_waiting", Integer, nullable=False),
    now("updated_at"),
    Column("updated_by", Text, nullable=False),
    PrimaryKeyConstraint("tenant", "queue"),
    CheckConstraint("max_waiting >= 0", name="quotas_waiting_is_not_negative"),
)
