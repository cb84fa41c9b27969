"""10,000 schedules due in one minute, one of two dispatchers killed: how late each fire is, and no fire twice."""

from __future__ import annotations

import signal
import time

from bench.drain import share
from bench.sides import Ours
from jobplatform.devstack.processes import wait_gone
from jobplatform.devstack.stack import Stack

SPREAD_SECONDS = 60
#: from the insert to the first planned time
LEAD_SECONDS = 5


def measure(stack: Stack, side: Ours, count: int) -> dict[str, float]:
    """Return p50, p99 and max of planned time → committed job (s), and the numbers of fires and jobs."""
    side.clear()
    side.one("TRUNCATE schedules, schedule_fires")
    first, second = stack.start_dispatcher(), stack.start_service("dispatcher", tag="dispatcher-2")
    try:
        time.sleep(LEAD_SECONDS)  # both are up, and have sent heartbeats
        side.one(
            """
            INSERT INTO schedules (
                id, tenant_id, name, spec, kind, queue, payload, priority, tags, max_attempts, crash_limit, lost_limit,
                jitter_seconds, overlap, missed, catch_up, anchor_at, next_planned_at, next_due_at, updated_by,
                origin)
            SELECT gen_random_uuid(), :tenant, 's' || n, jsonb_build_object(
                       'time_zone', 'UTC', 'cron', to_char(at AT TIME ZONE 'UTC', 'SS MI HH24') || ' * * *'),
                   'bench.noop', 'bench', '{}', 4, '{}', 1, 1, 1, 0, 'skip', 'once', 1, at, at, at, 'bench',
                   'person'
            FROM (SELECT n, date_trunc('second', clock_timestamp())
                            + floor(:lead + :spread * n / :count) * interval '1 s' AS at
                  FROM generate_series(1, CAST(:count AS integer)) AS n) AS times
            """,
            tenant=side.tenant,
            lead=LEAD_SECONDS,
            spread=float(SPREAD_SECONDS),
            count=count,
        )
        time.sleep(LEAD_SECONDS + SPREAD_SECONDS / 3)
        second.send_signal(signal.SIGKILL)  # in the middle of its work
        if second.wait() != -signal.SIGKILL:
            raise RuntimeError("the second dispatcher had exited on its own")
        time.sleep(SPREAD_SECONDS * 2 / 3 + LEAD_SECONDS)
    finally:
        first.terminate()
        wait_gone([first.pid], 20)
    rows = side.rows("SELECT extract(epoch FROM at - planned_at) FROM schedule_fires WHERE outcome = 'fired'")
    late = sorted(float(row[0]) for row in rows)
    jobs = int(side.one("SELECT count(*) FROM jobs") or 0)
    side.one("TRUNCATE schedules, schedule_fires")
    side.clear()
    return {"p50": share(late, 0.5), "p99": share(late, 0.99), "max": late[-1], "fires": len(late), "jobs": jobs}
