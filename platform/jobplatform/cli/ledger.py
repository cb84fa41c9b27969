"""The ledger, as commands open it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from uuid import UUID

    from sqlalchemy import Connection

    from jobplatform.ledger.session import Ledger


def find_tenant_id(ledger: Ledger, tenant: str) -> UUID:
    """Return the id of a tenant by its name. Raises `click.ClickException`."""
    from jobplatform.ledger.keys import find_tenant

    with ledger.statement() as connection:
        tenant_id = find_tenant(connection, tenant)
    if tenant_id is None:
        raise click.ClickException(f"no tenant {tenant!r}; see `jobplatform keys list`")
    return tenant_id


def open_commands_ledger() -> Ledger:
    """Open the ledger of the settings with one connection."""
    from jobplatform.config import settings
    from jobplatform.ledger.session import open_ledger

    return open_ledger(settings().database_url.get_secret_value(), name="cli", connections=1)


def password_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the parameters of commands that create a login: NAME and `--password-file`."""
    file = click.Path(exists=True, path_type=Path)
    option = click.option("--password-file", type=file, help="read the password from it; without, one is generated")
    return click.argument("name")(option(command))


def create_login(name: str, file: Path | None, put: Callable[[Connection, str, str], None], what: str) -> None:
    """Create a Postgres login. Prints its password if it was generated, else a confirmation."""
    import secrets

    password = file.read_text().strip() if file else secrets.token_urlsafe(24)
    with open_commands_ledger().transaction() as connection:
        put(connection, name, password)
    click.echo(f"{name} {what}" if file else password)
