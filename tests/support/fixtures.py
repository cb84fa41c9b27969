"""Fixtures on the real Postgres and RabbitMQ of the test run."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from jobplatform.config import DEFAULT_QUEUES
from jobplatform.devstack import rabbitmq
from jobplatform.devstack.instance import Place, open_place
from tests.support.ledger_harness import LedgerHarness, new_harness
from tests.support.servers import STACK


@pytest.fixture(scope="session")
def place() -> Place:
    return open_place(STACK)


@pytest.fixture
def harness(place: Place) -> Iterator[LedgerHarness]:
    with new_harness(place) as result:
        yield result


@pytest.fixture
def broker_url(place: Place) -> Iterator[str]:
    """The URL of a vhost of its own, with the topology of the default queues."""
    from jobplatform.broker.connection import connected, server_version
    from jobplatform.broker.declare import declare_topology
    from jobplatform.broker.topology import build_topology, choose_queue_type

    name = f"t-{uuid.uuid4().hex[:10]}"
    rabbitmq.call_management(place, f"/api/vhosts/{name}", "PUT")
    everything = {"configure": ".*", "write": ".*", "read": ".*"}
    rabbitmq.call_management(place, f"/api/permissions/{name}/{rabbitmq.USER}", "PUT", everything)
    url = rabbitmq.url(place, name)
    with connected(url, name="test") as connection:
        kind = choose_queue_type("auto", server_version(connection))
        declare_topology(connection, build_topology(DEFAULT_QUEUES, kind))
    yield url
    rabbitmq.call_management(place, f"/api/vhosts/{name}", "DELETE")
