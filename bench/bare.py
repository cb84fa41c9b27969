"""The baseline, as a team would build it: Celery with confirms, acks_late, and results in Postgres."""

from __future__ import annotations

import os
import time

from celery import Celery
from kombu import Queue

app = Celery("bare", broker=os.environ["BARE_BROKER_URL"], backend=os.environ["BARE_BACKEND_URL"])
app.conf.update(
    broker_transport_options={"confirm_publish": True},
    task_acks_late=True,
    worker_prefetch_multiplier=4,
    task_queues=[Queue("bare", routing_key="bare", durable=True)],  # type: ignore[no-untyped-call]
    task_default_queue="bare",
    task_default_delivery_mode=2,
    worker_hijack_root_logger=True,
    result_extended=False,
    worker_send_task_events=False,
)


@app.task(name="bare.noop")  # type: ignore[untyped-decorator]
def noop(n: int, sent_at: float = 0.0) -> float:
    """Do nothing; return the seconds from the call to here."""
    return time.time() - sent_at


@app.task(name="bare.collect")  # type: ignore[untyped-decorator]
def collect(results: list[float]) -> int:
    """The body of a chord: return the number of results."""
    return len(results)
