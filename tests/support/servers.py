"""The servers that all tests share."""

from __future__ import annotations

import os

from jobplatform.devstack.rabbitmq_server import CHOICE
from jobplatform.devstack.stack import Stack

#: the name of their stack; on RabbitMQ 4.3 another one
STACK = "test-next" if os.environ.get(CHOICE) else "test"


def slim_template(stack: Stack) -> None:
    """Drop the far partitions of the database that every test copies: a copy costs by the file."""
    ledger = stack.open_ledger()
    with ledger.statement() as connection:
        for table in ("job_history", "job_runs", "job_events"):
            names = connection.exec_driver_sql(
                f"SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = '{table}'::regclass "
                f"AND pg_get_expr((SELECT relpartbound FROM pg_class WHERE oid = inhrelid), inhrelid) <> 'DEFAULT'"
            ).scalars()
            for name in sorted(names)[3:]:
                connection.exec_driver_sql(f"DROP TABLE {name}")
    ledger.close()
