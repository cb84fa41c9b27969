"""Options that many commands share, and the exit codes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

#: exit codes, documented in docs/howto/command-line.md
EXIT_FAILED, EXIT_USAGE, EXIT_NO_SUCCESS, EXIT_NO_ANSWER = 1, 2, 3, 4

#: type of an option with a time; the time zone is required
MOMENT = click.DateTime(["%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%dT%H:%M%z"])

Command = Callable[..., Any]


def database_option(command: Command) -> Command:
    """Add `--database`."""
    text = "connect to the database instead of the API: jobs of all tenants, no API key"
    return click.option("--database", is_flag=True, help=text)(command)


def tenant_option(command: Command) -> Command:
    """Add `--tenant`."""
    text = "use the database and this tenant instead of the API key's"
    return click.option("--tenant", metavar="NAME", help=text)(command)


def json_option(command: Command) -> Command:
    """Add `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="print JSON")(command)
