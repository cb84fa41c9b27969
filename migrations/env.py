"""Alembic's environment: one deployer at a time, bounded lock waits, a transaction per migration.

The order of the first statements matters (measured): the lock, then lock_timeout, then a commit, then `configure`. In
another order a second deployer dies, or per-migration transactions are silently ignored.
"""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection, create_engine, pool, text
from sqlalchemy.exc import IntegrityError

from jobplatform.config import settings
from jobplatform.ledger.schema import create_functions, create_views, head, revision_of
from jobplatform.ledger.tables import PARTITION_DAYS, PARTITIONED, metadata
from migrations.naming import is_ours


def run() -> None:
    """Run the migrations that were asked for."""
    url = context.config.attributes.get("database_url") or settings().database_url.get_secret_value()
    engine = create_engine(url, poolclass=pool.NullPool)
    with engine.connect() as deployer, engine.connect() as connection:
        wait_for_other_deployers(deployer)
        connection.execute(text("SET lock_timeout = '5s'"))
        connection.commit()
        context.configure(
            connection=connection,
            target_metadata=metadata,
            transaction_per_migration=True,
            compare_type=True,
            include_name=is_ours,
        )
        with context.begin_transaction():
            context.run_migrations()
        if revision_of(connection) == head():  # an older ledger gets its functions from the version it belongs to
            create_functions(connection)
            connection.execute(text("SELECT rebase_feed()"))  # restored into another cluster?
            for table in PARTITIONED:
                connection.execute(
                    text("SELECT ensure_partitions(:t, :d, now() - interval '1 week', now() + interval '13 weeks')"),
                    {"t": table, "d": PARTITION_DAYS},
                )
            # the functions stand, whatever report keeps the views waiting
            connection.commit()
            create_views(connection)
        connection.commit()
    engine.dispose()


def wait_for_other_deployers(connection: Connection) -> None:
    """Lock Alembic's own table on a connection of its own, until that is closed: its owner alone can.

    Not an advisory lock, which any login of the database could hold. Alembic writes beside this lock.
    """
    connection.execute(text("SET idle_in_transaction_session_timeout = 0"))
    connection.execute(
        text("SET transaction_timeout = 0") if _has_transaction_timeout(connection) else text("SELECT 1")
    )
    connection.commit()
    try:
        connection.execute(text("CREATE TABLE IF NOT EXISTS alembic_version (version_num varchar(32) PRIMARY KEY)"))
        connection.commit()
    except IntegrityError:  # another deployer makes it at the same moment
        connection.rollback()
    connection.execute(text("LOCK TABLE alembic_version IN SHARE UPDATE EXCLUSIVE MODE"))


def _has_transaction_timeout(connection: Connection) -> bool:
    number = connection.execute(text("SELECT current_setting('server_version_num')::integer")).scalar_one()
    return bool(number >= 170000)


run()
