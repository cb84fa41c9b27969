"""RabbitMQ users have the rights that their work needs, and no others."""

from __future__ import annotations

import os

import amqp
import pytest

from jobplatform.broker.connection import connected, server_version
from jobplatform.broker.declare import declare_epoch, epoch_queue, queue_exists
from jobplatform.broker.envelope import Envelope
from jobplatform.broker.publisher import Publisher
from jobplatform.broker.topology import build_topology, choose_queue_type
from jobplatform.devstack import rabbitmq
from jobplatform.devstack.rabbitmq_server import CHOICE
from jobplatform.errors import BrokerUnavailable
from jobplatform.ledger.ids import new_id


def test_the_broker_has_the_requested_version_and_the_queue_type_of_that_version(instance, broker_url: str) -> None:
    with connected(broker_url, name="test") as connection:
        version = server_version(connection)
        arguments = build_topology(("email",), choose_queue_type("auto", version)).queues[0].arguments
    if os.environ.get(CHOICE):
        assert version.startswith(f"{os.environ[CHOICE]}.") and arguments["x-queue-type"] == "quorum"
    result = {queue["name"]: queue["type"] for queue in rabbitmq.call_management(instance, "/api/queues/jobplatform")}
    assert result["email"] == arguments.get("x-queue-type", "classic")


def refused(instance, role: str, action) -> bool:
    """Run an action on a channel of a role; return whether RabbitMQ refused it with 403."""
    with connected(rabbitmq.url(instance, role=role), name="test") as connection:
        try:
            action(connection.channel())
        except amqp.exceptions.AccessRefused:
            return True
        return False


def test_a_dispatcher_can_publish_and_declare_its_sentinel(instance) -> None:
    publisher = Publisher(rabbitmq.url(instance, role="dispatcher"))
    receipt = publisher.publish([Envelope(str(new_id()), 1, "test.echo", "email", 4)])
    assert len(receipt.confirmed) == 1
    epoch = new_id()
    declare_epoch(publisher.connection, epoch)
    assert queue_exists(publisher.connection, epoch_queue(epoch))
    publisher.close()


@pytest.mark.parametrize(
    ("role", "action"),
    [
        ("dispatcher", lambda channel: channel.basic_get("email")),
        ("dispatcher", lambda channel: channel.queue_delete("email")),
        ("dispatcher", lambda channel: channel.queue_declare("mine", durable=True)),
        ("worker", lambda channel: channel.queue_delete("email")),
        ("worker", lambda channel: channel.queue_purge("jobs.dead.copies")),
        ("worker", lambda channel: channel.basic_get("jobs.dead.copies")),
        ("worker", lambda channel: channel.queue_declare("mine", durable=True)),
        ("monitor", lambda channel: channel.basic_get("email")),
        ("monitor", lambda channel: channel.queue_purge("email")),
    ],
)
def test_an_action_outside_the_work_of_a_role_is_refused(instance, role: str, action) -> None:
    assert refused(instance, role, action)


@pytest.mark.parametrize("role", ["worker", "monitor"])
def test_only_a_dispatcher_can_publish_jobs(instance, role: str) -> None:
    with pytest.raises(BrokerUnavailable, match="ACCESS_REFUSED"):
        Publisher(rabbitmq.url(instance, role=role)).publish([Envelope(str(new_id()), 1, "test.echo", "email", 4)])


def test_a_worker_can_read_every_job_queue_including_new_ones(instance) -> None:
    with connected(rabbitmq.url(instance), name="test") as connection:
        connection.channel().queue_declare("brand-new", durable=True, auto_delete=False)
    assert not refused(instance, "worker", lambda channel: channel.basic_get("brand-new"))
    with connected(rabbitmq.url(instance), name="test") as connection:
        connection.channel().queue_delete("brand-new")
