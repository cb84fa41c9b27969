"""External servers instead of the stack's: Postgres and RabbitMQ from the settings, and another WSGI server."""

from __future__ import annotations

import socket
import subprocess
import uuid
from urllib.request import urlopen

import psycopg2

from jobplatform.devstack import rabbitmq
from jobplatform.devstack.demo import Caller
from jobplatform.devstack.instance import NAME_VARIABLE
from jobplatform.devstack.processes import script
from tests.e2e.conftest import Platform
from tests.e2e.test_devstack import run
from tests.support.waiting import eventually


def test_servers_named_in_the_settings_are_used(platform: Platform) -> None:
    instance = platform.stack.instance
    name = f"foreign_{uuid.uuid4().hex[:8]}"
    ledger = platform.stack.open_ledger()
    with ledger.statement() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    rabbitmq.call_management(instance, f"/api/vhosts/{name}", "PUT", {})
    rights = {"configure": ".*", "write": ".*", "read": ".*"}
    rabbitmq.call_management(instance, f"/api/permissions/{name}/{rabbitmq.USER}", "PUT", rights)
    plain = platform.stack.database_url.replace("+psycopg2", "").rsplit("/", 1)[0] + f"/{name}"
    servers = {"JOBPLATFORM_DATABASE_URL": plain, "JOBPLATFORM_BROKER_URL": rabbitmq.url(instance, name)}
    done = run("demo", **servers, **{NAME_VARIABLE: "test-named"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "starting RabbitMQ" not in done.stdout and "starting Postgres" not in done.stdout
    connection = psycopg2.connect(plain)
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM job_history")
        assert cursor.fetchone() == (3,)
    connection.close()
    with ledger.statement() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    ledger.close()
    rabbitmq.call_management(instance, f"/api/vhosts/{name}", "DELETE")


def test_gunicorn_serves_the_same_application(platform: Platform) -> None:
    with socket.socket() as item:
        item.bind(("127.0.0.1", 0))
        port = item.getsockname()[1]
    process = subprocess.Popen(
        [str(script("gunicorn")), "-b", f"127.0.0.1:{port}", "--threads", "4", "api:create_app()"],
        env=platform.stack.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=platform.scratch,
    )
    try:
        url = f"http://127.0.0.1:{port}"

        def ready() -> bool:
            try:
                with urlopen(f"{url}/readyz", timeout=2) as answer:
                    return bool(answer.status == 200)
            except OSError:
                return False

        eventually(ready, 30)
        caller = Caller(url, platform.api._key)
        body = {"kind": "acme.resize", "payload": {"width": 2, "height": 2}}
        job = caller.call("POST", "/v1/jobs", body)
        assert caller.call("GET", f"/v1/jobs/{job['id']}?wait=20")["status"] == "completed"
    finally:
        process.terminate()
        process.wait(20)
