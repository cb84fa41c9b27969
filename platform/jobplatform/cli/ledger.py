"""The commands' way to the ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jobplatform.ledger.session import Ledger


def open_commands_ledger() -> Ledger:
    """Return the ledger of the settings, by one connection."""
    from jobplatform.config import settings
    from jobplatform.ledger.session import open_ledger

    return open_ledger(settings().database_url.get_secret_value(), name="cli", connections=1)
