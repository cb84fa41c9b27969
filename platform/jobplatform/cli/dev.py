"""`jobplatform dev`: the development stack behind `make demo`, `make up` and `make test`."""

from __future__ import annotations

import signal
import sys

import click


@click.group()
def dev() -> None:
    """Run the development stack of this checkout: Postgres, RabbitMQ, API, dispatcher, workers, Flower, mail, model."""
    # a SIGTERM ends a command as Ctrl-C does: it cleans up
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


@dev.command()
def install() -> None:
    """Install the system packages: rabbitmq-server and ffmpeg."""
    from jobplatform.devstack.system import install_packages

    install_packages()


@dev.command()
def up() -> None:
    """Start the stack and leave it running."""
    from jobplatform.devstack.commands import up

    up()


@dev.command()
@click.option("--delete-data", is_flag=True, help="delete the ledger, the broker's messages and all files of the stack")
def down(delete_data: bool) -> None:
    """Stop the stack; its data stays for the next `up`."""
    from jobplatform.devstack.commands import down

    down(delete_data=delete_data)


@dev.command()
def status() -> None:
    """Show the running processes and their addresses."""
    from jobplatform.devstack.commands import status

    status()


@dev.command()
def demo() -> None:
    """Show the main job: one email, one video, one model answer."""
    from jobplatform.devstack.demo import demo

    demo()
