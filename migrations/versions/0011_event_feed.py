"""Events in the order of their transactions: feeds without gaps.

Compatible with the running code: a new column with a default, and an index of job_events (writes wait while it is made:
with millions of events plan a minute). Events from before are in no feed.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "job_events",
        sa.Column(
            "tx",
            sa.BigInteger(),
            nullable=True,
            comment="the transaction that wrote it: the order of feeds (read_feed)",
        ),
    )
    # after it, so that the old lines are not written anew
    op.alter_column("job_events", "tx", server_default=sa.text("(pg_current_xact_id())::text::bigint"))
    op.create_index("ix_job_events_feed", "job_events", ["tenant_id", "tx", "id"])


def downgrade() -> None:
    op.execute("DROP FUNCTION IF EXISTS read_feed(uuid[], bigint[], bigint[], timestamptz, integer)")
    op.drop_index("ix_job_events_feed", table_name="job_events")
    op.drop_column("job_events", "tx")
