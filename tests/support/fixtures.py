"""Fixtures on the real Postgres and RabbitMQ of the test run."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Iterator
from urllib.request import Request, urlopen

import pytest

from jobplatform.devstack import rabbitmq
from jobplatform.devstack.place import Place, open_place
from tests.support.ledgers import Book, new_book
from tests.support.servers import STACK


@pytest.fixture(scope="session")
def place() -> Place:
    return open_place(STACK)


@pytest.fixture
def book(place: Place) -> Iterator[Book]:
    with new_book(place) as found:
        yield found


@pytest.fixture
def broker_url(place: Place) -> Iterator[str]:
    """The URL of a vhost of its own, with the topology of the default queues."""
    from jobplatform.broker.connection import connected, server_version
    from jobplatform.broker.declare import declare_topology
    from jobplatform.broker.topology import build_topology, choose_queue_type

    name = f"t-{uuid.uuid4().hex[:10]}"
    manage(place, "PUT", f"/api/vhosts/{name}")
    manage(
        place,
        "PUT",
        f"/api/permissions/{name}/{rabbitmq.USER}",
        b'{"configure": ".*", "write": ".*", "read": ".*"}',
    )
    url = rabbitmq.url(place, name)
    with connected(url, name="test") as connection:
        kind = choose_queue_type("auto", server_version(connection))
        declare_topology(connection, build_topology(("email", "video", "llm"), kind))
    yield url
    manage(place, "DELETE", f"/api/vhosts/{name}")


def manage(place: Place, method: str, path: str, body: bytes | None = None) -> None:
    """Call RabbitMQ's management API."""
    request = Request(f"http://127.0.0.1:{place.ports['management']}{path}", data=body, method=method)
    token = base64.b64encode(f"{rabbitmq.USER}:{place.secret}".encode()).decode()
    request.add_header("Authorization", f"Basic {token}")
    request.add_header("Content-Type", "application/json")
    with urlopen(request, timeout=20):
        pass
