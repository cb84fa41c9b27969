"""What API keys may do, until when, and how often; the audit log of what was done with them.

Compatible with the running code: new columns with defaults (all keys may do what they could), new tables. A process of
the version before does not know of scopes, kinds and rates, and answers 500 where it meets them: exchange the API
before keys with less are made. Taken back, keys that may not do everything are revoked.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

FUNCTIONS = ("key_allows", "touch_key", "admit_key", "begin_action", "end_action")


def upgrade() -> None:
    for column in (
        sa.Column(
            "scopes",
            postgresql.ARRAY(sa.Text()),
            server_default=sa.text("'{jobs:submit,jobs:read,jobs:control}'"),
            nullable=False,
        ),
        sa.Column(
            "kinds",
            postgresql.ARRAY(sa.Text()),
            nullable=True,
            comment="kinds that it may submit, or patterns of them; NULL: all",
        ),
        sa.Column("requests_per_minute", sa.Integer(), nullable=True, comment="NULL: as many as it likes"),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True, comment="to a minute"),
        sa.Column("created_by", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("replaces", sa.UUID(), nullable=True, comment="the key in whose place it was made"),
    ):
        op.add_column("api_keys", column)
    op.create_check_constraint(op.f("api_keys_rate_is_positive"), "api_keys", "requests_per_minute > 0")
    op.create_index("ix_api_keys_tenant", "api_keys", ["tenant_id", "id"])
    op.create_table(
        "key_rates",
        sa.Column("key_id", sa.UUID(), nullable=False),
        sa.Column(
            "level", sa.Double(), nullable=False, comment="requests left at level_at; below 0: the last one was refused"
        ),
        sa.Column("level_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("key_id", name=op.f("pk_key_rates")),
        prefixes=["UNLOGGED"],
    )
    op.create_table(
        "audit_log",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("tenant_id", sa.UUID(), nullable=False),
        sa.Column("key_id", sa.UUID(), nullable=False),
        sa.Column("key_name", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False, comment="the operation of /openapi.json"),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=True, comment="of the caller, as the server saw it"),
        sa.Column("status", sa.SmallInteger(), nullable=True, comment="of the answer; NULL: it was never finished"),
        sa.Column("code", sa.Text(), nullable=True, comment="of the problem"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_log")),
    )
    op.create_index("ix_audit_log_tenant", "audit_log", ["tenant_id", "id"])
    op.create_index("ix_audit_log_at", "audit_log", ["at"])


def downgrade() -> None:
    names = ", ".join(repr(name) for name in FUNCTIONS)
    op.execute(
        "DO $$ DECLARE f regprocedure; BEGIN FOR f IN SELECT p.oid::regprocedure FROM pg_proc p "
        "JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = current_schema() AND (p.proname IN "
        f"({names}) OR p.proname = 'accept_job' AND p.pronargs = 23) "
        "LOOP EXECUTE 'DROP FUNCTION ' || f || ' CASCADE'; END LOOP; END $$"
    )
    # the version before knows none of this: what may not do everything, or not for ever, may do nothing any more
    op.execute(
        "UPDATE api_keys SET revoked_at = clock_timestamp() WHERE revoked_at IS NULL AND (expires_at IS NOT NULL "
        "OR kinds IS NOT NULL OR requests_per_minute IS NOT NULL "
        "OR NOT scopes @> '{jobs:submit,jobs:read,jobs:control}')"
    )
    op.drop_table("audit_log")
    op.drop_table("key_rates")
    op.drop_index("ix_api_keys_tenant", table_name="api_keys")
    op.drop_constraint(op.f("api_keys_rate_is_positive"), "api_keys")
    for name in ("replaces", "created_by", "last_used_at", "expires_at", "requests_per_minute", "kinds", "scopes"):
        op.drop_column("api_keys", name)
