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
from workers.runtime.deliveries import DELIVERIES
from workers.runtime.process import WORKER_ID

log = get_log(__name__)

LOST_CHILD_SECONDS = 1.0
#: where Celery keeps a pool → what our settings call it
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
        """Hook between consumer and pool, after the pool was created and before the consumer."""
        _note_what_is_handed_over(worker)

    def start(self, worker: Any) -> None:
        """Start the heartbeat; deregister at the very end, when the pool has finished its runs."""
        config, queues = settings(), self._card.queues
        watchdog = Watchdog(
            DELIVERIES, queues, self._card.slots, config.watchdog_seconds, partial(missing_consumers, worker, queues)
        )
        self.heartbeat = heartbeat = Heartbeat(self._card, DELIVERIES, config, watchdog)
        worker_shutting_down.connect(lambda **_: heartbeat.shut_down(), weak=False)
        worker_shutdown.connect(lambda **_: heartbeat.stop(), weak=False)
        heartbeat.start()
        sweeper = Sweeper(config)
        worker_shutdown.connect(lambda **_: sweeper.stop(), weak=False)
        sweeper.start()
        if config.metrics_port:
            serve_metrics(config.metrics_host, config.metrics_port)
        if self._card.pool == "prefork" and worker.hub is not None:
            # Celery looks for jobs of dead children every five seconds only
            worker.hub.call_repeatedly(LOST_CHILD_SECONDS, worker.pool._pool.maintain_pool)


def _note_what_is_handed_over(worker: Any) -> None:
    """Note a delivery in the registry when it is given to the pool, not when it only waits for a free child."""
    give = worker._process_task

    def note_and_give(request: Any) -> Any:
        DELIVERIES.add(request.held())
        return give(request)

    if worker.process_task == give:  # pools without a semaphore call it directly
        worker.process_task = note_and_give
    worker._process_task = note_and_give


def check_kinds(queues: list[str], config: Settings) -> None:
    """Refuse a worker that was given no queues, takes from all of them, and knows no kind of some.

    Raises `ConfigurationError`.
    """
    idle = set(queues) - {kind.queue for kind in REGISTRY}
    if idle and len(queues) > 1 and set(queues) == set(config.queues):
        raise ConfigurationError(
            f"this worker would take the jobs of all queues, and knows no kind of {', '.join(sorted(idle))}: name its "
            f"queues, like `-Q {next(iter(set(queues) - idle), queues[0])}`"
        )


def check_pool(pool: str, queues: list[str], config: Settings) -> None:
    """Refuse a pool that can't enforce what the queues promise. Raises `ConfigurationError`.

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
