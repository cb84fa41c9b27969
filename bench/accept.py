"""Accept: one job per request, from 16 keep-alive clients, with each app under granian and under gunicorn."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg2

from bench.dispatch import purge
from bench.load import Load, run_wrk
from bench.sides import Bare, Ours
from jobplatform.devstack.processes import script, start, wait_for, wait_gone
from jobplatform.devstack.stack import Stack

CREATE = "CREATE TABLE IF NOT EXISTS bare_jobs (id uuid PRIMARY KEY, payload jsonb NOT NULL, created_at timestamptz)"
BODY = b'{"kind": "bench.noop", "payload": {"n": 1}}'
#: app and server → (module, path); the platform's default server is granian (RSGI), its alternative is gunicorn
APPS = {
    "job platform, granian": ("api.server:app", "/v1/jobs"),
    "job platform, gunicorn": ("api:create_app()", "/v1/jobs"),
    "Flask + .delay(), granian": ("bench.bare_web:app", "/delay"),
    "Flask + .delay(), gunicorn": ("bench.bare_web:app", "/delay"),
    "Flask + INSERT, granian": ("bench.bare_web:app", "/insert"),
    "Flask + INSERT, gunicorn": ("bench.bare_web:app", "/insert"),
}
OURS = "job platform, granian"
DELAY, INSERT = "accept ÷ Flask + .delay() with confirms", "accept ÷ bare Flask with one INSERT"
#: comparisons: (name, ours, theirs, target ratio)
PAIRS = (
    (f"{DELAY}, both on granian", OURS, "Flask + .delay(), granian", 2.0),
    (f"{DELAY}, each on its usual server", OURS, "Flask + .delay(), gunicorn", 2.0),
    (f"{INSERT}, both on granian", OURS, "Flask + INSERT, granian", 0.7),
    (f"{INSERT}, each on its usual server", OURS, "Flask + INSERT, gunicorn", 0.7),
)


def measure(stack: Stack, ours: Ours, bare: Bare, app: str, seconds: int) -> Load:
    """Load one app, first to warm it up, then to measure."""
    module, path = APPS[app]
    with _served(stack, bare, app, module) as url:
        key = ours.key if module.startswith("api") else ""
        run_wrk(stack.instance.folder, url + path, 1, body=BODY, key=key)  # warm: connections, prepared statements
        wrk = run_wrk(stack.instance.folder, url + path, seconds, body=BODY, key=key)
    purge(stack, "bare")
    return wrk


@contextmanager
def _served(stack: Stack, bare: Bare, app: str, module: str) -> Iterator[str]:
    port = str(stack.instance.ports["api"])
    if module == "api.server:app":
        process = stack.start_api()
    else:
        environment = {**stack.environment(), **(bare.environment if module.startswith("bench") else {})}
        process = start(stack.instance, "accept", _command(app, module, port), environment)
    try:
        wait_for("the server", lambda: _listens(int(port)), process=process)
        yield stack.local_url("api")
    finally:
        process.terminate()
        wait_gone([process.pid], 20)


def _command(app: str, module: str, port: str) -> list[str | Path]:
    if app.endswith("granian"):
        served = ("--interface", "wsgi", "--host", "127.0.0.1", "--port", port, "--workers", "2")
        return [script("granian"), *served, "--blocking-threads", "8", "--log-level", "warning", module]
    threads = ("-k", "gthread", "-w", "2", "--threads", "8", "-b", f"127.0.0.1:{port}", "--keep-alive", "60")
    return [script("gunicorn"), *threads, "--log-level", "warning", module]


def _listens(port: int) -> bool:
    socket.create_connection(("127.0.0.1", port), 1).close()
    return True


def prepare(bare: Bare) -> None:
    """Create the bare side's table."""
    connection = psycopg2.connect(bare.environment["BARE_DATABASE_URL"])
    with connection, connection.cursor() as cursor:
        cursor.execute(CREATE)
    connection.close()
