"""Rescue: end the runs of lost workers, so that their jobs run again.

No lease expires until this process has reached the ledger without interruption for a full lease: after an outage of
Postgres every worker looks dead, and every long video would run twice. Nor while heartbeats could not be written
because of a lock on the table, and never for a silence that is younger than the end of that lock.
"""

from __future__ import annotations

from datetime import datetime

from jobplatform.ledger import workers
from jobplatform.ledger.session import Ledger
from jobplatform.observe.logs import get_log
from jobplatform.observe.metrics import dispatcher_metrics

log = get_log(__name__)

#: polls per heartbeat interval; and, in intervals, how old the last heartbeat of a worker without a session may be: it
#: reconnects at its next heartbeat, if it is alive. Together, its runs restart within three intervals
POLLS_PER_BEAT = 2
GONE_BEATS = 2.5


class Rescuer:
    """Polls twice per heartbeat interval. "Without interruption" means no failed poll *and* at most two intervals
    between polls, by the database's clock: a suspended host shows no error. A poll waits for at most one interval.
    """

    def __init__(self, ledger: Ledger, *, heartbeat_seconds: float, lease_seconds: float) -> None:
        self._ledger = ledger
        self._beat_seconds = heartbeat_seconds
        self._lease_seconds = lease_seconds
        self._unbroken_since: datetime | None = None
        self._last_poll: datetime | None = None

    def poll(self) -> int:
        """Poll once; returns how many runs were ended. Raises `LedgerUnavailable`."""
        try:
            return self._poll()
        except BaseException:  # whatever failed, the view has a gap
            self._unbroken_since = self._last_poll = None
            raise

    def _poll(self) -> int:
        with self._ledger.transaction() as connection:
            now = workers.keep_heartbeats_open(connection, self._beat_seconds)
            gap = (now - self._last_poll).total_seconds() if self._last_poll else None
            self._last_poll = now
            if self._unbroken_since is None or gap is None or not 0 <= gap <= 2 * self._beat_seconds:
                self._unbroken_since = now
            if (now - self._unbroken_since).total_seconds() < self._lease_seconds:
                return 0
            ended = workers.rescue_runs(connection, self._lease_seconds, GONE_BEATS * self._beat_seconds, now)
        for run in ended:
            dispatcher_metrics().rescued.labels(run.outcome).inc()
            log.warning("run_rescued", job_id=str(run.job_id), run_no=run.run_no, outcome=run.outcome, state=run.state)
        return len(ended)
