"""Figures from the ledger about a drill's jobs, read after they have ended."""

from __future__ import annotations

from collections.abc import Sequence

from drills.kinds import LIMITED_KIND
from drills.load import Load
from drills.world import World

#: the figure for the highest number of jobs with the drills' limit key that were in flight at one time
MOST_OUT = "slots of the limit in use"

_FIGURES = """
WITH mine AS (SELECT CAST(unnest(CAST(:ids AS text[])) AS uuid) AS id),
j AS (
    SELECT id, state, dispatch_no, run_no, created_at, started_at FROM jobs JOIN mine USING (id) UNION ALL
    SELECT id, state, dispatch_no, run_no, created_at, started_at FROM job_history JOIN mine USING (id)
),
r AS (
    -- a claim released before its handler started interrupted nothing
    SELECT outcome FROM job_runs JOIN mine ON id = job_id WHERE error ->> 'code' IS DISTINCT FROM 'not_started'
)
SELECT
    (SELECT count(*) FROM j WHERE state = 'succeeded') AS "succeeded",
    (SELECT count(*) FROM j WHERE dispatch_no > run_no) AS "published again",
    (SELECT count(*) FROM j WHERE started_at > created_at + interval '2 s') AS "waited over 2 s",
    (SELECT count(*) FROM r WHERE outcome IN ('crashed', 'lost')) AS "runs crashed or lost",
    (SELECT count(*) FROM r WHERE outcome = 'released') AS "runs released",
    (SELECT count(*) FROM r WHERE outcome <> 'succeeded') AS "runs ended otherwise"
"""


#: each change of a job's state is an event: +1 when it takes a slot, −1 when it frees it. A freed slot is counted
#: before one that is taken at the same microsecond
SLOT_CHANGES = """
WITH change AS (
    SELECT job_id, at, event, state, out - coalesce(lag(out) OVER (PARTITION BY job_id ORDER BY id), 0) AS slots
    FROM (SELECT job_id, id, at, event, state, (state IN ('dispatched', 'running'))::integer AS out FROM job_events
          WHERE job_id = ANY (CAST(:ids AS uuid[]))) AS event
)
SELECT job_id, at, event, state, sum(slots) OVER (ORDER BY at, slots)::integer AS out FROM change ORDER BY at, slots
"""


def report_limit_slots(world: World, load: Load) -> list[str]:
    """Return a line for each slot taken or freed around the moment when most were taken, 60 lines at most."""
    limited = [item.job_id for item in load.accepted if item.kind == LIMITED_KIND]
    rows = world.sql(SLOT_CHANGES, ids=limited)
    top = max(range(len(rows)), key=lambda n: rows[n].out)
    return [
        f"{row.at:%H:%M:%S.%f} {row.job_id} {row.event} → {row.state}: {row.out} in flight"
        for row in rows[max(0, top - 30) : top + 30]
    ]


_CUT = """
SELECT r.job_id::text AS job_id, r.run_no, r.outcome, r.finished_at, r.error ->> 'message' AS message, w.node
FROM job_runs r LEFT JOIN workers w ON w.id = r.worker_id
WHERE r.job_id = ANY (CAST(:ids AS uuid[])) AND r.outcome <> 'succeeded'
    AND r.error ->> 'code' IS DISTINCT FROM 'not_started' ORDER BY r.finished_at LIMIT 20
"""


def report_ends(world: World, load: Load) -> list[str]:
    """Return a line for each run that did not succeed, 20 lines at most."""
    return [
        f"{row.finished_at:%H:%M:%S.%f} job {row.job_id}, run {row.run_no} on {row.node}: {row.outcome}: {row.message}"
        for row in world.sql(_CUT, ids=[item.job_id for item in load.accepted])
    ]


_RUNS = """
SELECT r.job_id::text AS job_id, r.run_no, r.outcome, r.started_at, r.finished_at, r.error ->> 'message' AS message,
    w.node
FROM job_runs r LEFT JOIN workers w ON w.id = r.worker_id
WHERE r.job_id = ANY (CAST(:ids AS uuid[])) ORDER BY r.job_id, r.run_no LIMIT 40
"""


def report_runs(world: World, job_ids: Sequence[str]) -> list[str]:
    """Return a line for each run of these jobs, 40 lines at most."""
    return [
        f"job {row.job_id}, run {row.run_no} on {row.node}, {row.started_at:%H:%M:%S.%f} to "
        f"{row.finished_at:%H:%M:%S.%f}: {row.outcome}: {row.message}"
        for row in world.sql(_RUNS, ids=list(job_ids))
    ]


def collect(world: World, load: Load) -> dict[str, int]:
    """Return the figures that a fault can name in `shows`."""
    row = world.sql(_FIGURES, ids=[item.job_id for item in load.accepted])[0]
    answers = {"refused or unknown": load.refused + load.unknown, "unknown": load.unknown, "slow answers": load.slow}
    limited = [item.job_id for item in load.accepted if item.kind == LIMITED_KIND]
    most_out = max((row.out for row in world.sql(SLOT_CHANGES, ids=limited)), default=0)
    return {**dict(row._mapping), **answers, MOST_OUT: most_out}
