"""Fixtures on the real Postgres and RabbitMQ of the test run."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from jobplatform.config import DEFAULT_QUEUES
from jobplatform.devstack import rabbitmq
from jobplatform.devstack.instance import Instance, open_instance
from tests.support.ledger_harness import LedgerHarness, new_harness
from tests.support.servers import STACK


@pytest.fixture(scope="session")
def instance() -> Instance:
    return open_instance(STACK)


@pytest.fixture
def harness(instance: Instance) -> Iterator[LedgerHarness]:
    with new_harness(instance) as result:
        yield result


@pytest.fixture
def broker_url(instance: Instance) -> Iterator[str]:
    """The URL of a new vhost with the topology of the default queues."""
    from jobplatform.broker.connection import connected, server_version
    from jobplatform.broker.declare import declare_topology
    from jobplatform.broker.topology import build_topology, choose_queue_type

    name = f"t-{uuid.uuid4().hex[:10]}"
    rabbitmq.call_management(instance, f"/api/vhosts/{name}", "PUT")
    everything = {"configure": ".*", "write": ".*", "read": ".*"}
    rabbitmq.call_management(instance, f"/api/permissions/{name}/{rabbitmq.USER}", "PUT", everything)
    url = rabbitmq.url(instance, name)
    with connected(url, name="test") as connection:
        kind = choose_queue_type("auto", server_version(connection))
        declare_topology(connection, build_topology(DEFAULT_QUEUES, kind))
    yield url
    rabbitmq.call_management(instance, f"/api/vhosts/{name}", "DELETE")
