"""Connections to RabbitMQ through py-amqp, and the translation of its errors to ours."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import amqp
from amqp.serialization import GenericContent
from kombu.utils.url import parse_url

from jobplatform.errors import BrokerUnavailable
from jobplatform.observe.logs import get_log

log = get_log(__name__)

#: errors of a connection to the broker; anything else is a bug of ours
FAILURES = (amqp.exceptions.AMQPError, OSError, socket.timeout, EOFError)


#: no `connection.blocked`: py-amqp would read the socket before every publish to check for it, and a missing confirm
#: reveals a blocked connection too
CAPABILITIES = {"consumer_cancel_notify": True, "authentication_failure_close": True}


def connect(url: str, *, name: str, timeout_seconds: float = 3.0, heartbeat_seconds: int = 10) -> Any:
    """Return an open py-amqp connection, named for RabbitMQ's page. Raises `BrokerUnavailable`."""
    tolerate_properties()
    parts = parse_url(url)
    address = f"{parts['hostname'] or 'localhost'}:{parts['port'] or 5672}"
    connection = amqp.Connection(
        host=address,
        userid=parts["userid"] or "guest",
        password=parts["password"] or "guest",
        virtual_host=parts["virtual_host"] or "/",
        connect_timeout=timeout_seconds,
        read_timeout=timeout_seconds,
        write_timeout=timeout_seconds,
        heartbeat=heartbeat_seconds,
        ssl=parts["transport"] == "amqps",
        client_properties={"connection_name": name, "capabilities": CAPABILITIES},
    )
    try:
        connection.connect()
    except FAILURES as error:
        raise BrokerUnavailable(f"RabbitMQ at {address} can't be reached: {error}") from None
    return connection


def tolerate_properties() -> None:
    """Make py-amqp ignore properties that it can't decode. Its exception would end the process that reads the
    message; the message would be redelivered, and end the next process (a poison message). Idempotent."""
    load = GenericContent._load_properties
    if getattr(load, "is_tolerant", False):
        return

    def load_properties(self: Any, class_id: int, buf: Any, offset: int) -> int:
        try:
            end: int = load(self, class_id, buf, offset)
        except Exception as error:  # not a message of ours: without headers it is refused
            log.warning("message_properties_undecodable", error=repr(error))
            self.properties = {}
            return offset
        # py-amqp decodes the body with it, and some codecs take minutes for a megabyte (punycode, for example)
        if self.properties.get("content_encoding") not in (None, "utf-8", "binary"):
            del self.properties["content_encoding"]
        return end

    load_properties.is_tolerant = True  # type: ignore[attr-defined]
    GenericContent._load_properties = load_properties


@contextmanager
def connected(url: str, *, name: str) -> Iterator[Any]:
    """Open a connection for a block. Raises `BrokerUnavailable` for what goes wrong with it."""
    connection = connect(url, name=name)
    try:
        yield connection
    except amqp.exceptions.AMQPError as error:
        raise BrokerUnavailable(f"RabbitMQ refused: {error}") from error
    finally:
        close(connection)


@contextmanager
def corked(connection: Any) -> Iterator[None]:
    """Buffer the writes of a block into few large pieces: py-amqp writes each message separately."""
    transport = connection.transport
    write, buffer = transport._write, bytearray()

    def keep(data: Any) -> None:
        buffer.extend(data)
        if len(buffer) >= PIECE_BYTES:
            piece = bytes(buffer)
            buffer.clear()
            write(piece)

    transport._write = keep
    try:
        yield
    finally:
        transport._write = write
    transport.write(bytes(buffer))


PIECE_BYTES = 32_768


def close(connection: Any) -> None:
    """Close a connection that may be dead already."""
    try:
        connection.close()
    except FAILURES:
        pass
    connection.collect()


def server_version(connection: Any) -> str:
    """Return the broker's version, like "4.3.6"."""
    return str(connection.server_properties.get("version", "0"))
