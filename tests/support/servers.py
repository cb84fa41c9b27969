"""The servers that all tests share."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from jobplatform.devstack.rabbitmq_server import CHOICE
from jobplatform.devstack.stack import Stack

#: the name of their stack; a separate one for RabbitMQ 4.3
STACK = "test-next" if os.environ.get(CHOICE) else "test"

MEMORY = Path("/dev/shm")
#: test databases are small, and few exist at once
WANTED_BYTES = 4 * 1024**3


def keep_in_memory(stack: Stack) -> Path | None:
    """Let Postgres keep its data in memory if there is enough; return the folder, to be removed afterwards.

    Each test copies and drops a database of some hundred files: on ext4 a third of all CPU time was spent on finding
    inodes that had not just been freed.
    """
    in_memory = MEMORY / f"{stack.instance.folder.parent.name}-{stack.instance.folder.name}"
    shutil.rmtree(in_memory, ignore_errors=True)  # left over from an interrupted run
    folder = stack.instance.folder / "postgres"
    if folder.is_symlink():
        folder.unlink()
    if not MEMORY.is_dir() or shutil.disk_usage(MEMORY).free < WANTED_BYTES:
        return None
    shutil.rmtree(folder, ignore_errors=True)
    in_memory.mkdir(mode=0o700)
    folder.symlink_to(in_memory)
    return in_memory


def slim_template(stack: Stack) -> None:
    """Drop the later partitions of the database that every test copies: each file adds to the cost of a copy."""
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
