"""Files that nobody names any more: a cancelled run's, to be removed by a worker.

Compatible with the running code: it removes them by itself, and finds no record then.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "artifact_removals",
        sa.Column("location", sa.Text(), nullable=False, comment="key below JOBPLATFORM_ARTIFACT_URL"),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.PrimaryKeyConstraint("location", name=op.f("pk_artifact_removals")),
    )
    op.create_index("ix_artifact_removals_at", "artifact_removals", ["at"])


def downgrade() -> None:
    op.drop_table("artifact_removals")
