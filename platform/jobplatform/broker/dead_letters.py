"""Receive messages that RabbitMQ has dead-lettered: rejected by a worker, over the delivery limit, expired, or dropped
from a full queue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import amqp

from jobplatform.broker.connection import FAILURES, close, connect
from jobplatform.broker.envelope import MalformedMessage, read_headers
from jobplatform.broker.topology import DEAD_RECORDS
from jobplatform.errors import BrokerUnavailable, ConfigurationError

#: stored part of a body, and of one text in headers or properties
BODY_BYTES, TEXT_CHARACTERS = 65_536, 2_000
#: entries kept of one list or table in the headers, and how deep they are followed
ENTRIES, DEPTH = 50, 6


@dataclass(frozen=True)
class DeadLetter:
    """A message received from `jobs.dead`."""

    tag: int
    #: the queue that it was in, and RabbitMQ's reason for removing it: rejected, expired, maxlen, delivery_limit
    queue: str | None
    broker_reason: str
    #: headers and properties as JSON values
    message: Mapping[str, Any]
    body: bytes
    body_bytes: int
    #: the dispatch that the headers name, if they are valid; else what is wrong with them
    dispatch: tuple[Any, int, str] | None
    fault: str


class DeadLetterReader:
    """Reads on its own connection: an alarm blocks publishing ones. Not thread-safe; created after any fork."""

    def __init__(self, url: str, *, timeout_seconds: float = 2.0) -> None:
        self._url, self._timeout_seconds = url, timeout_seconds
        self._connection: Any = None
        self._channel: Any = None

    def take(self, limit: int) -> list[DeadLetter]:
        """Return at most `limit` messages, unacknowledged until `done`.

        Raises `BrokerUnavailable`, or `ConfigurationError` when the queue is missing.
        """
        result: list[DeadLetter] = []
        try:
            channel = self._open()
            while len(result) < limit and (message := channel.basic_get(DEAD_RECORDS)) is not None:
                result.append(read_dead_letter(message))
        except amqp.exceptions.NotFound:
            self.close()
            raise ConfigurationError(f"RabbitMQ has no queue {DEAD_RECORDS}: run `jobplatform broker apply`") from None
        except FAILURES as error:
            self.close()
            raise BrokerUnavailable(f"RabbitMQ went away while dead letters were read: {error!r}") from None
        except BaseException:  # the messages taken so far are redelivered: the next acknowledgement must not cover them
            self.close()
            raise
        return result

    def done(self, letters: list[DeadLetter]) -> None:
        """Acknowledge the messages that `take` returned. Raises `BrokerUnavailable`; they are redelivered then."""
        if not letters:
            return
        try:
            self._open().basic_ack(letters[-1].tag, multiple=True)
        except FAILURES as error:
            self.close()
            raise BrokerUnavailable(f"RabbitMQ went away while dead letters were acknowledged: {error!r}") from None

    def _open(self) -> Any:
        if self._connection is None:
            self._connection = connect(
                self._url, name="jobplatform recorder", timeout_seconds=self._timeout_seconds, heartbeat_seconds=30
            )
            self._channel = self._connection.channel()
        return self._channel

    def close(self) -> None:
        """Discard the connection; unacknowledged messages are redelivered."""
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            close(connection)


def take_apart(message: Any) -> tuple[dict[str, Any], Any, bytes]:
    """Return properties, headers and body of a message, whatever they contain."""
    properties = dict(message.properties or {})
    headers = properties.pop("application_headers", None) or {}
    body = message.body if isinstance(message.body, bytes) else str(message.body).encode(errors="replace")
    return properties, headers, body


def read_dead_letter(message: Any) -> DeadLetter:
    """Read a message, whatever it contains."""
    properties, headers, body = take_apart(message)
    deaths = headers.get("x-death") if isinstance(headers, Mapping) else None
    first: Mapping[str, Any] = (
        deaths[0] if isinstance(deaths, list) and deaths and isinstance(deaths[0], Mapping) else {}
    )
    try:
        dispatch, fault = read_headers(headers), ""
    except MalformedMessage as error:
        dispatch, fault = None, str(error)
    queue = first.get("queue") or (message.delivery_info or {}).get("routing_key")
    return DeadLetter(
        tag=message.delivery_tag,
        queue=str(queue)[:255] if queue else None,
        broker_reason=str(first.get("reason", "published to jobs.dead"))[:100],
        message={"headers": as_json(headers), "properties": as_json(properties)},
        body=body[:BODY_BYTES],
        body_bytes=len(body),
        dispatch=dispatch,
        fault=fault,
    )


def as_json(value: Any, depth: int = 0) -> Any:
    """Convert AMQP values to JSON values that Postgres can store; long ones are truncated."""
    if value is None or (isinstance(value, bool | int) and abs(value) < 2**63):
        return value
    if isinstance(value, str | bytes | bytearray | memoryview):
        text = value if isinstance(value, str) else bytes(value[:TEXT_CHARACTERS]).decode(errors="replace")
        return text[:TEXT_CHARACTERS].replace("\x00", "\ufffd").encode(errors="replace").decode()
    if depth >= DEPTH:
        return "…"
    if isinstance(value, Mapping):
        some = list(value.items())[:ENTRIES]
        return {str(as_json(str(key))): as_json(entry, depth + 1) for key, entry in some}
    if isinstance(value, list | tuple):
        return [as_json(entry, depth + 1) for entry in value[:ENTRIES]]
    return as_json(str(value))
