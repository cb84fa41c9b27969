"""Markers detect single lost messages (rule "Marker"). A marker is published behind the messages of a queue and
priority whose jobs have been in flight for a while without a run. When a worker receives it, all earlier messages
were received or lost.

Counting can't detect them: n stale messages hide n lost ones. Publishing again blindly would duplicate.
"""

from __future__ import annotations

from uuid import UUID

from jobplatform.broker.envelope import MARKER_KIND, Envelope
from jobplatform.broker.publisher import Publisher
from jobplatform.errors import BrokerUnavailable
from jobplatform.ledger import markers
from jobplatform.ledger.ids import new_id
from jobplatform.ledger.session import Ledger
from jobplatform.observe.logs import get_log
from jobplatform.observe.metrics import dispatcher_metrics

log = get_log(__name__)


def detect_lost_messages(ledger: Ledger, publisher: Publisher, quiet_seconds: float, lease_seconds: float) -> int:
    """Evaluate received markers, then publish due ones; returns how many jobs were returned to available.

    Raises `BrokerUnavailable` or a `LedgerUnavailable`.
    """
    with ledger.transaction() as connection:
        returned = markers.confirm_lost_messages(connection, lease_seconds)
    for job in returned:
        dispatcher_metrics().messages_lost.labels(job.queue).inc()
        log.warning("message_lost", job_id=str(job.job_id), queue=job.queue)
    envelopes = []
    with ledger.transaction() as connection:
        for wanted in markers.due_markers(connection, quiet_seconds, lease_seconds):
            marker_id = new_id()
            markers.put_marker(connection, marker_id, wanted.queue, wanted.priority)
            envelopes.append(Envelope(str(marker_id), 1, MARKER_KIND, wanted.queue, wanted.priority))
    if envelopes:  # after the commit: a marker must be in the ledger before it can be received
        try:
            receipt = publisher.publish(envelopes)
        except BrokerUnavailable:  # a marker that was published nevertheless is unknown to the ledger, and ignored
            with ledger.transaction() as connection:
                markers.forget_markers(connection, [UUID(envelope.job_id) for envelope in envelopes])
            raise
        if unsent := [UUID(item.job_id) for item in (*receipt.unroutable, *receipt.refused)]:
            with ledger.transaction() as connection:
                markers.forget_markers(connection, unsent)
        log.info("markers_sent", queues=sorted({envelope.queue for envelope in envelopes}))
    return len(returned)
