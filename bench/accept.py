"""Accept and read: one job per request, from 16 keep-alive clients, with each app under granian and under gunicorn."""

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
    (f"{DELAY}, both on granian", OURS, "Flask + .delay(), granian", 3.0),
    (f"{DELAY}, each on its usual server", OURS, "Flask + .delay(), gunicorn", 3.0),
    (f"{INSERT}, both on granian", OURS, "Flask + INSERT, granian", 1.2),
    (f"{INSERT}, both on gunicorn", "job platform, gunicorn", "Flask + INSERT, gunicorn", 0.8),
)
#: jobs that are read in turn
READ_JOBS = 500
BARE_READ = "Flask + SELECT, granian"
#: side of a read → its request headers; `*` is the tag of any state, so every answer is a 304
READS = {OURS: {}, "job platform, granian, unchanged job": {"If-None-Match": "*"}}
READ_GOALS = dict(zip(READS, (1.5, 2.0), strict=True))


def measure(stack: Stack, ours: Ours, bare: Bare, app: str, seconds: int) -> Load:
    """Load one app, first to warm it up, then to measure."""
    module, path = APPS[app]
    with _served(stack, bare, app, module) as url:
        key = ours.key if module.startswith("api") else ""
        run_wrk(stack.instance.folder, url + path, 1, body=BODY, key=key)  # warm: connections, prepared statements
        wrk = run_wrk(stack.instance.folder, url + path, seconds, body=BODY, key=key)
    purge(stack, "bare")
    return wrk


def measure_reads(stack: Stack, ours: Ours, bare: Bare, seconds: int) -> dict[str, Load]:
    """Load each side with reads of single jobs by id; returns side → load."""
    ids = [str(ours.submit(n)) for n in range(READ_JOBS)]
    folder, result = stack.instance.folder, {}
    with _served(stack, bare, OURS, APPS[OURS][0]) as url:
        paths = [f"/v1/jobs/{job_id}" for job_id in ids]
        for side, headers in READS.items():
            run_wrk(folder, url, 1, key=ours.key, paths=paths, headers=headers)
            result[side] = run_wrk(folder, url, seconds, key=ours.key, paths=paths, headers=headers)
    connection = psycopg2.connect(bare.environment["BARE_DATABASE_URL"])
    with connection, connection.cursor() as cursor:
        cursor.executemany("INSERT INTO bare_jobs VALUES (%s, %s, now())", [(job_id, '{"n": 1}') for job_id in ids])
    connection.close()
    with _served(stack, bare, BARE_READ, "bench.bare_web:app") as url:
        paths = [f"/read/{job_id}" for job_id in ids]
        run_wrk(folder, url, 1, paths=paths)
        result[BARE_READ] = run_wrk(folder, url, seconds, paths=paths)
    ours.clear()
    return result


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
