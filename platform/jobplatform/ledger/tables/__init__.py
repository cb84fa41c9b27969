"""The ledger's tables as SQLAlchemy Core sees them; the migrations create them (a test compares the two).

Live jobs are in one small unpartitioned table. The settling transaction moves jobs that end to `job_history`,
partitioned by `finished_at`. Runs and events are partitioned by time too and have no foreign keys, so that a
partition can be dropped (docs/concepts/ledger.md).
"""

from jobplatform.ledger.tables import (
    access,
    artifacts,
    delivery,
    jobs,
    limits,
    schedules,
    webhooks,
    workflows,
)
from jobplatform.ledger.tables.columns import metadata

__all__ = [
    "PARTITIONED",
    "PARTITION_DAYS",
    "access",
    "artifacts",
    "delivery",
    "jobs",
    "limits",
    "metadata",
    "schedules",
    "webhooks",
    "workflows",
]

#: length of one partition of history, runs and events
PARTITION_DAYS = 7
#: table that is partitioned by time → its partition column
PARTITIONED = {"job_history": "finished_at", "job_runs": "finished_at", "job_events": "at"}
