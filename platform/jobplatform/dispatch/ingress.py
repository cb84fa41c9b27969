"""AMQP ingress: submissions that arrive as messages become jobs; anything else is recorded as a dead message (I6)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from jobplatform.broker.dead_letters import BODY_BYTES
from jobplatform.broker.submissions import SubmissionMessage, SubmissionReader
from jobplatform.broker.topology import SUBMISSIONS
from jobplatform.config import Settings
from jobplatform.domain.kinds import KindRegistry
from jobplatform.errors import LedgerBusy
from jobplatform.ledger import dead_messages
from jobplatform.ledger.session import Ledger
from jobplatform.observe.logs import get_log
from jobplatform.observe.metrics import dispatcher_metrics
from jobplatform.usecases.accept_message import Answer, accept_message

log = get_log(__name__)

#: RabbitMQ's own queue for answers, https://www.rabbitmq.com/docs/direct-reply-to
DIRECT_REPLY = "amq.rabbitmq.reply-to"
#: messages per poll: jobs are dispatched in between
BATCH = 50
#: time limit of a round: queues are dispatched in between
ROUND_SECONDS = 0.25


class Ingress:
    """Any number of them may run at once: RabbitMQ delivers each message to one."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        reader: SubmissionReader,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings, self._ledger, self._reader, self._clock = settings, ledger, reader, clock

    def poll(self, kinds: KindRegistry) -> bool:
        """Accept waiting messages, for at most `ROUND_SECONDS` or one batch; returns whether there may be more.

        A message is acknowledged after its job is committed. After a crash in between it is redelivered, and is the
        same submission by its message_id. Raises `BrokerUnavailable`, `ConfigurationError` or a `LedgerUnavailable`.
        """
        until, taken = self._clock() + ROUND_SECONDS, 0
        busy: list[tuple[SubmissionMessage, LedgerBusy]] = []
        try:
            while taken < BATCH and self._clock() < until:
                # one by one: messages that are not accepted in this round stay in RabbitMQ
                submission = next(iter(self._reader.take(1)), None)
                if submission is None:
                    break
                taken += 1
                try:
                    self._take(kinds, submission)
                except LedgerBusy as error:  # another transaction has locked its keys: the others must not wait for it
                    busy.append((submission, error))
            else:
                return not busy or self._put_back(busy)
        except BaseException:
            self._reader.close()  # the rest is redelivered
            raise
        return bool(busy) and self._put_back(busy)

    def _put_back(self, busy: list[tuple[SubmissionMessage, LedgerBusy]]) -> bool:
        """Requeue submissions whose keys are locked, and raise the last one's reason."""
        for submission, _ in busy:
            self._reader.put_back(submission)
        raise busy[-1][1]

    def _take(self, kinds: KindRegistry, submission: SubmissionMessage) -> None:
        answer = accept_message(
            self._ledger,
            None,
            kinds,
            user_id=submission.user_id,
            message_id=submission.message_id,
            body=submission.body,
            max_body_bytes=self._settings.max_body_bytes,
            idempotency_seconds=self._settings.idempotency_seconds,
        )
        if not answer.accepted:
            with self._ledger.transaction() as connection:
                dead_messages.put_dead_messages(connection, [_dead_message(submission, answer)])
            log.warning(
                "submission_refused", user=submission.user_id, message_id=submission.message_id, detail=answer.detail
            )
        self._reader.done(submission, answer.body if self._may_answer(submission) else None, accepted=answer.accepted)
        dispatcher_metrics().amqp_submissions.labels("accepted" if answer.accepted else "refused").inc()

    def _may_answer(self, submission: SubmissionMessage) -> bool:
        """Return whether the reply queue belongs to the sender: the dispatcher may write to queues that the sender
        may not."""
        position = submission.reply_to or ""
        return position.startswith((DIRECT_REPLY, f"{submission.user_id}."))

    def close(self) -> None:
        """Close the connection to RabbitMQ."""
        self._reader.close()


def _dead_message(submission: SubmissionMessage, answer: Answer) -> dict[str, Any]:
    return {
        "queue": SUBMISSIONS,
        "reason": answer.reason,
        "detail": answer.detail[:1000].replace("\x00", "\ufffd"),
        "job_id": None,
        "dispatch_no": None,
        "kind": None,
        "message": submission.message,
        "body": submission.body[:BODY_BYTES],
        "body_bytes": len(submission.body),
    }
