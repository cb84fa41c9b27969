"""Fewer indexes per job, and the one that counts what is out begins at a time; old forms of functions are dropped.

Every transition of a job writes a line of history, and every line paid for two indexes: five of 22 index entries per
job are gone.
"""

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
        "expire_jobs(integer), finish_job(jobs, timestamptz)"
    )
    op.create_index("ix_jobs_out", "jobs", ["queue", "dispatched_at"], postgresql_where=OUT)
    op.drop_index("ix_jobs_active", table_name="jobs", postgresql_where=OUT)
    # one index finds the lines of a job and keeps them unique; a run is found by its job, a lease by its run's job
    op.drop_constraint("pk_job_events", "job_events")
    op.drop_index("ix_job_events_job", table_name="job_events")
    op.create_primary_key("pk_job_events", "job_events", ["job_id", "id", "at"])
    op.drop_index("ix_job_runs_lease", table_name="job_runs")


def downgrade() -> None:
    op.create_index("ix_job_runs_lease", "job_runs", ["lease_id"])
    op.drop_constraint("pk_job_events", "job_events")
    op.create_primary_key("pk_job_events", "job_events", ["id", "at"])
    op.create_index("ix_job_events_job", "job_events", ["job_id", "id"])
    op.create_index("ix_jobs_active", "jobs", ["queue", "priority"], postgresql_where=OUT)
    op.drop_index("ix_jobs_out", table_name="jobs", postgresql_where=OUT)
    op.execute(
        "DO $$ DECLARE f regprocedure; BEGIN FOR f IN SELECT p.oid::regprocedure FROM pg_proc p "
        "JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = current_schema() AND p.proname IN "
        "('claim_run', 'dispatch_jobs', 'undispatch_jobs', 'wake_jobs', 'make_due', 'expire_jobs', 'accept_job', "
        "'accept_jobs', 'waiting_queues') "
        "LOOP EXECUTE 'DROP FUNCTION ' || f || ' CASCADE'; END LOOP; END $$"
    )
