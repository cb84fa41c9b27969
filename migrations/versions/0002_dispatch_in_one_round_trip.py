"""The index that counts what is out begins at a time; functions of revision 0001 that have new forms are dropped."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

OUT = sa.text("state IN ('dispatched', 'running')")


def upgrade() -> None:
    op.execute(
        "DROP FUNCTION IF EXISTS claim_job(uuid, integer, text, uuid, uuid, text), make_due(integer), "
        "expire_jobs(integer)"
    )
    op.create_index("ix_jobs_out", "jobs", ["queue", "dispatched_at"], postgresql_where=OUT)
    op.drop_index("ix_jobs_active", table_name="jobs", postgresql_where=OUT)


def downgrade() -> None:
    op.create_index("ix_jobs_active", "jobs", ["queue", "priority"], postgresql_where=OUT)
    op.drop_index("ix_jobs_out", table_name="jobs", postgresql_where=OUT)
    op.execute(
        "DO $$ DECLARE f regprocedure; BEGIN FOR f IN SELECT p.oid::regprocedure FROM pg_proc p "
        "JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = current_schema() AND p.proname IN "
        "('claim_run', 'dispatch_jobs', 'undispatch_jobs', 'wake_jobs', 'make_due', 'expire_jobs', 'accept_job') "
        "LOOP EXECUTE 'DROP FUNCTION ' || f || ' CASCADE'; END LOOP; END $$"
    )
