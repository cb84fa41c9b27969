"""Alembic's environment: one deployer at a time, bounded lock waits, a transaction per migration.

The order of the first statements matters (measured): the advisory lock, then lock_timeout, then a commit, then
`configure`. In another order a second deployer dies, or per-migration transactions are silently ignored.
"""

from __future__ import annotations

from alembic import context
from sqlalchemy import create_engine, pool, text

from jobplatform.config import settings
from jobplatform.ledger.schema import create_functions, create_views, head, revision_of
from jobplatform.ledger.tables import PARTITION_DAYS, PARTITIONED, metadata
from migrations.naming import is_ours

MIGRATION_LOCK = 7_163_201


def run() -> None:
    """Run the migrations that were asked for."""
    url = context.config.attributes.get("database_url") or settings().database_url.get_secret_value()
    engine = create_engine(url, poolclass=pool.NullPool)
    with engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": MIGRATION_LOCK})
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
            for table in PARTITIONED:
                connection.execute(
                    text("SELECT ensure_partitions(:t, :d, now() - interval '1 week', now() + interval '13 weeks')"),
                    {"t": table, "d": PARTITION_DAYS},
                )
            # the functions stand, whatever report keeps the views waiting
            connection.commit()
            create_views(connection)
        connection.commit()
        connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": MIGRATION_LOCK})
        connection.commit()
    engine.dispose()


run()
