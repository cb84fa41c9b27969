"""Watchdog: ends a worker that is connected but consumes nothing, so that its supervisor restarts it.

Known since 2014 (celery#2080, #3201, #10205): after a reconnect, or when RabbitMQ cancels a consumer silently (4.3
does at the consumer time-out), the worker is alive, sends heartbeats, answers pings, and receives nothing. The watchdog
acts on any of three conditions that lasts for `seconds`: the client itself knows that it does not consume; a marker
stays unread in one of its queues while it is connected, has a free slot and has received nothing; or it repeatedly
connects and loses the connection.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any

from jobplatform.ledger.session import Ledger
from jobplatform.observe.logs import get_log
from jobplatform.usecases import track_workers
from workers.runtime.deliveries import Deliveries

log = get_log(__name__)

#: connections lost in a row without a message in between: more than any network loses
LOOP = 10


class Watchdog:
    """Called at every heartbeat."""

    def __init__(
        self,
        deliveries: Deliveries,
        queues: Sequence[str],
        slots: int,
        seconds: float,
        missing: Callable[[], list[str] | None],
        end: Callable[[], None] = lambda: os.kill(os.getpid(), signal.SIGTERM),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._deliveries, self._queues, self._slots, self._seconds = deliveries, list(queues), slots, seconds
        #: the queues that the client knows it does not consume; None while it is not connected
        self._missing = missing
        self._end, self._clock = end, clock
        self._connected_at = self._consumed_at = clock()
        self._ended = False

    def check(self, ledger: Ledger) -> None:
        """Check once. Raises a `LedgerUnavailable`."""
        now, missing = self._clock(), self._missing()
        if missing is None:
            self._connected_at = now
        if not missing:
            self._consumed_at = now
        if self._ended:
            return
        losses, losing_seconds = self._deliveries.lost_connections(self._seconds)
        # not sooner: a missing queue is declared again within seconds
        if losses >= LOOP and losing_seconds > self._seconds:
            self._give_up(f"it lost {losses} connections to RabbitMQ and received nothing in between", self._queues)
            return
        if missing and now - self._consumed_at > self._seconds:
            self._give_up("it is connected, and has no consumer on these queues", missing)
            return
        idle_seconds = now - max(self._deliveries.received_at, self._connected_at)
        if idle_seconds <= self._seconds or len(self._deliveries.leases()) >= self._slots:
            return
        if unread := track_workers.find_unread_markers(ledger, self._queues, self._seconds):
            self._give_up("a marker stays unread in its queue, it has a free slot and receives nothing", unread)

    def _give_up(self, why: str, queues: list[str]) -> None:
        self._ended = True
        log.error("worker_consumes_nothing", why=why, queues=queues, seconds=self._seconds)
        self._end()


def missing_consumers(worker: Any, queues: Sequence[str]) -> list[str] | None:
    """Return the queues that Celery's client does not consume although it is connected; None while it reconnects."""
    consumer = getattr(worker, "consumer", None)
    connection, tasks = getattr(consumer, "connection", None), getattr(consumer, "task_consumer", None)
    if consumer is None or connection is None or not connection.connected:
        return None
    return [name for name in queues if tasks is None or not tasks.consuming_from(name)]
