"""The tables of webhooks (docs/concepts/webhooks.md). See `tables`."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, UUID

from jobplatform.ledger.tables.columns import metadata, moment, now

webhook_endpoints = Table(
    "webhook_endpoints",
    metadata,
    Column("id", UUID(as_uuid=True), primary_key=True),
    Column("tenant_id", UUID(as_uuid=True), ForeignKey("tenants.id"), nullable=False),
    Column("url", Text, nullable=False),
    Column("description", Text, nullable=False, server_default=text("''")),
    Column("events", ARRAY(Text), nullable=False, comment="types of messages"),
    Column("kinds", ARRAY(Text), comment="kinds of jobs, or patterns of them; NULL: all"),
    Column("contact", Text, comment="e-mail address to notify when it is disabled"),
    Column("secret", Text, nullable=False, comment="secret that signs messages"),
    Column("old_secret", Text, comment="also signs, until old_secret_until"),
    moment("old_secret_until"),
    Column("cursor_tx", BigInteger, nullable=False, comment="position in the feed: earlier events have their messages"),
    Column("cursor_id", BigInteger, nullable=False),
    moment("cursor_at", nullable=False, comment="lower bound of the partitions to read"),
    Column("replay_tx", BigInteger, nullable=False, server_default=text("0"), comment="end of the replay"),
    Column("replay_event_id", BigInteger, nullable=False, server_default=text("0")),
    moment("replay_from_at", comment="lower bound of a replay"),
    Column(
        "replay_everything",
        Boolean,
        nullable=False,
        server_default=text("false"),
        comment="replay delivered events, too",
    ),
    now("created_at"),
    Column("created_by", Text, nullable=False),
    moment("delivered_at", comment="last success, to a minute"),
    moment("failing_since", comment="first failure since the last success"),
    Column("last_error", Text, comment="message of the last failure"),
    moment("disabled_at"),
    Column("disabled_reason", Text),
    CheckConstraint("(old_secret IS NULL) = (old_secret_until IS NULL)", name="webhook_endpoints_old_secret_ends"),
    CheckConstraint(
        "(disabled_at IS NULL) = (disabled_reason IS NULL)", name="webhook_endpoints_disabled_has_its_reason"
    ),
    Index("ix_webhook_endpoints_tenant", "tenant_id", "id"),
)

webhook_messages = Table(
    "webhook_messages",
    metadata,
    Column("id", UUID(as_uuid=True), nullable=False, comment="webhook-id"),
    Column("endpoint_id", UUID(as_uuid=True), nullable=False),
    Column("event_id", BigInteger, comment="id in job_events; NULL: a test message"),
    Column("type", Text, nullable=False),
    Column("about", UUID(as_uuid=True), comment="the job of the event"),
    Column("job_id", UUID(as_uuid=True), nullable=False, comment="its last delivery job"),
    Column("replays", Integer, nullable=False, server_default=text("0")),
    now("created_at"),
    PrimaryKeyConstraint("endpoint_id", "id"),
    Index(
        "uq_webhook_messages_event",
        "endpoint_id",
        "event_id",
        unique=True,
        postgresql_where=text("event_id IS NOT NULL"),
    ),
    Index("ix_webhook_messages_at", "created_at"),
)
