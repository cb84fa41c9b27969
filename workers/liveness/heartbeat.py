"""Worker heartbeat thread. Runs in the parent process; renews leases, reports crashes, stops cancelled runs.

A crash counts only after the parent's next heartbeat: killing a whole worker hits its children first, and a worker that
goes down must not dead-letter its jobs.
"""

from __future__ import annotations

import threading
import time

from celery.worker.state import maybe_shutdown

from jobplatform.config import Settings
from jobplatform.domain.kinds import REGISTRY
from jobplatform.errors import LedgerUnavailable, OutcomeUnknown
from jobplatform.ledger.hints import CANCEL_CHANNEL, Listener
from jobplatform.observe.logs import get_log
from jobplatform.observe.metrics import worker_metrics
from jobplatform.usecases import end_runs, track_workers
from jobplatform.usecases.execute_run import Delivery
from jobplatform.usecases.store_artifacts import free_bytes
from jobplatform.usecases.track_workers import WorkerInfo
from workers.liveness.memory import note_peaks
from workers.liveness.stopping import Stopper
from workers.liveness.watchdog import Watchdog
from workers.runtime.context import remove_leftovers
from workers.runtime.deliveries import UNKNOWN_KIND, Deliveries, Held, Report
from workers.runtime.handover import GIVE_BACK_SECONDS, Handover
from workers.runtime.process import parent_ledger

log = get_log(__name__)

#: a missed heartbeat is retried soon: without its own session a worker may miss little more than two
RETRIES_PER_BEAT = 4
#: how long reports that need not wait for a heartbeat are gathered
PROMPT_SECONDS = 0.05


