"""The dispatcher, the only component that publishes jobs. One loop, no threads; run two for availability."""

from __future__ import annotations

import time
from functools import partial

from jobplatform.broker.publisher import Publisher
from jobplatform.config import QueueSettings, Settings
from jobplatform.dispatch.backoff import Backoff
from jobplatform.dispatch.every import Every
from jobplatform.dispatch.guard import guard_epoch
from jobplatform.dispatch.pace import Pace
from jobplatform.dispatch.periodic import PeriodicTasks
from jobplatform.dispatch.policy import Policy
from jobplatform.dispatch.queue_round import RoundReport, run_round
from jobplatform.dispatch.rescue import POLLS_PER_BEAT, Rescuer
from jobplatform.dispatch.waiting import Waiting
from jobplatform.domain.window import window_of
from jobplatform.errors import BrokerUnavailable, LedgerBusy, LedgerUnavailable, OutcomeUnknown
from jobplatform.ledger import dispatching, workers
from jobplatform.ledger.hints import FREED, HintListener, read_woken
from jobplatform.ledger.session import DISPATCHER, open_ledger
from jobplatform.observe.logs import get_log
from jobplatform.observe.metrics import dispatcher_metrics

log = get_log(__name__)

#: interval of a scan of all scheduled jobs (s); in between only those due within the last `DUE_SLACK_SECONDS`
ALL_DUE_SECONDS = DUE_SLACK_SECONDS = 60.0
WAKE_LIMIT = 1000
GUARD_SECONDS = 2.0
SLOTS_SECONDS = 1.0
#: flows that a step reads to find unknown ones
SWEPT_LINES = 500
PROBE_SECONDS = 5.0
NOTHING_SECONDS = 0.02
#: s; slots of limit keys were returned: how long to collect more of them before a round
FREED_SECONDS = 0.01
_BROKER, _LEDGER = "broker", "ledger"


