"""The recorder: consumes what RabbitMQ has dead-lettered, and lets the ledger decide what to do with it (rule
"Recorder").

If it was the current message of a live job, the job is dispatched again (a quorum queue dead-letters a healthy
message at its 21st lost connection). The message of a dead job is already known as its dead letter. Everything else
is recorded as a dead message with the reason.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from jobplatform.broker.dead_letters import DeadLetter, DeadLetterReader
from jobplatform.domain.states import State
from jobplatform.ledger import dead_messages, runs
from jobplatform.ledger.jobs import earliest_end
from jobplatform.ledger.session import Ledger
from jobplatform.observe.logs import get_log
from jobplatform.observe.metrics import dispatcher_metrics

log = get_log(__name__)

#: a transaction of this many messages
BATCH = 200


class Recorder:
    """Any number of them may run at once: RabbitMQ delivers each message to one."""

    def __init__(self, ledger: Ledger, reader: DeadLetterReader) -> None:
        self._ledger, self._reader = ledger, reader

    def poll(self) -> bool:
        """Record waiting messages, at most one batch; returns whether there may be more.

        The messages are acknowledged after the transaction has committed: after a crash in between, a message is
        recorded twice, never zero times. Raises `BrokerUnavailable`, `ConfigurationError` or a `LedgerUnavailable`.
        """
        letters = self._reader.take(BATCH)
        if not letters:
            return False
        try:
            with self._ledger.transaction() as connection:
                since = {letter.dispatch[0]: earliest_end(letter.dispatch[0]) for letter in letters if letter.dispatch}
                known = dead_messages.look_up(connection, since) if since else {}
                kept = [result for letter in letters if (result := self._judge(connection, letter, known)) is not None]
                dead_messages.put_dead_messages(connection, kept)
        except BaseException:
            self._reader.close()  # they are redelivered
            raise
        self._reader.done(letters)
        for message in kept:
            dispatcher_metrics().dead_messages.labels(message["reason"]).inc()
        if kept:
            log.warning("dead_messages_recorded", count=len(kept), reasons=sorted({item["reason"] for item in kept}))
        return len(letters) == BATCH

    def _judge(
        self, connection: Any, letter: DeadLetter, known: dict[UUID, tuple[str, int, str]]
    ) -> dict[str, Any] | None:
        """Return the dead message to record; None when there is nothing to record."""
        if letter.dispatch is None:
            return _dead_message(letter, "malformed", letter.fault)
        job_id, number, kind = letter.dispatch
        if job_id not in known:
            return _dead_message(letter, "no_job", f"there is no job {job_id}")
        state, current, right_kind = known[job_id]
        if kind != right_kind:
            return _dead_message(
                letter, "refused", f"job {job_id} is of kind {right_kind}, the message says {kind[:60]!r}"
            )
        if state == State.DISPATCHED and number == current:
            reason = f"RabbitMQ dead-lettered its message: {letter.broker_reason}"
            if runs.return_job(connection, job_id, number, reason):  # locks and reads again
                log.warning("job_dispatched_again", job_id=str(job_id), reason=letter.broker_reason)
                return None
        if state == State.DEAD and number == current and letter.broker_reason == "rejected":
            return None  # the dead letter has all of it
        return _dead_message(
            letter, "stale", f"job {job_id} is {state} with dispatch {current}, the message is of dispatch {number}"
        )

    def close(self) -> None:
        """Close the connection to RabbitMQ."""
        self._reader.close()


def _dead_message(letter: DeadLetter, reason: str, detail: str) -> dict[str, Any]:
    job_id, number, kind = letter.dispatch or (None, None, None)
    return {
        "queue": letter.queue,
        "reason": reason,
        "detail": f"{detail} (RabbitMQ: {letter.broker_reason})"[:1000].replace("\x00", "\ufffd"),
        "job_id": job_id,
        "dispatch_no": number,
        "kind": kind[:200].replace("\x00", "\ufffd") if kind else None,
        "message": letter.message,
        "body": letter.body,
        "body_bytes": letter.body_bytes,
    }
