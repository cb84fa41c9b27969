"""Current state of the ledger as Prometheus gauges: queried on scrape, bounded at any backlog (I7).

Every dispatcher reports the same values; take the maximum over them.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily, Metric

from jobplatform.config import Settings
from jobplatform.errors import LedgerUnavailable
from jobplatform.ledger import queues
from jobplatform.ledger.session import DISPATCHER, Ledger, open_ledger

#: column of `queues.measure_queues` → what it means
GAUGES = {
    "accepted": "Jobs ever accepted (exact, from counters; live = accepted - finished)",
    "finished": "Jobs ever finished (exact, from counters)",
    "deadlines_met": "Jobs with a start_by that began before it (exact, from counters)",
    "deadlines_missed": "Jobs that expired (exact, from counters)",
    "dispatched": "Jobs whose message is in RabbitMQ",
    "running": "Jobs that run",
    "oldest_seconds": "How long the oldest available job has been waiting for a place in the window",
    "paused": "1 when the queue is paused",
    "workers": "Workers that take jobs",
    "slots": "Slots in the pools of those workers",
    "draining": "Workers that finish the jobs they have and take no more",
}


class QueueGauges:
    """A Prometheus collector over the ledger, on a connection of its own."""

    def __init__(self, ledger: Ledger, lease_seconds: float) -> None:
        self._ledger, self._lease_seconds = ledger, lease_seconds

    def collect(self) -> Iterator[Metric]:
        """Yield one family per gauge, and whether the ledger answered."""
        up = GaugeMetricFamily("jobplatform_ledger_up", "1 when the ledger answers this dispatcher")
        try:
            with self._ledger.statement() as connection:
                rows = queues.measure_queues(connection, self._lease_seconds)
                dead, overdue = queues.dead_letters(connection), queues.overdue_seconds(connection)
        except LedgerUnavailable:
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        for column, about in GAUGES.items():
            family = GaugeMetricFamily(f"jobplatform_queue_{column}", about, labels=["queue"])
            for row in rows:
                family.add_metric([row.queue], float(row._mapping[column]))
            yield family
        yield GaugeMetricFamily("jobplatform_dead_letters", "Jobs that need an operator, at most 10000", dead)
        about = "How long the first scheduled job has been due: a dispatcher makes it available within a second"
        yield GaugeMetricFamily("jobplatform_overdue_seconds", about, overdue)


def watch_queues(settings: Settings) -> None:
    """Add the gauges to this process's metrics."""
    url = settings.database_url.get_secret_value()
    ledger = open_ledger(url, name="metrics", limits=DISPATCHER, connections=1)
    REGISTRY.register(QueueGauges(ledger, settings.lease_seconds))
