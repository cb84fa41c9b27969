"""Migrate the ledger to the newest schema: Alembic's revisions, then current functions and views.

Functions and views are created by `CREATE OR REPLACE` after every upgrade, so the files in `sql/` and `reporting/`
are what runs. A revision that changes a column of a view drops the view first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from importlib import resources
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from jobplatform.errors import ConfigurationError
from jobplatform.ledger.reports import view_scripts
from jobplatform.ledger.session import translate


def function_scripts() -> list[str]:
    """Return the SQL of the ledger's functions in their order of creation."""
    folder = resources.files("jobplatform.ledger") / "sql"
    return [
        entry.read_text() for entry in sorted(folder.iterdir(), key=lambda e: e.name) if entry.name.endswith(".sql")
    ]


def create_functions(connection: Connection) -> None:
    """Create or replace the ledger's functions."""
    _run_scripts(connection, function_scripts())


def create_views(connection: Connection) -> None:
    """Create or replace the views of `reporting`; waits for a report that reads them."""
    _run_scripts(connection, view_scripts())


#: Postgres's hint when CREATE OR REPLACE would change the columns that a function returns
_DROP_FIRST = re.compile(r"Use (DROP FUNCTION .+) first\.")


def _run_scripts(connection: Connection, scripts: Iterable[str]) -> None:
    for script in scripts:
        while not _try_script(connection, script):
            pass


def _try_script(connection: Connection, script: str) -> bool:
    """Run a script; return False if a function was dropped instead that returned other columns in an older version."""
    try:
        with connection.begin_nested():
            # the driver would read a % as a placeholder
            connection.exec_driver_sql(script.replace("%", "%%"))
        return True
    except DBAPIError as error:
        drop = _DROP_FIRST.search(getattr(getattr(error.orig, "diag", None), "message_hint", None) or "")
        if drop is None:
            raise
        connection.exec_driver_sql(drop[1])
        return False


def alembic_config(database_url: str) -> Config:
    """Return Alembic's configuration for this database."""
    folder = Path(str(resources.files("migrations")))
    config = Config(str(folder / "alembic.ini"))
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.attributes["database_url"] = database_url
    return config


def head() -> str:
    """Return the newest revision that this version knows."""
    return str(ScriptDirectory.from_config(alembic_config("")).get_current_head())


def is_known(revision: str) -> bool:
    """Return whether this version has a revision; false for one of a newer version, or of before a squash."""
    return revision in {item.revision for item in ScriptDirectory.from_config(alembic_config("")).walk_revisions()}


def is_behind(revision: str, current: str | None) -> bool:
    """Return whether a revision is older than the ledger's."""
    if current is None:
        return False
    if revision == "base":
        return True
    script = ScriptDirectory.from_config(alembic_config(""))
    try:
        wanted = script.get_revision(revision)
        passed = {item.revision for item in script.iterate_revisions(current, "base")} - {current}
    except CommandError:  # a relative one, or not known here: Alembic says so
        return False
    return wanted is not None and wanted.revision in passed


def upgrade(database_url: str, revision: str = "head") -> None:
    """Migrate the ledger to `revision`. Concurrent deployers wait for a lock on Alembic's table.

    Raises `LedgerUnavailable`, or `ConfigurationError` for a revision that this version does not know.
    """
    _run(command.upgrade, database_url, revision)


def downgrade(database_url: str, revision: str) -> None:
    """Migrate back (tests and emergencies; data of dropped tables is lost). Raises as `upgrade`."""
    _run(command.downgrade, database_url, revision)


def _run(action: Callable[[Config, str], None], database_url: str, revision: str) -> None:
    try:
        action(alembic_config(database_url), revision)
    except DBAPIError as error:
        raise translate(error) from error
    except CommandError as error:
        known = ", ".join(
            sorted(item.revision for item in ScriptDirectory.from_config(alembic_config("")).walk_revisions())
        )
        raise ConfigurationError(f"revision {revision!r}: {error}. Known here: {known}") from None


def revision_of(connection: Connection) -> str | None:
    """Return the revision of the ledger; None if it was never migrated."""
    if connection.execute(text("SELECT to_regclass('alembic_version')")).scalar_one() is None:
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
