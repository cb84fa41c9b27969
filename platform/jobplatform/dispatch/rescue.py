"""Rescue: end the runs whose worker is gone, so that their jobs run again.

Nothing is expired until this process has itself reached the ledger without a break for a full lease: after an outage
of Postgres every worker looks dead, and every long video would run twice. Nor when beats could not be written because
somebody held a lock on a table, and never for a silence that is younger than the last moment of which that is known.
"""

from __future__ import annotations

from datetime import datetime

from jobplatform.ledger import workers
from jobplatform.ledger.session import Ledger
from jobplatform.observe.logs import get_log
from jobplatform.observe.metrics import dispatcher_metrics

log = get_log(__name__)

#: polls in a beat, and how old in beats the last sign of a worker may be whose session has ended: it connects again at
#: its next beat, when it lives. Together its runs begin anew within three beats
POLLS_PER_BEAT = 2
GONE_BEATS = 2.5


class Rescuer:
    """Polls twice a beat; "without a break" is no failed poll *and* no more than two beats between polls, by the
    database's clock: a host that was suspended shows no error. A poll waits for a beat at most.
    """

    def __init__(self, ledger: Ledger, *, heartbeat_seconds: float, lease_seconds: float) -> None:
        self._ledger = ledger
        self._beat_seconds = heartbeat_seconds
        self._lease_seconds = lease_seconds
        self._unbroken_since: datetime | None = None
        self._last_poll: datetime | None = None

    def poll(self) -> int:
        """Look once; returns how many runs were ended. Raises `LedgerUnavailable`."""
        try:
            return self._poll()
        except BaseException:  # whatever it was, the view is broken
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