class Dispatcher:
    """Activates due jobs, dispatches them, rescues runs, and guards the broker's epoch."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ledger = open_ledger(
            settings.database_url.get_secret_value(), name="dispatcher", limits=DISPATCHER, connections=3
        )
        self._listener = HintListener(self._ledger.statements)
        self._publisher = Publisher(settings.broker_url.get_secret_value(), confirm_seconds=settings.confirm_seconds)
        self._backoff = Backoff(settings.max_backoff_seconds)
        self._probe = Backoff(PROBE_SECONDS)
        self._policy = Policy()
        self._waiting: dict[str, Waiting] = {}
        self._rescuer = Rescuer(
            self._ledger, heartbeat_seconds=settings.heartbeat_seconds, lease_seconds=settings.lease_seconds
        )
        self._broker_error = ""
        self._periodic = PeriodicTasks(settings, self._ledger, self._publisher, lambda: self._broker_error)
        self._guard_every = Every(GUARD_SECONDS)
        self._guarded_connection = 0
        self._slots_every = Every(SLOTS_SECONDS)
        self._rescue_every = Every(settings.heartbeat_seconds / POLLS_PER_BEAT)
        self._due_every = Every(settings.dispatch_poll_seconds)
        self._all_due_every = Every(ALL_DUE_SECONDS)
        self._waiting_every = Every(settings.dispatch_poll_seconds)
        self._slots: dict[str, tuple[int, int]] = {}
        self._next_due_at = 0.0
        #: queue → time of its next round
        self._look_at: dict[str, float] = {}
        #: queue whose window is full → the highest priority without a slot
        self._closed: dict[str, int] = {}
        self._paces: dict[str, Pace] = {}
        self._metrics = dispatcher_metrics()
        self._stopping = False

    def stop(self) -> None:
        """Ask the loop to end after its current step; safe in a signal handler."""
        self._stopping = True

    def run(self) -> None:
        """Work until `stop`."""
        log.info("dispatcher_started", queues=sorted(self._settings.queues))
        while not self._stopping:
            try:
                wait = self.step()
            except (LedgerUnavailable, OutcomeUnknown) as error:
                # a lost response to a mark is a doubt like any other: a duplicate message is harmless (I3)
                wait = self._probe.failed(_LEDGER)
                self._metrics.failures.labels("ledger").inc()
                log.warning("ledger_unavailable", error=str(error), retry_seconds=wait)
                self._pause(wait)
                continue
            except Exception:  # a bug in one step must not end the process that carries all jobs
                wait = self._probe.failed(_LEDGER)
                self._metrics.failures.labels("bug").inc()
                log.exception("dispatcher_step_failed", retry_seconds=wait)
                self._pause(wait)
                continue
            self._probe.succeeded(_LEDGER)
            self._note_hints(self._listener.wait(wait))
        self._periodic.close()
        self._publisher.close()
        self._listener.close()
        self._ledger.close()
        log.info("dispatcher_stopped")

    def _pause(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self._stopping and time.monotonic() < deadline:
            time.sleep(0.05)

    def step(self) -> float:
        """Run everything that is due; returns the seconds until the next step, 0 when there is more to do."""
        more = self._periodic.run()
        if self._periodic.woken:
            self._note_hints(read_woken(self._periodic.woken))
            self._periodic.woken = ""
        self._guard()
        if self._rescue_every.due():
            self._rescuer.poll()
        if self._slots_every.due():
            with self._ledger.statement() as connection:
                self._slots = workers.live_slots(connection, self._settings.lease_seconds)
            self._policy.read(self._ledger)
        self._make_due()
        if self._waiting_every.due():
            self._find_waiting()
        more |= self._sweep()
        now = time.monotonic()
        for queue in sorted(queue for queue, at in self._look_at.items() if at <= now):
            self._look(queue)
        if more:
            return 0.0
        soonest = min([self._next_due_at, *self._look_at.values()]) - time.monotonic()
        waits = (self._settings.dispatch_poll_seconds, self._periodic.seconds_until_schedules(), soonest)
        return max(0.0, min(waits))

    def _memory(self, queue: str) -> Waiting:
        if queue not in self._waiting:
            self._waiting[queue] = Waiting(self._policy.weight)
        return self._waiting[queue]

    def _find_waiting(self) -> None:
        """Find queues with waiting jobs of which this process was not notified."""
        marks = {queue: mark for queue, waiting in self._waiting.items() if (mark := waiting.arrived_from)}
        for queue in dispatching.waiting_queues(self._ledger, marks):
            self._look_at.setdefault(queue, 0.0)
            self._memory(queue)
        for queue, waiting in self._waiting.items():
            if len(waiting.shares):
                self._look_at.setdefault(queue, 0.0)

    def _sweep(self) -> bool:
        """Find flows that this process does not know; returns whether there are more to read."""
        more = False
        for queue, waiting in self._waiting.items():
            before = len(waiting.shares)
            more |= waiting.sweep(partial(dispatching.sweep_flows, self._ledger, queue), SWEPT_LINES)
            if len(waiting.shares) > before:
                self._look_at.setdefault(queue, 0.0)
        return more

    def _note_hints(self, due: dict[str, int]) -> None:
        """Schedule rounds for notified queues, except for jobs that have no slot in a full window."""
        if due.pop(FREED, None) is not None:
            soon = time.monotonic() + FREED_SECONDS
            for queue, waiting in self._waiting.items():
                if waiting.shares.blocking_keys:
                    self._look_at[queue] = min(soon, self._look_at.get(queue, soon))
        for queue, priority in due.items():
            if priority > self._closed.get(queue, -1):
                self._look_at[queue] = 0.0

    def _look(self, queue: str) -> None:
        """Run a round of a queue and schedule the next: at once, when the window is worth it, or on notification."""
        self._look_at.pop(queue, None)  # before it runs: a queue that fails must not be first every time
        self._closed.pop(queue, None)
        report = self._round(queue)
        if report.skipped:
            return
        pace = self._paces.setdefault(queue, Pace())
        pace.note(report.active, report.sent)
        if report.full:
            self._closed[queue] = report.closed
            wait = pace.seconds_until_worth_it(self._window(queue))
        elif report.waiting:
            # nothing was dispatched although it could be: another transaction has locked a job's row
            wait = 0.0 if report.sent else NOTHING_SECONDS
        elif report.limited_seconds is not None:
            wait = report.limited_seconds
        else:
            return
        self._look_at[queue] = time.monotonic() + wait

    def _window(self, queue: str) -> int:
        configured = self._settings.queues.get(queue, QueueSettings())
        slots = self._slots.get(queue, (0, 0))[0]
        rate = self._paces[queue].per_second if queue in self._paces else 0.0
        return window_of(configured.window_min, configured.window_factor, slots, rate, configured.window_seconds)

    def _make_due(self) -> None:
        if not self._due_every.due() and time.monotonic() < self._next_due_at:
            return
        slack = None if self._all_due_every.due() else DUE_SLACK_SECONDS
        try:
            woken = dispatching.wake_jobs(self._ledger, WAKE_LIMIT, slack)
        except BaseException:
            self._all_due_every.again()
            raise
        self._look_at |= dict.fromkeys(woken.queues, 0.0)
        if woken.more:  # a backlog, for instance after an outage: scan everything until it is done
            self._all_due_every.again()
        # a due job whose row is locked is retried a little later, not in a busy loop
        soon = woken.seconds if woken.seconds is not None else 3600.0
        self._next_due_at = time.monotonic() + (0.0 if woken.more else max(soon, 0.02))

    def _guard(self) -> None:
        if not self._probe.ready(_BROKER):
            return
        # on a new connection at once: the broker may have restarted, without the messages of dispatched jobs
        reconnected = self._publisher.connections_opened != self._guarded_connection
        if not self._guard_every.due() and not reconnected:
            return
        self._publisher.keep_alive()
        try:
            guard_epoch(self._ledger, self._publisher, self._settings.queue_type)
            self._guarded_connection = self._publisher.connections_opened
        except BrokerUnavailable as error:
            wait = self._probe.failed(_BROKER)
            self._broker_error = str(error)
            log.warning("broker_unavailable", error=str(error), retry_seconds=wait)
        else:
            if self._probe.doubtful(_BROKER):  # RabbitMQ is back: no queue needs to wait for its back-off
                self._backoff.try_now()
                log.info("broker_is_back")
            self._probe.succeeded(_BROKER)
            self._broker_error = ""

    def _round(self, queue: str) -> RoundReport:
        if not self._backoff.ready(queue) or not self._probe.ready(_BROKER):
            return RoundReport(skipped="backing off")
        window = self._window(queue)
        self._metrics.window.labels(queue).set(window)
        batch = 1 if self._backoff.doubtful(queue) else self._settings.dispatch_batch
        try:
            with self._metrics.rounds.labels(queue).time():
                waiting = self._memory(queue)
                order = self._settings.queues.get(queue, QueueSettings()).order
                report = run_round(self._ledger, self._publisher, waiting, self._policy, queue, window, batch, order)
        except BrokerUnavailable as error:
            wait = self._backoff.failed(queue)
            self._metrics.failures.labels("broker").inc()
            log.warning("dispatch_failed", queue=queue, error=str(error), retry_seconds=wait)
            return RoundReport(skipped="broker unavailable")
        except LedgerBusy as error:  # of this queue only: the others continue
            wait = self._backoff.failed(queue)
            self._metrics.failures.labels("busy").inc()
            log.warning("dispatch_failed", queue=queue, error=str(error), retry_seconds=wait)
            return RoundReport(skipped="ledger busy")
        except (LedgerUnavailable, OutcomeUnknown):
            raise
        except Exception:
            wait = self._backoff.failed(queue)
            self._metrics.failures.labels("bug").inc()
            log.exception("dispatch_failed", queue=queue, retry_seconds=wait)
            return RoundReport(skipped="failed")
        self._metrics.dispatched.labels(queue).inc(report.sent)
        for reason, count in (("unroutable", report.unroutable), ("full", report.refused)):
            if count:
                self._metrics.refused.labels(queue, reason).inc(count)
        if report.unroutable:
            wait = self._backoff.failed(queue)
            log.error(
                "queue_missing_in_broker",
                queue=queue,
                jobs=report.unroutable,
                remedy="run `jobplatform broker apply`",
                retry_seconds=wait,
            )
        elif report.refused:
            log.warning("queue_full_in_broker", queue=queue, retry_seconds=self._backoff.failed(queue))
        elif report.sent:
            self._backoff.succeeded(queue)
        return report
