"""Accept: one job per request, 16 keep-alive clients, each app under granian and under gunicorn."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg2

from bench import bare_web
from bench.dispatch import purge
from bench.load import Load, run_wrk
from bench.sides import Bare, Ours
from jobplatform.devstack.processes import script, start, wait_gone
from jobplatform.devstack.stack import Stack

BODY = b'{"kind": "bench.noop", "payload": {"n": 1}}'
#: app and server → (module, path); the platform's own server is granian's RSGI, its second gunicorn
APPS = {
    "job platform, granian": ("api.server:app", "/v1/jobs"),
    "job platform, gunicorn": ("api:create_app()", "/v1/jobs"),
    "Flask + .delay(), granian": ("bench.bare_web:app", "/delay"),
    "Flask + .delay(), gunicorn": ("bench.bare_web:app", "/delay"),
    "Flask + INSERT, granian": ("bench.bare_web:app", "/insert"),
    "Flask + INSERT, gunicorn": ("bench.bare_web:app", "/insert"),
}
#: what is compared: (name, ours, theirs, the ratio to reach)
PAIRS = (
    (
        "accept ÷ Flask + .delay() with confirms, same server (granian)",
        APPS_OURS := "job platform, granian",
        "Flask + .delay(), granian",
        2.0,
    ),
    (
        "accept ÷ Flask + .delay() with confirms, same server (gunicorn)",
        "job platform, gunicorn",
        "Flask + .delay(), gunicorn",
        2.0,
    ),
    ("accept ÷ Flask + .delay() with confirms, each on its usual server", APPS_OURS, "Flask + .delay(), gunicorn", 2.0),
    ("accept ÷ bare Flask with one INSERT, same server (granian)", APPS_OURS, "Flask + INSERT, granian", 0.7),
    (
        "accept ÷ bare Flask with one INSERT, same server (gunicorn)",
        "job platform, gunicorn",
        "Flask + INSERT, gunicorn",
        0.7,
    ),
    ("accept ÷ bare Flask with one INSERT, each on its usual server", APPS_OURS, "Flask + INSERT, gunicorn", 0.7),
)


def measure(stack: Stack, ours: Ours, bare: Bare, app: str, seconds: int) -> Load:
    """Load one app; what it accepted is forgotten afterwards."""
    module, path = APPS[app]
    with _served(stack, bare, app, module) as url:
        key = ours.key if module.startswith("api") else ""
        for _ in range(6):  # each process of the server makes its first connection alone
            run_wrk(stack.place.folder, url + path, 1, body=BODY, key=key, clients=1)
        run_wrk(stack.place.folder, url + path, 1, body=BODY, key=key)  # warm: connections, prepared statements
        found = run_wrk(stack.place.folder, url + path, seconds, body=BODY, key=key)
    ours.clear()
    purge(stack, "bare")
    return found


@contextmanager
def _served(stack: Stack, bare: Bare, app: str, module: str) -> Iterator[str]:
    if module == "api.server:app":
        process = stack.start_api()
        health = "/healthz"
    else:
        port = str(stack.place.ports["api"])
        command: list[str | Path]
        if app.endswith("granian"):
            command = [
                script("granian"),
                "--interface",
                "wsgi",
                "--host",
                "127.0.0.1",
                "--port",
                port,
                "--workers",
                "2",
            ]
            command += ["--blocking-threads", "8", "--log-level", "warning", module]
        else:
            command = [script("gunicorn"), "-k", "gthread", "-w", "2", "--threads", "8", "-b", f"127.0.0.1:{port}"]
            command += ["--keep-alive", "60", "--log-level", "warning", module]
        environment = {**stack.environment(), **bare.environment} if module.startswith("bench") else stack.environment()
        process = start(stack.place, "accept", command, environment)
        health = "/healthz" if module.startswith("api") else "/static/nothing"
    url = stack.local_url("api")
    try:
        _wait_up(stack, url + health, process)
        yield url
    finally:
        process.terminate()
        wait_gone([process.pid], 20)


def _wait_up(stack: Stack, url: str, process: subprocess.Popen[bytes]) -> None:
    import socket

    from jobplatform.devstack.processes import wait_for

    def listening() -> bool:
        socket.create_connection(("127.0.0.1", stack.place.ports["api"]), 1).close()
        return True

    wait_for("the server", listening, process=process)
    time.sleep(0.5)


def prepare(bare: Bare) -> None:
    """Create the bare side's table."""
    connection = psycopg2.connect(bare.environment["BARE_DATABASE_URL"])
    with connection, connection.cursor() as cursor:
        cursor.execute(bare_web.CREATE)
    connection.close()
