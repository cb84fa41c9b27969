"""`jobplatform`: one command per file; nothing heavy is imported before a command runs, so `--help` is instant."""

from __future__ import annotations

import importlib
import sys

import click

from jobplatform import __version__
from jobplatform.errors import InvalidRequest, JobPlatformError

#: command → (module, attribute)
COMMANDS = {
    "migrate": ("jobplatform.cli.migrate", "migrate"),
    "broker": ("jobplatform.cli.broker", "broker"),
    "dispatch": ("jobplatform.cli.dispatch", "dispatch"),
    "keys": ("jobplatform.cli.keys", "keys"),
    "kinds": ("jobplatform.cli.kinds", "kinds"),
    "jobs": ("jobplatform.cli.jobs", "jobs"),
    "workflows": ("jobplatform.cli.workflows", "workflows"),
    "schedules": ("jobplatform.cli.schedules", "schedules"),
    "dead": ("jobplatform.cli.dead", "dead"),
    "limits": ("jobplatform.cli.limits", "limits"),
    "tenants": ("jobplatform.cli.tenants", "tenants"),
    "queues": ("jobplatform.cli.queues", "queues"),
    "rebuild": ("jobplatform.cli.rebuild", "rebuild"),
    "doctor": ("jobplatform.cli.doctor", "doctor"),
    "audit": ("jobplatform.cli.audit", "audit"),
    "reporting": ("jobplatform.cli.reporting", "reporting"),
    "settings": ("jobplatform.cli.settings", "settings"),
    "states": ("jobplatform.cli.states", "states"),
    "dev": ("jobplatform.cli.dev", "dev"),
}

EXIT_FAILED = 1


class LazyGroup(click.Group):
    """A group that imports a command when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command


@click.group(cls=LazyGroup)
@click.version_option(__version__)
def cli() -> None:
    """The job platform: the ledger decides, RabbitMQ carries."""


def main() -> None:
    """Run the command line; our own errors are a line on stderr, and one per field that is wrong."""
    try:
        cli(standalone_mode=True)
    except JobPlatformError as error:
        click.echo(f"jobplatform: {error} [{error.code}]", err=True)
        for item in error.errors if isinstance(error, InvalidRequest) else ():
            click.echo(f"  {item.in_words()}", err=True)
        sys.exit(EXIT_FAILED)


if __name__ == "__main__":
    main()
