"""Files of cancelled runs, to be removed by a worker; the session of a worker's beats, whose end tells of its death.

Compatible with the running code: it removes files by itself, and finds no record then; what names no session keeps its
runs for a lease.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "workers",
        sa.Column(
            "session_pid", sa.Integer(), nullable=True, comment="of the Postgres session that wrote the last beat"
        ),
    )
    op.create_table(
        "artifact_removals",
        sa.Column("location", sa.Text(), nullable=False, comment="key below JOBPLATFORM_ARTIFACT_URL"),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.PrimaryKeyConstraint("location", name=op.f("pk_artifact_removals")),
    )
    op.create_index("ix_artifact_removals_at", "artifact_removals", ["at"])


def downgrade() -> None:
    op.execute("DROP FUNCTION IF EXISTS rescue_runs(double precision, integer, double precision)")
    op.execute("DROP FUNCTION IF EXISTS session_has_ended(integer)")
    op.drop_table("artifact_removals")
    op.drop_column("workers", "session_pid")
