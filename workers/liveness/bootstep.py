"""Celery bootstep: registers this worker, starts its heartbeat, tracks deliveries to the pool, deregisters at the
end."""

from __future__ import annotations

import os
import socket
from functools import partial
from typing import Any

from celery import bootsteps
from celery.signals import worker_shutdown, worker_shutting_down

from jobplatform.config import Settings, settings
from jobplatform.domain.kinds import REGISTRY
from jobplatform.errors import ConfigurationError
from jobplatform.observe.logs import get_log
from jobplatform.observe.metrics import serve_metrics
from jobplatform.usecases.track_workers import WorkerInfo
from workers.liveness.heartbeat import Heartbeat
from workers.liveness.sweeping import Sweeper
from workers.liveness.watchdog import Watchdog, missing_consumers
from workers.runtime.committer import Committer
from workers.runtime.deliveries import DELIVERIES
from workers.runtime.handover import Handover
from workers.runtime.pool_flush import keep_written
from workers.runtime.prefetch import set_prefetch
from workers.runtime.process import WORKER_ID
from workers.runtime.request import LedgerRequest

log = get_log(__name__)

LOST_CHILD_SECONDS = 1.0
#: Celery's module of a pool → the pool's name in the settings
POOLS = {
    "celery.concurrency.prefork": "prefork",
    "celery.concurrency.thread": "threads",
    "celery.concurrency.solo": "solo",
}


class Liveness(bootsteps.StartStopStep):  # type: ignore[misc]
    """Started after the pool has forked."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        super().__init__(worker, **kwargs)
        self.heartbeat: Heartbeat | None = None
        self._handover: Handover | None = None
        config = settings()
        queues = sorted(worker.app.amqp.queues.consume_from)
        pool = POOLS.get(worker.pool_cls.__module__, worker.pool_cls.__module__)
        check_pool(pool, queues, config)
        check_kinds(queues, config)
        worker.prefetch_multiplier = min(config.queues[name].prefetch for name in queues)
        self._card = WorkerInfo(
            id=WORKER_ID,
            node=worker.hostname,
            host=socket.gethostname(),
            pid=os.getpid(),
            pool=pool,
            slots=int(worker.concurrency),
            queues=queues,
            kinds=[kind.name for kind in REGISTRY if kind.queue in queues],
        )

    def create(self, worker: Any) -> None:
        """Connect the handover between consumer and pool, after the pool was created and before the consumer."""
        self._handover = connect_handover(worker, self._card.pool)

    def start(self, worker: Any) -> None:
        """Start the heartbeat; deregister at the very end, when the pool has finished its runs."""
        config, queues = settings(), self._card.queues
        watchdog = Watchdog(
            DELIVERIES, queues, self._card.slots, config.watchdog_seconds, partial(missing_consumers, worker, queues)
        )
        if self._handover is not None:
            self._handover.committer.start()
        self.heartbeat = heartbeat = Heartbeat(self._card, DELIVERIES, config, watchdog, handover=self._handover)
        worker_shutting_down.connect(lambda **_: heartbeat.shut_down(), weak=False)
        worker_shutdown.connect(lambda **_: heartbeat.stop(), weak=False)
        heartbeat.start()
        sweeper = Sweeper(config)
        worker_shutdown.connect(lambda **_: sweeper.stop(), weak=False)
        sweeper.start()
        if config.metrics_port:
            serve_metrics(config.metrics_host, config.metrics_port)
        if self._card.pool == "prefork" and worker.hub is not None:
            worker.pool.flush = keep_written(worker.pool._pool, DELIVERIES.note_written)
            # Celery checks for jobs of dead children every five seconds only
            worker.hub.call_repeatedly(LOST_CHILD_SECONDS, worker.pool._pool.maintain_pool)


def connect_handover(worker: Any, pool: str) -> Handover | None:
    """Let deliveries go through a `Handover` on their way to the pool; None for a pool without slots of its own.

    Deliveries are noted in the registry when they are given to the pool, not when they only wait for a free child.
    """
    give, receive = worker._process_task, worker.process_task
    if pool == "solo":

        def note_and_give(request: Any) -> Any:
            DELIVERIES.add(request.held())
            return give(request)

        worker.process_task = worker._process_task = note_and_give
        return None
    semaphore = getattr(worker, "semaphore", None) if receive != give else None

    def slots() -> int:
        return int(worker.pool.num_processes)

    def wake() -> None:
        if worker.hub is None:
            committer.deliver()
        else:
            worker.hub.call_soon(committer.deliver)

    committer = Committer(wake)
    handover = Handover(
        DELIVERIES,
        committer,
        slots=slots,
        is_full=lambda: semaphore.value <= 0 if semaphore is not None else DELIVERIES.is_full(slots()),
        give=give,
        free_slot=lambda: semaphore.release() if semaphore is not None else None,
        set_ahead=lambda ahead: set_prefetch(worker.consumer, ahead),
    )

    def receive_and_wait(request: Any) -> Any:
        handover.receive(request)
        return receive(request) if semaphore is not None else handover.hand_over(request)

    worker._process_task = handover.hand_over  # called by the pool's semaphore when a slot is free
    worker.process_task = receive_and_wait
    LedgerRequest.handover = handover
    return handover


def check_kinds(queues: list[str], config: Settings) -> None:
    """Refuse a worker that was given no queues, so would consume all of them, and knows no kind of some.

    Raises `ConfigurationError`.
    """
    idle = set(queues) - {kind.queue for kind in REGISTRY}
    if idle and len(queues) > 1 and set(queues) == set(config.queues):
        raise ConfigurationError(
            f"this worker would take the jobs of all queues, and knows no kind of {', '.join(sorted(idle))}: name its "
            f"queues, like `-Q {next(iter(set(queues) - idle), queues[0])}`"
        )


def check_pool(pool: str, queues: list[str], config: Settings) -> None:
    """Refuse a pool that can't enforce the limits of the queues. Raises `ConfigurationError`.

    `solo` stands in for any, for a developer's machine: one job at a time, in the worker's own process, without limits.
    """
    if pool == "solo":
        log.warning("pool_is_solo", queues=queues, effect="no time limit is enforced, and a crash ends the worker")
        return
    for name in queues:
        wanted = config.queues[name].pool
        if wanted != pool:
            raise ConfigurationError(
                f"queue {name!r} is set up for the {wanted} pool, this worker runs {pool}: start it with "
                f"`--pool {wanted}`, or change the queue in JOBPLATFORM_QUEUES"
            )
