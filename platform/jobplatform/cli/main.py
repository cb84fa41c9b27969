"""`jobplatform`: one command per file; nothing heavy is imported before a command runs, so `--help` is instant."""

from __future__ import annotations

import importlib
import sys

import click

from jobplatform import __version__
from jobplatform.cli.options import EXIT_FAILED, EXIT_NO_ANSWER
from jobplatform.errors import InvalidRequest, JobPlatformError, LedgerUnavailable, OutcomeUnknown
from jobplatform.extras import missing_extra

#: command → (module, attribute)
COMMANDS = {
    "jobs": ("jobplatform.cli.jobs", "jobs"),
    "workflows": ("jobplatform.cli.workflows", "workflows"),
    "schedules": ("jobplatform.cli.schedules", "schedules"),
    "dead": ("jobplatform.cli.dead", "dead"),
    "webhooks": ("jobplatform.cli.webhooks", "webhooks"),
    "queues": ("jobplatform.cli.queues", "queues"),
    "limits": ("jobplatform.cli.limits", "limits"),
    "tenants": ("jobplatform.cli.tenants", "tenants"),
    "keys": ("jobplatform.cli.keys", "keys"),
    "kinds": ("jobplatform.cli.kinds", "kinds"),
    "workers": ("jobplatform.cli.workers", "workers"),
    "dispatch": ("jobplatform.cli.dispatch", "dispatch"),
    "migrate": ("jobplatform.cli.migrate", "migrate"),
    "db": ("jobplatform.cli.db", "db"),
    "broker": ("jobplatform.cli.broker", "broker"),
    "rebuild": ("jobplatform.cli.rebuild", "rebuild"),
    "doctor": ("jobplatform.cli.doctor", "doctor"),
    "audit": ("jobplatform.cli.audit", "audit"),
    "reporting": ("jobplatform.cli.reporting", "reporting"),
    "settings": ("jobplatform.cli.settings", "settings"),
    "states": ("jobplatform.cli.states", "states"),
    "completion": ("jobplatform.cli.completion", "completion"),
    "dev": ("jobplatform.cli.dev", "dev"),
}


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


@click.group(
    cls=LazyGroup,
    epilog="Over HTTP with JOBPLATFORM_URL and JOBPLATFORM_API_KEY; what needs the database says so. Exit codes: "
    "1 refused, 2 wrong usage, 3 what was followed has not succeeded, 4 no answer: try again.",
)
@click.version_option(__version__)
def cli() -> None:
    """Job platform on Celery, RabbitMQ and Postgres."""


def main() -> None:
    """Run the command line. Our own errors are printed as one line on stderr, plus one per wrong field."""
    try:
        cli(standalone_mode=True)
    except JobPlatformError as error:
        click.echo(f"jobplatform: {error} [{error.code}]", err=True)
        for item in error.errors if isinstance(error, InvalidRequest) else ():
            click.echo(f"  {item.in_words()}", err=True)
        sys.exit(EXIT_NO_ANSWER if isinstance(error, LedgerUnavailable | OutcomeUnknown) else EXIT_FAILED)
    except ImportError as error:
        missing = missing_extra(error)
        if missing is None:
            raise
        click.echo(f"jobplatform: this command needs more than the client: {missing}", err=True)
        sys.exit(EXIT_FAILED)
    except Exception as error:
        # by name first: a command without HTTP has not imported the client
        if not any(kind.__name__ == "ClientError" for kind in type(error).__mro__):
            raise
        from jobplatform.client import NoAnswer, Unavailable

        click.echo(f"jobplatform: {error}", err=True)
        sys.exit(EXIT_NO_ANSWER if isinstance(error, NoAnswer | Unavailable) else EXIT_FAILED)


if __name__ == "__main__":
    main()
