"""Tenants, API keys and their rates, and the audit log."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, UUID

from jobplatform.ledger.tables.columns import metadata, moment, now

tenants = Table(
    "tenants",
    metadata,
    Column("id", UUID(as_uuid=True), primary_key=True),
    Column("name", Text, nullable=False),
    Column("limit_key", Text, nullable=False, comment="value of the placeholder `tenant` in limit keys"),
    Column(
        "weight",
        Double,
        nullable=False,
        server_default=text("1"),
        comment="share of every queue relative to other tenants",
    ),
    now("created_at"),
    UniqueConstraint("name"),
    CheckConstraint("weight > 0", name="tenants_weight_is_positive"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", UUID(as_uuid=True), primary_key=True),
    Column("tenant_id", UUID(as_uuid=True), ForeignKey("tenants.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("prefix", Text, nullable=False, comment="first characters, to recognise a key"),
    Column("key_hash", LargeBinary, nullable=False, comment="SHA-256 of the key; keys are 256 random bits"),
    now("created_at"),
    moment("revoked_at"),
    Column(
        "max_priority",
        SmallInteger,
        nullable=False,
        server_default=text("9"),
        comment="highest priority it may submit with",
    ),
    Column(
        "is_operator",
        Boolean,
        nullable=False,
        server_default=text("false"),
        comment="operator: may change limits, weights and quotas",
    ),
    Column("scopes", ARRAY(Text), nullable=False, server_default=text("'{jobs:submit,jobs:read,jobs:control}'")),
    Column("kinds", ARRAY(Text), comment="kinds that it may submit, or patterns of them; NULL: all"),
    Column("requests_per_minute", Integer, comment="NULL: no limit"),
    moment("expires_at"),
    moment("last_used_at", comment="accurate to a minute"),
    Column("created_by", Text, nullable=False, server_default=text("''")),
    Column("replaces", UUID(as_uuid=True), comment="the key that it replaces"),
    UniqueConstraint("key_hash"),
    CheckConstraint("max_priority BETWEEN 0 AND 9", name="api_keys_max_priority_in_range"),
    CheckConstraint("requests_per_minute > 0", name="api_keys_rate_is_positive"),
    Index("ix_api_keys_tenant", "tenant_id", "id"),
)

key_rates = Table(
    "key_rates",
    metadata,
    Column("key_id", UUID(as_uuid=True), primary_key=True),
    Column("level", Double, nullable=False, comment="requests left at level_at; below 0: the last request was refused"),
    moment("level_at", nullable=False),
    prefixes=["UNLOGGED"],
)

audit_log = Table(
    "audit_log",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    now("at"),
    Column("tenant_id", UUID(as_uuid=True), nullable=False),
    Column("key_id", UUID(as_uuid=True), nullable=False),
    Column("key_name", Text, nullable=False),
    Column("action", Text, nullable=False, comment="the operation of /openapi.json"),
    Column("path", Text, nullable=False),
    Column("address", Text, comment="address of the caller, as seen by the server"),
    Column("status", SmallInteger, comment="HTTP status; NULL: the request did not finish"),
    Column("code", Text, comment="code of the problem"),
    Index("ix_audit_log_tenant", "tenant_id", "id"),
    Index("ix_audit_log_at", "at"),
)
