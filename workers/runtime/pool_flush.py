"""Keep the outcome of deliveries that a prefork child has got when the connection to RabbitMQ is lost.

Celery's pool then forgets every delivery that no child has accepted yet, also those in a child's pipe. The child runs
such a delivery, and its outcome is dropped: a deferred success would never be settled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def keep_written(pool: Any, note: Callable[[list[str]], None]) -> Callable[[], None]:
    """Return a `flush` of Celery's `AsynPool` that forgets only deliveries of which nothing was written to a child.

    `note` gets the task ids of the others.
    """
    flush = pool.flush

    def flush_unwritten() -> None:
        written = [job for job in tuple(pool._cache.values()) if not job._accepted and job._write_to is not None]
        note([job.correlation_id for job in written])
        for job in written:
            job._accepted = True  # `flush` keeps it, and completes what is half written
        try:
            flush()
        finally:
            for job in written:
                job._accepted = job._time_accepted is not None

    return flush_unwritten
