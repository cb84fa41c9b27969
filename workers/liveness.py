"""The worker's sign of life: a thread of the parent, not of the jobs, that beats, reports and carries out cancels.

A crash counts only after the parent's next beat: killing a whole worker hits its children first, and a worker that
goes down must not bury its jobs.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from contextlib import suppress
from functools import partial
from typing import Any
from uuid import UUID

from celery import bootsteps
from celery.signals import worker_shutdown, worker_shutting_down
from celery.worker.state import maybe_shutdown

from jobplatform.config import Settings, settings
from jobplatform.domain.kinds import REGISTRY
from jobplatform.errors import ConfigurationError, LeaseLost, LedgerUnavailable, OutcomeUnknown
from jobplatform.observe.logs import get_log
from jobplatform.observe.metrics import serve_metrics, worker_metrics
from jobplatform.usecases import end_runs, keep_worker
from jobplatform.usecases.execute_run import Delivery
from jobplatform.usecases.keep_artifacts import ArtifactStore, remove_outputs
from jobplatform.usecases.keep_worker import CancelOrder, WorkerCard
from workers.context import remove_leftovers
from workers.deliveries import DELIVERIES, UNKNOWN_KIND, Deliveries, Report
from workers.process import WORKER_ID, parent_ledger
from workers.watchdog import Watchdog, missing_consumers

log = get_log(__name__)

LOST_CHILD_SECONDS = 1.0
#: where Celery keeps a pool → what our settings call it
POOLS = {"celery.concurrency.prefork": "prefork", "celery.concurrency.thread": "threads"}


class Heart:
    """Beats every `beat_seconds` until stopped. One step of it is `beat`, which tests call."""

    def __init__(
        self, card: WorkerCard, deliveries: Deliveries, settings: Settings, watchdog: Watchdog | None = None
    ) -> None:
        self.card = card
        self._watchdog = watchdog
        self._deliveries = deliveries
        self._settings = settings
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="liveness", daemon=True)
        #: when SIGTERM came (time.monotonic): from then on a child that dies was not brought down by its job
        self.shutting_down_since: float | None = None
        #: leases of runs that are given back, not lost
        self._given_back: set[UUID] = set()
        #: of the leases that children have: those whose run was seen, and those whose run was missing at the last look
        self._seen_running: set[UUID] = set()
        self._missing: set[UUID] = set()
        #: runs were given back: this process ends
        self._leaving = False

    def start(self) -> None:
        """Register, then begin to beat: the runs of a worker that the ledger does not know are rescued."""
        while True:
            try:
                keep_worker.register(parent_ledger(), self.card)
                break
            except (LedgerUnavailable, OutcomeUnknown) as error:
                log.warning("registration_waits_for_the_ledger", error=str(error))
                maybe_shutdown()
                time.sleep(1.0)
        self._thread.start()

    def stop(self) -> None:
        """Report what is left, sign off and end."""
        self._stop.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.beat()
            except (LedgerUnavailable, OutcomeUnknown) as error:
                worker_metrics().beats.labels("missed").inc()
                log.warning("beat_missed", error=str(error))
            except Exception:  # the beat must go on: without it every run of this worker is taken away
                log.exception("beat_failed")
            self._stop.wait(self._settings.beat_seconds)
        try:
            self.beat()
            keep_worker.sign_off(parent_ledger(), self.card)
        except (LedgerUnavailable, OutcomeUnknown) as error:
            log.warning("sign_off_failed", error=str(error))

    def beat(self) -> None:
        """Beat once, then carry out what was waiting for it."""
        reports = self._deliveries.reports()  # those that came before this beat
        markers = self._deliveries.markers()
        orders = keep_worker.beat(
            parent_ledger(), self.card, self._deliveries.leases(), self._deliveries.waiting(), markers
        )
        self._deliveries.forget_markers(markers)
        worker_metrics().beats.labels("written").inc()
        for report in reports:
            try:
                self._end(report)
            except (LedgerUnavailable, OutcomeUnknown):
                raise  # as with a missed beat: all of it again
            except Exception:
                # one that can't be ended must not keep the others. Off the beats, rescue takes its run; its message
                # is not acknowledged: nothing was committed, and it comes back with the next connection
                log.exception("report_failed", job_id=str(report.held.job_id), outcome=report.outcome)
                if report.outcome == UNKNOWN_KIND:
                    report.ack()  # rejects it: the recorder looks
                self._deliveries.reported(report)
        if orphans := self._deliveries.orphans(3 * self._settings.beat_seconds):
            running = keep_worker.find_running(parent_ledger(), self.card.id, orphans)
            self._deliveries.forget_orphans(set(orphans) - running)
        if self.shutting_down_since is not None:
            self._give_back()
        elif self._watchdog is not None:
            self._watchdog.look(parent_ledger())
        for order in orders:
            if order.seconds >= self._settings.cancel_grace_seconds:
                self._cancel(order)
        self._stop_zombies()

    def shut_down(self) -> None:
        """SIGTERM came: no more is taken, what runs goes on, for `shutdown_seconds` if there is a limit."""
        self.shutting_down_since = time.monotonic()

    def _give_back(self) -> None:
        """The time of a shutdown is over: what still runs is stopped, and its job is available again at once."""
        limit, since = self._settings.shutdown_seconds, self.shutting_down_since
        if not limit or since is None or time.monotonic() - since < limit:
            return
        left = [held for lease_id in self._deliveries.leases() if (held := self._deliveries.get(lease_id)) is not None]
        for held in left:
            if self.card.pool == "prefork":
                if held.pid and held.lease_id not in self._given_back:
                    log.warning("run_given_back", job_id=str(held.job_id), pid=held.pid)
                    self._given_back.add(held.lease_id)
                    self._kill(held.pid)  # its end comes back as a report
            else:
                self._leaving = True
                if end_runs.release_run(parent_ledger(), held.job_id, held.lease_id):
                    log.warning("run_given_back", job_id=str(held.job_id))
                self._deliveries.remove(held.lease_id)
        if self._leaving:  # a thread can't be stopped, and Celery would wait for it for ever
            with suppress(LedgerUnavailable, OutcomeUnknown):
                keep_worker.sign_off(parent_ledger(), self.card)
            os._exit(0)

    @staticmethod
    def _kill(pid: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def _end(self, report: Report) -> None:
        """Settle a run whose child ended without doing so; its message is acknowledged when that is committed."""
        held, ledger = report.held, parent_ledger()
        if report.outcome == UNKNOWN_KIND:
            delivery = Delivery(held.job_id, held.dispatch_no, held.kind, held.lease_id, self.card.id, self.card.node)
            state = end_runs.refuse_kind(ledger, delivery, report.reason)
            log.warning("run_refused", job_id=str(held.job_id), kind=held.kind[:60], state=state)
            report.ack()
            self._deliveries.reported(report)
            return
        outcome = report.outcome
        if outcome == "crashed" and self.shutting_down_since is not None:
            outcome = "released" if held.lease_id in self._given_back else "lost"
        kind = REGISTRY.get(held.kind)
        state = end_runs.end_run(
            ledger, kind, held.job_id, held.dispatch_no, held.lease_id, outcome, report.reason, self.card.node
        )
        remove_leftovers(held.lease_id)
        if state == "cancelled":
            self._remove_outputs(held.job_id)
        worker_metrics().runs.labels(kind.queue, kind.name, outcome).inc()
        log.warning("run_ended_by_parent", job_id=str(held.job_id), outcome=outcome, state=state, reason=report.reason)
        report.ack()
        self._deliveries.reported(report)

    def _stop_zombies(self) -> None:
        """Kill the children whose run was taken away while this worker was frozen or cut off; it is refused.

        A run that was seen, and is seen no more at two looks: a claim that is not answered yet is none, and of a child
        that has settled the parent has heard by then.
        """
        if self.card.pool != "prefork":
            return
        taken = self._deliveries.taken()
        leases = {held.lease_id for held in taken}
        running = keep_worker.find_running(parent_ledger(), self.card.id, list(leases)) if leases else set()
        missing = (self._seen_running & leases) - running
        for held in taken:
            alone = sum(one.pid == held.pid for one in taken) == 1
            if held.lease_id in missing & self._missing and alone:
                log.warning("zombie_killed", job_id=str(held.job_id), pid=held.pid)
                self._kill(held.pid)  # its end comes back as a report, which finds that the job has moved on
        self._seen_running, self._missing = (self._seen_running | running) & leases, missing

    def _remove_outputs(self, job_id: UUID) -> None:
        """Remove what a cancelled run has put out."""
        remove_outputs(parent_ledger(), ArtifactStore(self._settings.artifact_url), job_id)

    def _cancel(self, order: CancelOrder) -> None:
        """The grace is over: kill the child, or abandon the thread, whose writes are refused from now on."""
        held = self._deliveries.get(order.lease_id)
        if held is None:
            return
        if self.card.pool == "prefork":
            if held.pid:
                log.warning("run_killed_on_cancel", job_id=str(order.job_id), pid=held.pid)
                self._kill(held.pid)  # its end comes back as a report
            return
        try:
            end_runs.abandon_run(parent_ledger(), order.job_id, order.lease_id)
            log.warning("run_abandoned_on_cancel", job_id=str(order.job_id))
            self._remove_outputs(order.job_id)
        except LeaseLost:
            pass


class Liveness(bootsteps.StartStopStep):  # type: ignore[misc]
    """Celery's bootstep around the heart. Started after the pool has forked."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        super().__init__(worker, **kwargs)
        self.heart: Heart | None = None
        config = settings()
        queues = sorted(worker.app.amqp.queues.consume_from)
        pool = POOLS.get(worker.pool_cls.__module__, worker.pool_cls.__module__)
        check_pool(pool, queues, config)
        worker.prefetch_multiplier = min(config.queues[name].prefetch for name in queues)
        self._card = WorkerCard(
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
        """Stand between the consumer and the pool; after the pool's own creation, before the consumer's."""
        _note_what_is_handed_over(worker)

    def start(self, worker: Any) -> None:
        """Begin to beat; sign off at the very end, when the pool has finished its runs."""
        config, queues = settings(), self._card.queues
        watchdog = Watchdog(
            DELIVERIES, queues, self._card.slots, config.watchdog_seconds, partial(missing_consumers, worker, queues)
        )
        self.heart = heart = Heart(self._card, DELIVERIES, config, watchdog)
        worker_shutting_down.connect(lambda **_: heart.shut_down(), weak=False)
        worker_shutdown.connect(lambda **_: heart.stop(), weak=False)
        heart.start()
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


def check_pool(pool: str, queues: list[str], config: Settings) -> None:
    """Refuse a pool that can't enforce what the queues promise. Raises `ConfigurationError`."""
    for name in queues:
        wanted = config.queues[name].pool
        if wanted != pool:
            raise ConfigurationError(
                f"queue {name!r} is set up for the {wanted} pool, this worker runs {pool}: start it with "
                f"`--pool {wanted}`, or change the queue in JOBPLATFORM_QUEUES"
            )
