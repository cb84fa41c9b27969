"""Webhooks: endpoints of tenants, and what was told to them.

Compatible with the running code: new tables.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

FUNCTIONS = ("send_webhooks", "tell_webhooks", "webhook_answered")


def upgrade() -> None:
    op.create_table(
        "webhook_endpoints",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("tenant_id", sa.UUID(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("events", postgresql.ARRAY(sa.Text()), nullable=False, comment="types of messages"),
        sa.Column(
            "kinds", postgresql.ARRAY(sa.Text()), nullable=True, comment="kinds of jobs, or patterns of them; NULL: all"
        ),
        sa.Column("contact", sa.Text(), nullable=True, comment="an e-mail address that is told when it is disabled"),
        sa.Column("secret", sa.Text(), nullable=False, comment="what messages are signed with"),
        sa.Column("old_secret", sa.Text(), nullable=True, comment="signs too, until old_secret_until"),
        sa.Column("old_secret_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "cursor_tx", sa.BigInteger(), nullable=False, comment="of the feed: everything up to here has its messages"
        ),
        sa.Column("cursor_id", sa.BigInteger(), nullable=False),
        sa.Column("cursor_at", sa.DateTime(timezone=True), nullable=False, comment="no older partition is looked at"),
        sa.Column(
            "again_tx",
            sa.BigInteger(),
            server_default=sa.text("0"),
            nullable=False,
            comment="up to here it is a replay",
        ),
        sa.Column("again_id", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("again_from", sa.DateTime(timezone=True), nullable=True, comment="nothing older is told again"),
        sa.Column(
            "again_all",
            sa.Boolean(),
            server_default=sa.text("false"),
            nullable=False,
            comment="of what was delivered, too",
        ),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("delivered_at", sa.DateTime(timezone=True), nullable=True, comment="the last time, to a minute"),
        sa.Column(
            "failing_since",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="nothing was delivered since the first failure then",
        ),
        sa.Column("last_error", sa.Text(), nullable=True, comment="of the last failure"),
        sa.Column("disabled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("disabled_reason", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "(old_secret IS NULL) = (old_secret_until IS NULL)", name=op.f("webhook_endpoints_old_secret_ends")
        ),
        sa.CheckConstraint(
            "(disabled_at IS NULL) = (disabled_reason IS NULL)", name=op.f("webhook_endpoints_disabled_has_its_reason")
        ),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_webhook_endpoints_tenant_id_tenants")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_endpoints")),
    )
    op.create_index("ix_webhook_endpoints_tenant", "webhook_endpoints", ["tenant_id", "id"])
    op.create_table(
        "webhook_messages",
        sa.Column("id", sa.UUID(), nullable=False, comment="webhook-id"),
        sa.Column("endpoint_id", sa.UUID(), nullable=False),
        sa.Column("event_id", sa.BigInteger(), nullable=True, comment="of job_events; NULL: a test"),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("about", sa.UUID(), nullable=True, comment="the job that it tells of"),
        sa.Column("job_id", sa.UUID(), nullable=False, comment="the job that delivers it, the last one"),
        sa.Column("replays", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("endpoint_id", "id", name=op.f("pk_webhook_messages")),
    )
    op.create_index(
        "uq_webhook_messages_event",
        "webhook_messages",
        ["endpoint_id", "event_id"],
        unique=True,
        postgresql_where=sa.text("event_id IS NOT NULL"),
    )
    op.create_index("ix_webhook_messages_at", "webhook_messages", ["created_at"])


def downgrade() -> None:
    names = ", ".join(repr(name) for name in FUNCTIONS)
    op.execute(
        "DO $$ DECLARE f regprocedure; BEGIN FOR f IN SELECT p.oid::regprocedure FROM pg_proc p "
        "JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = current_schema() AND p.proname IN "
        f"({names}) LOOP EXECUTE 'DROP FUNCTION ' || f || ' CASCADE'; END LOOP; END $$"
    )
    op.drop_table("webhook_messages")
    op.drop_table("webhook_endpoints")
