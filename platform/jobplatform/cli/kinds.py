"""`jobplatform kinds`: the kinds that are registered here."""

from __future__ import annotations

import click


@click.command()
def kinds() -> None:
    """List the kinds, with queue, pool and limits."""
    from rich.console import Console
    from rich.table import Table

    from jobplatform.config import settings
    from jobplatform.domain.kinds import load_kinds

    config = settings()
    table = Table("kind", "queue", "pool", "attempts", "soft limit", "hard limit", "what it does")
    for kind in load_kinds(config.kind_modules, config.pools):
        table.add_row(
            kind.name,
            kind.queue,
            config.pools[kind.queue],
            str(kind.max_attempts),
            f"{kind.soft_limit_seconds or '–'}",
            f"{kind.hard_limit_seconds or '–'}",
            kind.description.splitlines()[0] if kind.description else "",
        )
    Console().print(table)
