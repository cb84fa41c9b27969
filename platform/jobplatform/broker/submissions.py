"""Submissions over AMQP: receive them, and reply to them (docs/howto/submit-over-amqp.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import amqp

from jobplatform.broker.connection import FAILURES, close, connect
from jobplatform.broker.dead_letters import as_json, take_apart
from jobplatform.broker.topology import SUBMISSIONS
from jobplatform.errors import BrokerUnavailable, ConfigurationError


@dataclass(frozen=True)
class SubmissionMessage:
    """A submission as received."""

    tag: int
    #: the publishing user: RabbitMQ refuses a message that names another user than the connection's
    user_id: str | None
    message_id: str | None
    body: bytes
    #: the queue for the reply, and the id that correlates the reply with the request
    reply_to: str | None
    correlation_id: str | None
    #: headers and properties as JSON values
    message: Mapping[str, Any]


class SubmissionReader:
    """Receives submissions and replies to them on its own connection. Not thread-safe; created after any fork."""

    def __init__(self, url: str, *, timeout_seconds: float = 2.0) -> None:
        self._url, self._timeout_seconds = url, timeout_seconds
        self._connection: Any = None
        self._channel: Any = None
        #: its own channel: a missing permission for replies must not close that of submissions
        self._replies: Any = None

    def take(self, limit: int) -> list[SubmissionMessage]:
        """Return at most `limit` submissions, unacknowledged until `done`.

        Raises `BrokerUnavailable`, or `ConfigurationError` when the queue is missing or access is refused.
        """
        messages: list[SubmissionMessage] = []
        try:
            channel = self._open()
            while len(messages) < limit and (message := channel.basic_get(SUBMISSIONS)) is not None:
                messages.append(read_submission_message(message))
        except (amqp.exceptions.NotFound, amqp.exceptions.AccessRefused) as error:
            self.close()
            raise ConfigurationError(
                f"submissions can't be read from RabbitMQ's queue {SUBMISSIONS}: {error.reply_text}. Run `jobplatform "
                f"broker apply`, and set the rights of the user `dispatcher` (docs/operations/upgrade.md)"
            ) from None
        except FAILURES as error:
            self.close()
            raise BrokerUnavailable(f"RabbitMQ disconnected while submissions were read: {error!r}") from None
        except BaseException:
            self.close()
            raise
        return messages

    def done(self, submission: SubmissionMessage, answer: bytes | None, *, accepted: bool) -> None:
        """Send the reply, unless it is None, and acknowledge the submission. Raises `BrokerUnavailable`."""
        try:
            if answer is not None:
                self._reply(submission, answer, accepted)
            self._open().basic_ack(submission.tag)
        except FAILURES as error:
            self.close()
            raise BrokerUnavailable(f"RabbitMQ disconnected while submissions were answered: {error!r}") from None

    def put_back(self, submission: SubmissionMessage) -> None:
        """Requeue a submission. Raises `BrokerUnavailable`."""
        try:
            self._open().basic_reject(submission.tag, requeue=True)
        except FAILURES as error:
            self.close()
            raise BrokerUnavailable(f"RabbitMQ disconnected while a submission was requeued: {error!r}") from None

    def _reply(self, submission: SubmissionMessage, answer: bytes, accepted: bool) -> None:
        reply = amqp.Message(
            answer,
            content_type="application/json" if accepted else "application/problem+json",
            content_encoding="utf-8",
            delivery_mode=2,
        )
        correlation_id = submission.correlation_id or submission.message_id
        if correlation_id is not None:
            reply.properties["correlation_id"] = correlation_id
        # not mandatory: the reply queue of a disconnected caller may be missing
        self._replies.basic_publish(reply, exchange="", routing_key=submission.reply_to)

    def _open(self) -> Any:
        if self._connection is None:
            self._connection = connect(
                self._url, name="jobplatform submissions", timeout_seconds=self._timeout_seconds, heartbeat_seconds=30
            )
            self._channel, self._replies = self._connection.channel(), self._connection.channel()
        return self._channel

    def close(self) -> None:
        """Discard the connection; unacknowledged messages are redelivered."""
        connection, self._connection, self._channel, self._replies = self._connection, None, None, None
        if connection is not None:
            close(connection)


def read_submission_message(message: Any) -> SubmissionMessage:
    """Read a message, whatever it contains."""
    properties, headers, body = take_apart(message)
    return SubmissionMessage(
        tag=message.delivery_tag,
        user_id=properties.get("user_id"),
        message_id=properties.get("message_id"),
        body=body,
        reply_to=properties.get("reply_to"),
        correlation_id=properties.get("correlation_id"),
        message={"headers": as_json(headers), "properties": as_json(properties)},
    )
