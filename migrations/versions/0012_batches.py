"""Orders of many jobs with one Idempotency-Key: what became of each is kept with it.

Compatible with the running code: a new column that may be empty.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "idempotency_keys",
        sa.Column(
            "answer",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="of a batch: what became of each of its orders",
        ),
    )
    op.alter_column("idempotency_keys", "job_id", comment="of the job, the workflow, or the batch")


def downgrade() -> None:
    op.execute(
        "DROP FUNCTION IF EXISTS accept_batch(uuid, text, text, bytea, integer, uuid, jsonb, double precision, boolean)"
    )
    op.alter_column("idempotency_keys", "job_id", comment=None)
    op.execute("DELETE FROM idempotency_keys WHERE answer IS NOT NULL")
    op.drop_column("idempotency_keys", "answer")