class Heartbeat:
    """Writes a heartbeat every `heartbeat_seconds` until stopped. `beat` is one step of it, which tests call."""

    def __init__(
        self,
        card: WorkerInfo,
        deliveries: Deliveries,
        settings: Settings,
        watchdog: Watchdog | None = None,
        stopper: Stopper | None = None,
        handover: Handover | None = None,
    ) -> None:
        self.card = card
        self._watchdog = watchdog
        self._handover = handover
        self._deliveries = deliveries
        self._settings = settings
        self._stopper = stopper or Stopper(card, deliveries, settings)
        self._stop = threading.Event()
        deliveries.wake = lambda: self._listener.wake()
        self._listener = Listener(parent_ledger().statements, CANCEL_CHANNEL)
        self._thread = threading.Thread(target=self._run, name="liveness", daemon=True)

    def start(self) -> None:
        """Register, then start the thread: the runs of an unregistered worker would be rescued."""
        while True:
            try:
                track_workers.register(parent_ledger(), self.card)
                break
            except (LedgerUnavailable, OutcomeUnknown) as error:
                log.warning("registration_waits_for_the_ledger", error=str(error))
                maybe_shutdown()
                time.sleep(1.0)
        self._thread.start()

    def stop(self) -> None:
        """Send the remaining reports, deregister, and stop."""
        self._stop.set()
        self._listener.wake()
        self._thread.join(timeout=10)

    def shut_down(self) -> None:
        """Handle SIGTERM: take no more jobs; running ones continue, for `shutdown_seconds` if there is a limit."""
        self._stopper.shutting_down_since = time.monotonic()
        self._deliveries.prompt.set()  # the ledger learns at once that this worker drains
        self._listener.wake()

    def _run(self) -> None:
        while not self._stop.is_set():
            pause = self._settings.heartbeat_seconds
            try:
                self.beat()
            except (LedgerUnavailable, OutcomeUnknown) as error:
                pause /= RETRIES_PER_BEAT
                worker_metrics().heartbeats.labels("missed").inc()
                log.warning("heartbeat_missed", error=str(error))
            except Exception:  # the heartbeat must continue: without it all runs of this worker are rescued
                log.exception("heartbeat_failed")
            self._wait(pause)
        try:
            self.beat()
            track_workers.deregister(parent_ledger(), self.card)
        except (LedgerUnavailable, OutcomeUnknown) as error:
            log.warning("deregistration_failed", error=str(error))

    def _wait(self, seconds: float) -> None:
        """Wait for the next heartbeat: shorter when a run of this worker is cancelled, or when it is to stop.

        Behind a pooler that drops notifications (PgBouncer in transaction mode) a cancel waits for the heartbeat.
        """
        until = time.monotonic() + seconds
        while not self._stop.is_set() and (left := until - time.monotonic()) > 0:
            if str(self.card.id) in self._listener.payloads(left):
                return
            if self._deliveries.prompt.is_set():
                self._stop.wait(PROMPT_SECONDS)  # gathers the reports that arrive together
                return

    def beat(self) -> None:
        """Write a heartbeat, then process what was waiting for it."""
        self._deliveries.prompt.clear()
        self._give_claims_back()
        reports = self._deliveries.reports()  # those that were left before this heartbeat
        markers = self._deliveries.markers()
        requests = track_workers.beat(
            parent_ledger(),
            self.card,
            self._deliveries.leases(),
            self._deliveries.waiting(),
            markers,
            draining=self._stopper.shutting_down_since is not None,
        )
        self._deliveries.forget_markers(markers)
        worker_metrics().heartbeats.labels("written").inc()
        note_peaks(self._deliveries.taken())
        if (free := free_bytes(self._settings.artifact_url)) is not None:
            worker_metrics().free_bytes.set(free)
        for report in reports:
            self._try_to_end(report)
        if orphans := self._deliveries.orphans(3 * self._settings.heartbeat_seconds):
            self._check_orphans(orphans)
        if self._watchdog is not None and self._stopper.shutting_down_since is None:
            self._watchdog.check(parent_ledger())
        self._stopper.stop_runs(requests)

    def _give_claims_back(self) -> None:
        """Give claims back that will not start soon: the worker stops, or its slots are busy for long."""
        if self._handover is None:
            return
        if self._stopper.shutting_down_since is not None:
            self._handover.give_back("its worker was asked to end")
        else:
            self._handover.give_back("no slot of its worker became free", GIVE_BACK_SECONDS)

    def _check_orphans(self, orphans: list[Held]) -> None:
        """Forget deliveries that the pool gave up and that run nowhere; those it had claimed are given back first."""
        if self.card.pool == "prefork":  # a thread pool still has what it gave up, and will run it
            for held in orphans:
                if (
                    held.is_claimed
                    and not held.is_written
                    and end_runs.give_claim_back(
                        parent_ledger(), held.job_id, held.lease_id, "its worker's connection to RabbitMQ was lost"
                    )
                ):
                    log.warning("claim_released", job_id=str(held.job_id))
        leases = {held.lease_id for held in orphans}
        running = track_workers.find_running(parent_ledger(), self.card.id, list(leases))
        self._deliveries.forget_orphans(leases - running)

    def _try_to_end(self, report: Report) -> None:
        try:
            self._end(report)
        except (LedgerUnavailable, OutcomeUnknown):
            raise  # as after a missed heartbeat: everything is repeated
        except Exception:
            # a report that fails must not block the others. Heartbeats no longer name its lease, so rescue ends its
            # run. Its message is not acknowledged, as nothing was committed: the next connection receives it again
            log.exception("report_failed", job_id=str(report.held.job_id), outcome=report.outcome)
            if report.outcome == UNKNOWN_KIND:
                report.ack()  # rejects it: the recorder takes over
            self._deliveries.reported(report)

    def _end(self, report: Report) -> None:
        """Settle a run whose child ended without doing so; its message is acknowledged when that is committed."""
        held, ledger = report.held, parent_ledger()
        if report.outcome == UNKNOWN_KIND:
            delivery = Delivery(held.job_id, held.dispatch_no, held.kind, held.lease_id, self.card.id, self.card.node)
            state = end_runs.refuse_kind(
                ledger,
                delivery,
                report.reason,
                patience_seconds=self._settings.unknown_kind_seconds,
                lease_seconds=self._settings.lease_seconds,
            )
            log.warning("run_refused", job_id=str(held.job_id), kind=held.kind[:60], state=state)
            report.ack()
            self._deliveries.reported(report)
            return
        outcome = report.outcome
        if outcome == "crashed" and self._stopper.shutting_down_since is not None:
            outcome = "released" if held.lease_id in self._stopper.given_back else "lost"
        kind = REGISTRY.get(held.kind)
        facts = {**report.facts(), "worker": self.card.node}
        state = end_runs.end_run(
            ledger, kind, held.job_id, held.dispatch_no, held.lease_id, outcome, report.reason, facts
        )
        remove_leftovers(held.lease_id)
        worker_metrics().runs.labels(kind.queue, kind.name, outcome).inc()
        log.warning("run_ended_by_parent", job_id=str(held.job_id), outcome=outcome, state=state, reason=report.reason)
        report.ack()
        self._deliveries.reported(report)
