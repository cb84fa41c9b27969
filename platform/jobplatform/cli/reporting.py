"""`jobplatform reporting`: prepared queries, and logins for SQL reports."""

from __future__ import annotations

from pathlib import Path

import click

from jobplatform.cli.ledger import create_login, open_commands_ledger, password_options


@click.group()
def reporting() -> None:
    """Run prepared queries, and create logins for SQL reports. Needs the database."""


@reporting.command()
@click.argument("name", required=False)
def ask(name: str | None) -> None:
    """Run the prepared query NAME; without NAME, list them."""
    from rich.console import Console
    from rich.table import Table

    from jobplatform.ledger import reports

    known = {question.name: question for question in reports.questions()}
    table = Table("name", "question")
    if name is None:
        for question in known.values():
            table.add_row(question.name, question.question)
    elif name not in known:
        raise click.ClickException(f"no question {name!r}; there are: {', '.join(known)}")
    else:
        with open_commands_ledger().statement() as connection:
            columns, rows = reports.ask(connection, known[name])
        table = Table(*columns, title=known[name].question, title_justify="left")
        for row in rows:
            table.add_row(*["" if value is None else str(value) for value in row])
    Console().print(table)


@reporting.command()
@password_options
def login(name: str, password_file: Path | None) -> None:
    """Create the login NAME: it reads the schema `reporting` only, with a statement time-out of a minute."""
    from jobplatform.ledger import reports

    create_login(name, password_file, reports.put_reader, "may read the schema reporting")
