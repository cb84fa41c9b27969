"""`jobplatform broker`: what stands in RabbitMQ."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

import click


@click.group()
def broker() -> None:
    """Declare what stands in RabbitMQ, or write its definitions file."""


@broker.command()
def apply() -> None:
    """Declare exchanges, queues and bindings; idempotent. Workers and dispatcher declare nothing."""
    from jobplatform.broker.connection import connected, server_version
    from jobplatform.broker.declare import declare_topology
    from jobplatform.broker.topology import build_topology, choose_queue_type
    from jobplatform.config import settings

    config = settings()
    with connected(config.broker_url.get_secret_value(), name="jobplatform broker apply") as connection:
        version = server_version(connection)
        kind = choose_queue_type(config.queue_type, version)
        topology = build_topology(config.queues, kind)
        declare_topology(connection, topology)
    names = ", ".join(queue.name for queue in topology.queues)
    click.echo(f"RabbitMQ {version}: {kind} queues {names}")


@broker.command()
@click.option("--broker-version", default="4.3", show_default=True, help="decides the queue type when it is `auto`")
@click.option("--with-user/--without-user", default=True, show_default=True, help="the user of JOBPLATFORM_BROKER_URL")
def definitions(broker_version: str, with_user: bool) -> None:
    """Write the definitions file that a blank RabbitMQ node imports at boot."""
    import orjson

    from jobplatform.broker.definitions import build_definitions
    from jobplatform.broker.topology import build_topology, choose_queue_type
    from jobplatform.config import settings

    config = settings()
    parts = urlsplit(config.broker_url.get_secret_value())
    topology = build_topology(config.queues, choose_queue_type(config.queue_type, broker_version))
    content = build_definitions(
        topology,
        vhost=unquote(parts.path.lstrip("/")) or "/",
        user=unquote(parts.username or "") if with_user else None,
        password=unquote(parts.password or "") if with_user else None,
    )
    click.echo(orjson.dumps(content, option=orjson.OPT_INDENT_2).decode())
