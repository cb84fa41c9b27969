"""Periodic tasks of a dispatcher: heartbeat, schedules, AMQP ingress, webhooks, lost and dead messages, retention.

Each has its own timer. A task that fails delays neither dispatching nor the other tasks.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from uuid import UUID

from jobplatform.broker.dead_letters import DeadLetterReader
from jobplatform.broker.publisher import Publisher
from jobplatform.broker.submissions import SubmissionReader
from jobplatform.config import Settings
from jobplatform.dispatch.every import Every
from jobplatform.dispatch.ingress import Ingress
from jobplatform.dispatch.markers import detect_lost_messages
from jobplatform.dispatch.recorder import Recorder
from jobplatform.domain.jobs import DEFAULT_PRIORITY
from jobplatform.domain.kinds import KindRegistry, load_kinds
from jobplatform.errors import BrokerUnavailable, ConfigurationError, LedgerBusy, LedgerUnavailable, OutcomeUnknown
from jobplatform.ledger import (
    dead_letters,
    dead_messages,
    dispatching,
    effects,
    feed,
    keys,
    limits,
    queues,
    submissions,
    workers,
    workflows,
)
from jobplatform.ledger.ids import new_id
from jobplatform.ledger.session import Ledger
from jobplatform.observe.logs import get_log
from jobplatform.observe.metrics import dispatcher_metrics
from jobplatform.usecases.enqueue_webhooks import enqueue_webhooks
from jobplatform.usecases.fire_schedules import fire_schedules
from jobplatform.usecases.manage_webhooks import delivering
from jobplatform.usecases.run_maintenance import declare_schedules
from jobplatform.usecases.stop_workflows import finish_stopping_workflows
from jobplatform.usecases.validate_submissions import validate_submissions

log = get_log(__name__)

HOUSE_SECONDS, RECORD_SECONDS, REPLAYS_SECONDS, WORKFLOWS_SECONDS = 3600.0, 1.0, 2.0, 1.0
#: jobs of a stopping workflow per transaction; and the time limit of one pass over all workflows (s)
STOP_LIMIT, STOP_SECONDS = 250, 0.3
#: poll interval for schedules that were added since the last poll (s), and schedules per transaction
SCHEDULES_SECONDS, SCHEDULES_LIMIT = 0.5, 500
#: poll interval of feeds with webhooks (s), and events of each per poll
WEBHOOKS_SECONDS, WEBHOOKS_LIMIT = 0.5, 500
#: poll interval for jobs submitted in other transactions (s), jobs per transaction, and for how long a kind can
#: be submitted that no dispatcher knows any more
SUBMISSION_SECONDS, SUBMISSION_LIMIT, KINDS_SECONDS = 0.25, 100, 2 * 86_400.0
#: pause after a failure other than an outage of the ledger (s)
RETRY_SECONDS, LONG_RETRY_SECONDS = 5.0, 60.0


class PeriodicTasks:
    """The periodic tasks of one dispatcher. `broker_error` is empty while RabbitMQ is available."""

    def __init__(
        self, settings: Settings, ledger: Ledger, publisher: Publisher, broker_error: Callable[[], str]
    ) -> None:
        self._settings, self._ledger, self._publisher = settings, ledger, publisher
        self._broker_error = broker_error
        self._id = new_id()
        #: queues that got jobs by a periodic task: "queue priority,…"
        self.woken = ""
        #: the stopping workflow that was processed last
        self._stopped: UUID | None = None
        #: read once: a process that knows other kinds is another process
        self._kinds: KindRegistry | None = None
        url = settings.broker_url.get_secret_value()
        self._recorder = Recorder(ledger, DeadLetterReader(url))
        self._ingress = Ingress(settings, ledger, SubmissionReader(url))
        #: name → timer, task (returns whether it has more to do immediately), and pause after a failure (s)
        self._tasks: dict[str, tuple[Every, Callable[[], bool], float]] = {
            "retention": (Every(HOUSE_SECONDS), self._delete_expired, LONG_RETRY_SECONDS),
            "beat": (Every(settings.heartbeat_seconds), self._beat, RETRY_SECONDS),
            "markers": (Every(settings.heartbeat_seconds), self._detect_lost_messages, RETRY_SECONDS),
            "record": (Every(RECORD_SECONDS), self._recorder.poll, RETRY_SECONDS),
            "schedules": (Every(SCHEDULES_SECONDS), self._fire_schedules, RETRY_SECONDS),
            "kinds": (Every(HOUSE_SECONDS), self._put_kinds, LONG_RETRY_SECONDS),
            "validation": (Every(SUBMISSION_SECONDS), self._validate_submissions, RETRY_SECONDS),
            "ingress": (Every(SUBMISSION_SECONDS), self._accept_messages, RETRY_SECONDS),
            "webhooks": (Every(WEBHOOKS_SECONDS), self._enqueue_webhooks, RETRY_SECONDS),
            "workflows": (Every(WORKFLOWS_SECONDS), self._stop_workflows, RETRY_SECONDS),
            "replays": (Every(REPLAYS_SECONDS), self._watch_replays, RETRY_SECONDS),
        }

    def run(self) -> bool:
        """Run the tasks that are due; returns whether one of them has more to do immediately.

        Raises `LedgerUnavailable` or `OutcomeUnknown`.
        """
        more = False
        for name, (every, act, retry_seconds) in self._tasks.items():
            if not every.due():
                continue
            try:
                if act():
                    every.again()
                    more = True
            except (LedgerBusy, BrokerUnavailable, ConfigurationError) as error:
                # a dump may lock the table of a new partition; the broker is down; a queue is not declared yet
                every.again(retry_seconds)
                log.warning("periodic_task_postponed", task=name, error=str(error), retry_seconds=retry_seconds)
            except (LedgerUnavailable, OutcomeUnknown):
                raise
            except Exception:
                every.again(retry_seconds)
                dispatcher_metrics().failures.labels("bug").inc()
                log.exception("periodic_task_failed", task=name, retry_seconds=retry_seconds)
        return more

    def seconds_until_schedules(self) -> float:
        """Return the seconds until the next schedule is due."""
        return self._tasks["schedules"][0].seconds_left()

    def close(self) -> None:
        """Delete the dispatcher's row, and close all connections."""
        with suppress(LedgerUnavailable, OutcomeUnknown), self._ledger.statement() as connection:
            dispatching.forget_dispatcher(connection, self._id)
        self._recorder.close()
        self._ingress.close()

    def _beat(self) -> bool:
        """Write the dispatcher's heartbeat, which `explain` and the doctor read."""
        error = self._broker_error()[:500] or None
        with self._ledger.statement() as connection:
            dispatching.record_dispatcher_heartbeat(connection, self._id, socket.gethostname(), os.getpid(), error)
        return False

    def _detect_lost_messages(self) -> bool:
        if not self._broker_error():
            config = self._settings
            detect_lost_messages(self._ledger, self._publisher, config.marker_seconds, config.lease_seconds)
        return False

    def _watch_replays(self) -> bool:
        with self._ledger.transaction() as connection:
            ended = dead_letters.watch_replays(connection)
        for item in ended:
            log.info(
                "replay_ended",
                replay_id=str(item.id),
                state=item.state,
                died_again=item.died_again,
                stopped=item.stopped,
            )
        return False

    def _fire_schedules(self) -> bool:
        """Fire due schedules, and set the timer to the next due time."""
        fired = fire_schedules(self._ledger, limit=SCHEDULES_LIMIT, grace_seconds=self._settings.schedule_grace_seconds)
        self.woken = ",".join(filter(None, (self.woken, fired.woken)))
        if fired.fires:
            dispatcher_metrics().fired.inc(fired.fires)
        soon = SCHEDULES_SECONDS if fired.seconds is None else min(SCHEDULES_SECONDS, max(0.02, fired.seconds))
        self._tasks["schedules"][0].again(0.0 if fired.more else soon)
        return fired.more

    def _put_kinds(self) -> bool:
        """Publish the known kinds, for submissions in other transactions."""
        if self._kinds is None:
            self._kinds = load_kinds(self._settings.kind_modules, self._settings.pools)
        with self._ledger.transaction() as connection:
            submissions.put_kinds(connection, self._kinds)
            submissions.put_settings(
                connection,
                max_body_bytes=self._settings.max_body_bytes,
                idempotency_seconds=self._settings.idempotency_seconds,
            )
            if (offset := feed.rebase_feed(connection)) is not None:
                log.warning("feed_rebased", reason="the ledger was restored into another cluster", offset=offset)
            submissions.forget_kinds(connection, KINDS_SECONDS)
        return False

    def _validate_submissions(self) -> bool:
        """Validate jobs that were submitted in other transactions, and release them."""
        if self._kinds is None:
            return False
        looked = validate_submissions(self._ledger, self._kinds, SUBMISSION_LIMIT)
        self.woken = ",".join(filter(None, (self.woken, looked.woken)))
        return looked.more

    def _accept_messages(self) -> bool:
        """Accept submissions from AMQP."""
        return self._kinds is not None and self._ingress.poll(self._kinds)

    def _enqueue_webhooks(self) -> bool:
        """Create the jobs that deliver webhooks."""
        kind = delivering(self._settings)
        enqueued = enqueue_webhooks(self._ledger, kind, WEBHOOKS_LIMIT)
        if enqueued.messages:
            self.woken = ",".join(filter(None, (self.woken, f"{kind.queue} {DEFAULT_PRIORITY}")))
        return enqueued.more

    def _stop_workflows(self) -> bool:
        """Cancel the remaining jobs of workflows that failed, were cancelled, or timed out."""
        with self._ledger.transaction() as connection:
            timed_out = workflows.time_out_workflows(connection)
        if timed_out:
            log.info("workflows_timed_out", count=timed_out)
        more, self._stopped = finish_stopping_workflows(self._ledger, self._stopped, STOP_LIMIT, STOP_SECONDS)
        return more

    def _delete_expired(self) -> bool:
        """Hourly: create partitions ahead of time, configured queues, and delete data past its retention period."""
        with self._ledger.transaction() as connection:
            for name, queue in self._settings.queues.items():
                queues.put_queue(connection, name, queue.window_min, queue.window_factor)
            made = dispatching.ensure_partitions(connection)
            workers.forget_stopped(connection)
            dispatching.forget_dispatcher(connection)
            dead_letters.forget_replays(connection)
        if self._settings.builtin_schedules:
            declare_schedules(self._ledger, self._settings)
        if made:
            log.info("partitions_made", count=made)
        more = False
        for forget in (
            keys.forget_expired_keys,
            keys.forget_expired_locks,
            dead_messages.forget_dead_messages,
            effects.forget_effects,
            limits.forget_states,
        ):
            with self._ledger.transaction() as connection:
                more = forget(connection) >= 1000 or more
        return more  # one batch of each at a time: jobs are dispatched in between
