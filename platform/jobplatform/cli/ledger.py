"""The commands' way to the ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from uuid import UUID

    from jobplatform.ledger.session import Ledger


def find_tenant_id(ledger: Ledger, tenant: str) -> UUID:
    """Return the id of a tenant by its name. Raises `click.ClickException`."""
    import click

    from jobplatform.ledger.keys import find_tenant

    with ledger.statement() as connection:
        found = find_tenant(connection, tenant)
    if found is None:
        raise click.ClickException(f"no tenant {tenant!r}; see `jobplatform keys list`")
    return found


def open_commands_ledger() -> Ledger:
    """Return the ledger of the settings, by one connection."""
    from jobplatform.config import settings
    from jobplatform.ledger.session import open_ledger

    return open_ledger(settings().database_url.get_secret_value(), name="cli", connections=1)
