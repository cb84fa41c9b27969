"""The commands' way to the platform: HTTP with an API key, as for everybody else.

What one may do to things of any tenant goes by the database (`--database`, `--tenant`), for those who may.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from jobplatform.client import Client

URL, KEY = "JOBPLATFORM_URL", "JOBPLATFORM_API_KEY"

#: exit codes, documented in docs/howto/command-line.md
EXIT_FAILED, EXIT_USAGE, EXIT_NO_SUCCESS, EXIT_NO_ANSWER = 1, 2, 3, 4

#: an option's time; the zone has to be said
MOMENT = click.DateTime(["%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%dT%H:%M%z"])

Command = Callable[..., Any]


def database_option(command: Command) -> Command:
    """Add `--database`."""
    return click.option("--database", is_flag=True, help="by the database: of any tenant, with nobody's key")(command)


def tenant_option(command: Command) -> Command:
    """Add `--tenant`."""
    return click.option("--tenant", metavar="NAME", help="of this tenant, by the database; else the key's")(command)


def json_option(command: Command) -> Command:
    """Add `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="print JSON")(command)


def has_key() -> bool:
    """Return whether there is an API key to go by HTTP with."""
    return bool(os.environ.get(KEY))


def connect() -> Client:
    """Return a client of the API. Raises `click.UsageError` when nobody has said where it is."""
    from jobplatform.client import Client

    missing = [name for name in (URL, KEY) if not os.environ.get(name)]
    if missing:
        raise click.UsageError(
            f"this goes over HTTP: expected {' and '.join(missing)} in the environment "
            f"(`make up` writes both to .local/env; `jobplatform keys create` makes a key)"
        )
    return Client(os.environ[URL], os.environ[KEY])


def ask(
    method: str, path: str, *, params: Mapping[str, Any] | None = None, body: Mapping[str, Any] | None = None
) -> Any:
    """Call an operation of the API and return its JSON."""
    with connect() as client:
        return client.call(method, path, params=params, body=body)


def print_json(value: Any) -> None:
    """Print JSON for machines."""
    import orjson

    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_UTC_Z, default=str))


def print_table(table: Any) -> None:
    """Print a table for people; without colours, and as wide as it likes, where nobody looks."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(width=240)
    console.print(table)


def when(moment: Any) -> str:
    """Return a time for people, of a datetime or of the API's text; "" for none."""
    from datetime import UTC, datetime

    if moment is None:
        return ""
    result = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    return f"{result.astimezone(UTC):%F %T}Z"


def plain(value: object) -> str:
    """Return text that is no markup of rich."""
    from rich.markup import escape

    return escape("" if value is None else str(value))
