"""`jobplatform broker`: the topology in RabbitMQ."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

import click

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)


@click.group()
def broker() -> None:
    """Declare the topology in RabbitMQ, or write its definitions file."""


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
@click.option(
    "--broker-version",
    default="4.3",
    show_default=True,
    help="version of the broker; selects the queue type when it is `auto`",
)
@click.option("--passwords", type=FOLDER, help="folder with a file per role: operator, dispatcher, worker, monitor")
@click.option("--output", type=FILE, help="file to write  [default: standard output]")
def definitions(broker_version: str, passwords: Path | None, output: Path | None) -> None:
    """Write the definitions file that an empty RabbitMQ node imports at boot: topology, and users with least
    privileges."""
    import orjson

    from jobplatform.broker.definitions import build_definitions
    from jobplatform.broker.topology import build_topology, choose_queue_type
    from jobplatform.broker.users import ROLES
    from jobplatform.config import settings

    config = settings()
    vhost = unquote(urlsplit(config.broker_url.get_secret_value()).path.lstrip("/")) or "/"
    topology = build_topology(config.queues, choose_queue_type(config.queue_type, broker_version))
    known = _read_passwords(passwords, [role.name for role in ROLES]) if passwords is not None else {}
    built = build_definitions(topology, vhost=vhost, passwords=known)
    content = orjson.dumps(built, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    if output is None:
        click.echo(content.decode(), nl=False)
        return
    fresh = output.with_suffix(".new")
    fresh.write_bytes(content)
    fresh.chmod(0o644)  # RabbitMQ's user reads it; it has hashes, not passwords
    fresh.replace(output)
    click.echo(f"{output}: vhost {vhost}, {len(topology.queues)} queues, users {', '.join(known) or 'none'}")


def _read_passwords(folder: Path, roles: list[str]) -> dict[str, str]:
    for role in roles:
        if not (folder / role).is_file():
            raise click.ClickException(f"expected the password of {role!r} in the file {folder / role}: there is none")
    return {role: (folder / role).read_text().strip() for role in roles}
