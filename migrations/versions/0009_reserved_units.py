"""Units of a limit key that are reserved for a job that was refused, and its place in its line.

Compatible with the running code: new columns that may be empty, and functions of the ledger.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

PLACED = sa.text("state = 'available' AND place_at IS NOT NULL")


def upgrade() -> None:
    op.add_column(
        "jobs",
        sa.Column(
            "place_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="its place in its line, kept while its limit keys refuse it",
        ),
    )
    op.create_index("ix_jobs_placed", "jobs", ["queue"], postgresql_where=PLACED)
    for column in (
        sa.Column(
            "reserved_for",
            sa.UUID(),
            nullable=True,
            comment="the refused job that goes first, until it comes again",
        ),
        sa.Column("reserved_units", sa.Double(), nullable=True),
        sa.Column("reserved_until", sa.DateTime(timezone=True), nullable=True),
    ):
        op.add_column("limit_states", column)


def downgrade() -> None:
    op.execute("DROP FUNCTION IF EXISTS take_units(uuid, integer, text[], integer[])")
    op.execute("DROP FUNCTION IF EXISTS units_reserved(limit_states, uuid, integer)")
    op.execute("DROP FUNCTION IF EXISTS limit_uses(integer)")
    op.drop_index("ix_jobs_placed", table_name="jobs", postgresql_where=PLACED)
    op.drop_column("jobs", "place_at")
    for name in ("reserved_until", "reserved_units", "reserved_for"):
        op.drop_column("limit_states", name)
