"""A private RabbitMQ node: the distribution's server with separate ports, folders, cookie and epmd.

A broker of the machine and its epmd on 4369 are never touched.
"""

from __future__ import annotations

import base64
import os
import shutil
import signal
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import orjson

from jobplatform.broker.connection import close, connect
from jobplatform.broker.definitions import build_definitions
from jobplatform.broker.topology import Topology, build_topology, choose_queue_type
from jobplatform.broker.users import ROLES
from jobplatform.config import DEFAULT_QUEUES
from jobplatform.devstack.instance import Instance, demote
from jobplatform.devstack.processes import DidNotStart, marked, start, wait_for, wait_gone
from jobplatform.devstack.rabbitmq_server import Server, choose_server

#: the role of the stack's own calls, and of tests
USER = "operator"
#: consumer time-out: the longest run; RabbitMQ's default of 30 minutes would close the channel of a long video
CONSUMER_TIMEOUT_MS = 24 * 3600 * 1000


def url(instance: Instance, vhost: str = "jobplatform", role: str = USER) -> str:
    """Return the AMQP URL of a vhost for a role of `broker.users`; here all have the instance's secret."""
    return f"amqp://{role}:{instance.secret}@127.0.0.1:{instance.ports['amqp']}/{vhost}"


def management_url(instance: Instance, role: str = USER) -> str:
    """Return the URL of the management page, with its login."""
    return f"http://{role}:{instance.secret}@127.0.0.1:{instance.ports['management']}"


def start_rabbitmq(
    instance: Instance, queues: Iterable[str] = DEFAULT_QUEUES, queue_type: str = "auto"
) -> subprocess.Popen[bytes]:
    """Start the node with these job queues in its definitions; `wait_until_up` waits for it (3 to 5 s)."""
    server = choose_server()
    stop_rabbitmq(instance)
    home = instance.owned_folder("rabbitmq")
    epmd = shutil.which("epmd") or str(next(iter(Path("/usr/lib/erlang").glob("erts-*/bin/epmd")), "epmd"))
    base = _environment(instance, server.inside(home))
    start(
        instance,
        "epmd",
        [epmd, "-address", "127.0.0.1", "-port", str(instance.ports["epmd"])],
        base,
        unprivileged=True,
        folder=home,
    )
    _write_configuration(instance, home, server, build_topology(queues, choose_queue_type(queue_type, server.version)))
    unprivileged = server.root is None  # the other server drops root itself, after it has entered its folder
    return start(instance, "rabbitmq", server.command(home), base, unprivileged=unprivileged, folder=home)


def wait_until_up(instance: Instance, process: subprocess.Popen[bytes] | None = None) -> None:
    """Wait until the node accepts connections and its management page answers."""

    def ready() -> bool:
        close(connect(url(instance), name="jobplatform dev"))
        return bool(call_management(instance, "/api/overview"))

    wait_for("RabbitMQ", ready, seconds=90, process=process, log=instance.logs / "rabbitmq.log")


def stop_rabbitmq(instance: Instance) -> None:
    """Stop node and epmd, found by this stack's mark."""
    for name, seconds in (("rabbitmq", 15.0), ("epmd", 5.0)):
        pids = [pid for pid, tag in marked(instance).items() if tag == name]
        for number, patience in ((signal.SIGTERM, seconds), (signal.SIGKILL, 5.0)):
            for pid in pids:
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    continue
            if wait_gone(pids, patience):
                break


def control(instance: Instance, *arguments: str) -> str:
    """Run `rabbitmqctl` against the node; returns its output. Raises `DidNotStart`."""
    server, home = choose_server(), instance.owned_folder("rabbitmq")
    extra: dict[str, Any] = demote() if server.root is None else {}
    done = subprocess.run(
        [str(part) for part in server.control(home, *arguments)],
        env=_environment(instance, server.inside(home)),
        capture_output=True,
        check=False,
        cwd=home,
        **extra,
    )
    said: bytes = done.stdout
    if done.returncode:
        why = (done.stderr.strip() or said.strip()).decode(errors="replace")
        raise DidNotStart(f"rabbitmqctl {' '.join(arguments)}: {why}")
    return said.decode(errors="replace")


def call_management(instance: Instance, path: str, method: str = "GET", body: object = None) -> Any:
    """Call the management API; return its answer, None when it is empty."""
    data = None if body is None else orjson.dumps(body)
    request = Request(f"http://127.0.0.1:{instance.ports['management']}{path}", data=data, method=method)
    token = base64.b64encode(f"{USER}:{instance.secret}".encode()).decode()
    request.add_header("Authorization", f"Basic {token}")
    request.add_header("Content-Type", "application/json")
    with urlopen(request, timeout=20) as answer:
        said = answer.read()
    return orjson.loads(said) if said else None


def _environment(instance: Instance, home: Path) -> dict[str, str]:
    node = f"jobplatform-{instance.folder.name}@localhost"
    return {
        "PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
        "LANG": "C.UTF-8",
        "HOME": str(home),
        "ERL_EPMD_PORT": str(instance.ports["epmd"]),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODENAME": node,
        "RABBITMQ_DIST_PORT": str(instance.ports["erlang_dist"]),
        "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
        "RABBITMQ_CONF_ENV_FILE": str(home / "rabbitmq-env.conf"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
        "RABBITMQ_MNESIA_BASE": str(home / "data"),
        "RABBITMQ_LOG_BASE": str(home / "log"),
        "RABBITMQ_PID_FILE": str(home / "node.pid"),
        # listen on loopback only, and do not spin a core while idle
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
            "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none +sbwtdio none"
        ),
    }


def definitions_file(instance: Instance) -> Path:
    """Return the path, as the server sees it, of the definitions that a new node loads."""
    return choose_server().inside(instance.owned_folder("rabbitmq")) / "definitions.json"


def _write_configuration(instance: Instance, home: Path, server: Server, topology: Topology) -> None:
    passwords = {role.name: instance.secret for role in ROLES}
    definitions = build_definitions(topology, vhost="jobplatform", passwords=passwords)
    configuration = f"""\
listeners.tcp.1 = 127.0.0.1:{instance.ports["amqp"]}
management.tcp.ip = 127.0.0.1
management.tcp.port = {instance.ports["management"]}
load_definitions = {server.inside(home)}/definitions.json
consumer_timeout = {CONSUMER_TIMEOUT_MS}
disk_free_limit.absolute = 50MB
vm_memory_high_watermark.relative = 0.4
log.console = true
log.file = false
"""
    for name, content in {
        "rabbitmq.conf": configuration,
        "rabbitmq-env.conf": "",
        "enabled_plugins": "[rabbitmq_management].\n",
        "definitions.json": orjson.dumps(definitions).decode(),
    }.items():
        (home / name).write_text(content)
        (home / name).chmod(0o644)  # the folder is readable only by the server's user
