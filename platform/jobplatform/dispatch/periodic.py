"""What a dispatcher does besides dispatching: house, sign of life, lost and dead messages, replays.

Each on a timer of its own, and one that fails keeps neither the jobs nor the others waiting.
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
from jobplatform.usecases.stop_workflows import stop_workflows_that_ended
from jobplatform.usecases.validate_submissions import validate_submissions

log = get_log(__name__)

HOUSE_SECONDS, RECORD_SECONDS, REPLAYS_SECONDS, WORKFLOWS_SECONDS = 3600.0, 1.0, 2.0, 1.0
#: jobs of a workflow that stops, called off in one transaction; and how long one look at all of them may take
STOP_LIMIT, STOP_SECONDS = 250, 0.3
#: how often schedules are looked at that nobody knew of at the last look, and how many in one transaction
SCHEDULES_SECONDS, SCHEDULES_LIMIT = 0.5, 500
#: how often the feeds of tenants with webhooks are looked at, and how many events of each at a time
WEBHOOKS_SECONDS, WEBHOOKS_LIMIT = 0.5, 500
#: how often orders of others' transactions are looked at, and how many in one transaction; and for how long a kind can
#: be ordered that no dispatcher knows any more
ORDERS_SECONDS, ORDERS_LIMIT, KINDS_SECONDS = 0.25, 100, 2 * 86_400.0
#: after a failure that is no outage of the ledger
RETRY_SECONDS, LONG_RETRY_SECONDS = 5.0, 60.0


class PeriodicTasks:
    """The duties of one dispatcher. `broker_error` is empty while RabbitMQ can be used."""

    def __init__(
        self, settings: Settings, ledger: Ledger, publisher: Publisher, broker_error: Callable[[], str]
    ) -> None:
        self._settings, self._ledger, self._publisher = settings, ledger, publisher
        self._broker_error = broker_error
        self._id = new_id()
        #: the queues that got jobs by a duty: "queue priority,…"
        self.woken = ""
        #: of the workflows that stop, the one that was looked at last
        self._stopped: UUID | None = None
        #: read once: a process that knows other kinds is another process
        self._kinds: KindRegistry | None = None
        url = settings.broker_url.get_secret_value()
        self._recorder = Recorder(ledger, DeadLetterReader(url))
        self._ingress = Ingress(settings, ledger, SubmissionReader(url))
        #: name → when, what (returns whether there is more to do at once), and how long after a failure
        self._duties: dict[str, tuple[Every, Callable[[], bool], float]] = {
            "house": (Every(HOUSE_SECONDS), self._delete_expired, LONG_RETRY_SECONDS),
            "beat": (Every(settings.heartbeat_seconds), self._beat, RETRY_SECONDS),
            "markers": (Every(settings.heartbeat_seconds), self._detect_lost_messages, RETRY_SECONDS),
            "record": (Every(RECORD_SECONDS), self._recorder.poll, RETRY_SECONDS),
            "schedules": (Every(SCHEDULES_SECONDS), self._fire_schedules, RETRY_SECONDS),
            "kinds": (Every(HOUSE_SECONDS), self._put_kinds, LONG_RETRY_SECONDS),
            "orders": (Every(ORDERS_SECONDS), self._validate_submissions, RETRY_SECONDS),
            "ingress": (Every(ORDERS_SECONDS), self._accept_messages, RETRY_SECONDS),
            "webhooks": (Every(WEBHOOKS_SECONDS), self._tell_webhooks, RETRY_SECONDS),
            "workflows": (Every(WORKFLOWS_SECONDS), self._stop_workflows, RETRY_SECONDS),
            "replays": (Every(REPLAYS_SECONDS), self._watch_replays, RETRY_SECONDS),
        }

    def run(self) -> bool:
        """Do what is due; returns whether there is more to do at once.

        Raises `LedgerUnavailable` or `OutcomeUnknown`: then nothing can be done.
        """
        more = False
        for name, (every, act, retry_seconds) in self._duties.items():
            if not every.due():
                continue
            try:
                if act():
                    every.again()
                    more = True
            except (LedgerBusy, BrokerUnavailable, ConfigurationError) as error:
                # a dump may hold what a new partition needs; the broker is away; a queue is not declared yet
                every.again(retry_seconds)
                log.warning("duty_waits", duty=name, error=str(error), retry_seconds=retry_seconds)
            except (LedgerUnavailable, OutcomeUnknown):
                raise
            except Exception:
                every.again(retry_seconds)
                dispatcher_metrics().failures.labels("bug").inc()
                log.exception("duty_failed", duty=name, retry_seconds=retry_seconds)
        return more

    def seconds_until_schedules(self) -> float:
        """Return when schedules want to be looked at next."""
        return self._duties["schedules"][0].seconds_left()

    def at_once(self, name: str) -> None:
        """Make a duty due at the next run."""
        self._duties[name][0].again()

    def close(self) -> None:
        """Sign off, and close what is open."""
        with suppress(LedgerUnavailable, OutcomeUnknown), self._ledger.statement() as connection:
            dispatching.forget_dispatcher(connection, self._id)
        self._recorder.close()
        self._ingress.close()

    def _beat(self) -> bool:
        """Let the ledger know, for those who ask why a job does not run."""
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
        """Make the jobs of schedules that are due, and be there again when the next one is."""
        fired = fire_schedules(self._ledger, limit=SCHEDULES_LIMIT, grace_seconds=self._settings.schedule_grace_seconds)
        self.woken = ",".join(filter(None, (self.woken, fired.woken)))
        if fired.fires:
            dispatcher_metrics().fired.inc(fired.fires)
        soon = SCHEDULES_SECONDS if fired.seconds is None else min(SCHEDULES_SECONDS, max(0.02, fired.seconds))
        self._duties["schedules"][0].again(0.0 if fired.more else soon)
        return fired.more

    def _put_kinds(self) -> bool:
        """Note the kinds that can be ordered in transactions of others."""
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
        """Look at what was ordered in transactions of others, and let it go."""
        if self._kinds is None:
            return False
        looked = validate_submissions(self._ledger, self._kinds, ORDERS_LIMIT)
        self.woken = ",".join(filter(None, (self.woken, looked.woken)))
        return looked.more

    def _accept_messages(self) -> bool:
        """Make jobs of orders that came as messages."""
        return self._kinds is not None and self._ingress.poll(self._kinds)

    def _tell_webhooks(self) -> bool:
        """Make the jobs that deliver webhooks."""
        kind = delivering(self._settings)
        told = enqueue_webhooks(self._ledger, kind, WEBHOOKS_LIMIT)
        if told.messages:
            self.woken = ",".join(filter(None, (self.woken, f"{kind.queue} {DEFAULT_PRIORITY}")))
        return told.more

    def _stop_workflows(self) -> bool:
        """Call off what is left of workflows that have failed, were cancelled, or took too long."""
        with self._ledger.transaction() as connection:
            timed_out = workflows.time_out_workflows(connection)
        if timed_out:
            log.info("workflows_timed_out", count=timed_out)
        more, self._stopped = stop_workflows_that_ended(self._ledger, self._stopped, STOP_LIMIT, STOP_SECONDS)
        return more

    def _delete_expired(self) -> bool:
        """Once an hour: partitions ahead of time, configured queues, and what nobody needs any more."""
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
        return more  # a batch of each at a time: jobs go out in between
