"""Hardened Celery consumer: every request is rebuilt from job id and dispatch number (I3).

Celery's own consumer obeys a message (callbacks, chains, time limits, eta), and a malformed one stops all workers, one
after the other (celery#7975). Here a message is a hint: one that is malformed is rejected to `jobs.dead`, where it is
recorded, and the worker continues.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import UUID

from celery.utils.threads import bound_open_broker_sockets
from celery.worker.consumer import Consumer
from celery.worker.state import maybe_shutdown

from jobplatform.broker.envelope import BODY, DISPATCH_NO, MARKER_KIND, MalformedMessage, read_headers
from jobplatform.config import settings
from jobplatform.domain.kinds import REGISTRY
from jobplatform.ledger.ids import new_id
from jobplatform.observe.logs import get_log
from workers.runtime.deliveries import DELIVERIES, UNKNOWN_KIND, Held, Report
from workers.runtime.process import WORKER_ID
from workers.runtime.request import LedgerRequest
from workers.runtime.task import CAN_DEFER, LEASE, WORKER

log = get_log(__name__)

#: longest wait for RabbitMQ's reply to the close of a connection
ANSWER_SECONDS = 1.0
#: longest pause between two attempts to connect to RabbitMQ
RECONNECT_SECONDS = 2.0


class LedgerConsumer(Consumer):  # type: ignore[misc]
    """See the module."""

    def on_close(self) -> None:
        """The broker connection is lost: the pool gives up deliveries that no child has started; others continue."""
        super().on_close()
        DELIVERIES.orphan_unstarted()
        if LedgerRequest.handover is not None:
            LedgerRequest.handover.give_back("its worker's connection to RabbitMQ was lost")

    def ensure_connected(self, connection: Any) -> Any:
        """Connect, and retry until it works: quickly at first, every few seconds later. Celery waits up to 30 s, which
        is longer than a lease, and no job would start for that long after the broker is back."""

        def note(error: Exception, seconds: float) -> None:
            log.warning("broker_unavailable", error=str(error), retry_seconds=round(seconds, 1))

        return connection.ensure_connection(
            note, callback=maybe_shutdown, interval_start=0.2, interval_step=0.4, interval_max=RECONNECT_SECONDS
        )

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """As in Celery, which closes its event connection when it reconnects, and would wait for the reply."""
        DELIVERIES.note_lost_connection()
        self._bound_good_byes()
        super().on_connection_error_after_connected(exc)

    def shutdown(self) -> None:
        """As in Celery, with a bounded wait for RabbitMQ. The pool has ended, and all messages are acknowledged."""
        if LedgerRequest.handover is not None:
            LedgerRequest.handover.close("its worker was asked to end", settings().shutdown_seconds or None)
        self._bound_good_byes()
        super().shutdown()

    def _bound_good_byes(self) -> None:
        """Bound the wait for replies. Under an alarm RabbitMQ reads nothing from connections that have published, not
        even a close: a worker that shuts down or reconnects would hang until the alarm ends."""
        for connection in (self.connection, getattr(self.event_dispatcher, "connection", None)):
            if connection is not None:
                bound_open_broker_sockets(connection, ANSWER_SECONDS)

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], Any]:
        """Wrap Celery's handler: rebuild every message for it, and reject a message on which it fails."""
        handle = super().create_task_handler(*args, **kwargs)

        def on_message(message: Any) -> Any:
            try:
                rebuild(message)
            except MalformedMessage as error:
                return self._refuse(message, str(error))
            if message.headers["task"] == MARKER_KIND:
                DELIVERIES.receive_marker(UUID(message.headers["id"]))
                return message.ack_log_error(log, self.connection_errors)
            if message.headers["task"] not in REGISTRY or message.headers["task"] not in self.strategies:
                return self._report_unknown_kind(message)
            lease_id = UUID(message.headers[LEASE])
            DELIVERIES.receive(lease_id, UUID(message.headers["id"]))
            try:
                return handle(message)
            except (KeyError, ValueError, TypeError, AttributeError) as error:
                DELIVERIES.remove(lease_id)
                log.exception("message_handling_failed")
                return self._refuse(message, repr(error))

        return on_message

    def _report_unknown_kind(self, message: Any) -> None:
        """Let the liveness thread record it in the ledger: another worker may know the kind (a rolling deployment)."""
        headers = message.headers
        held = Held(UUID(headers["id"]), headers[DISPATCH_NO], UUID(headers[LEASE]), headers["task"])
        reject = partial(message.reject_log_error, log, self.connection_errors)
        reason = f"kind {held.kind[:60]!r} is not known to worker {self.hostname}"
        log.warning("kind_unknown", kind=held.kind[:60], job_id=headers["id"])
        DELIVERIES.report(Report(held, UNKNOWN_KIND, reason, partial(self.call_soon, reject)))

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Reject a message that can't be decoded, so that it is recorded; Celery would acknowledge it and lose it."""
        self._refuse(message, f"can't be decoded: {exc}")

    def _refuse(self, message: Any, reason: str) -> None:
        log.warning("message_refused", reason=reason, queue=message.delivery_info.get("routing_key"))
        message.reject_log_error(log, self.connection_errors)


def rebuild(message: Any) -> None:
    """Reduce a message to job id and dispatch number, and give it a lease. Raises `MalformedMessage`."""
    job_id, dispatch_no, kind = read_headers(message.headers)
    message.headers = {
        "task": kind,
        "id": str(job_id),
        DISPATCH_NO: dispatch_no,
        LEASE: str(new_id()),
        WORKER: str(WORKER_ID),
        CAN_DEFER: LedgerRequest.handover is not None,
        "argsrepr": f"dispatch {dispatch_no}",
        "kwargsrepr": "",
    }
    message.properties = {
        "content_type": "application/json",
        "content_encoding": "utf-8",
        "correlation_id": str(job_id),
        "priority": (message.properties or {}).get("priority"),
    }
    message.body = BODY
    message.content_type, message.content_encoding = "application/json", "utf-8"
    message._decoded_cache = None
    message.errors = []
