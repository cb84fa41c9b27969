"""The private stack: its processes, their order and settings."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from jobplatform.config import Settings
from jobplatform.devstack import postgres, rabbitmq
from jobplatform.devstack.compose import services, worker_names
from jobplatform.devstack.instance import Instance, busy_ports, open_instance, read_ports, stack_folder, with_new_ports
from jobplatform.devstack.processes import DidNotStart, end_named, script, start, stop_all, wait_for
from jobplatform.domain.access import Scope
from jobplatform.ledger.keys import Grants, create_key, create_tenant, revoke_named
from jobplatform.ledger.session import Ledger, open_ledger

#: variable in `.local/env`: the folder of its stack
ENV_STACK = "JOBPLATFORM_ENV_OF"
#: variable in `.local/env`: the addresses of its servers, which a shell keeps after the stack's ports have changed
ENV_SERVERS = "JOBPLATFORM_ENV_SERVERS"

#: settings that the stack's processes take from the caller's environment
CHOSEN_SETTINGS = ("JOBPLATFORM_KIND_MODULES", "JOBPLATFORM_QUEUES", "JOBPLATFORM_QUEUE_TYPE", "JOBPLATFORM_LOG_LEVEL")

#: order of stopping: clients before servers
STOP_ORDER = (
    "api",
    "flower",
    "worker-email",
    "worker-video",
    "worker-llm",
    "worker-webhooks",
    "dispatcher",
    "model",
    "mail",
)


@dataclass
class Stack:
    """A private stack. Servers named in the environment replace private ones."""

    instance: Instance
    echo: Callable[[str], None] = print
    extra: dict[str, str] = field(default_factory=dict)
    durable: bool = True

    def __post_init__(self) -> None:
        self.own_database = _foreign("JOBPLATFORM_DATABASE_URL") is None
        self.own_broker = _foreign("JOBPLATFORM_BROKER_URL") is None

    # --- addresses ---------------------------------------------------------------------------------

    @property
    def database_url(self) -> str:
        """The ledger's URL."""
        return _foreign("JOBPLATFORM_DATABASE_URL") or postgres.url(self.instance)

    @property
    def broker_url(self) -> str:
        """RabbitMQ's URL."""
        return _foreign("JOBPLATFORM_BROKER_URL") or rabbitmq.url(self.instance)

    @property
    def management_url(self) -> str:
        """The URL of RabbitMQ's page."""
        if self.own_broker:
            return rabbitmq.management_url(self.instance)
        return os.environ.get("JOBPLATFORM_MANAGEMENT_URL", "")

    def local_url(self, port: str, path: str = "") -> str:
        """The URL of one of the stack's servers."""
        return f"http://127.0.0.1:{self.instance.ports[port]}{path}"

    def broker_url_of(self, role: str) -> str:
        """RabbitMQ's URL for a role; the private node has all of them."""
        return rabbitmq.url(self.instance, role=role) if self.own_broker else self.broker_url

    @property
    def reporting_url(self) -> str:
        """The ledger's URL for the login that can only read the schema `reporting`."""
        return self._url_of_login("reporting")

    def database_url_of(self, role: str) -> str:
        """The ledger's URL for a role; only the private Postgres has a login besides the owner's."""
        url = self.extra.get("JOBPLATFORM_DATABASE_URL", self.database_url)
        if self.own_database and role == "worker":
            return re.sub("//[^@]*@", f"//worker:{self.instance.secret}@", url)
        return url

    def _url_of_login(self, name: str) -> str:
        address = postgres.url(self.instance).replace("+psycopg2", "").rpartition("@")[2]
        return f"postgresql://{name}:{self.instance.secret}@{address}"

    @property
    def flower_url(self) -> str:
        """Flower's URL, with its login."""
        return f"http://flower:{self.instance.secret}@127.0.0.1:{self.instance.ports['flower']}/flower"

    def settings_environment(self) -> dict[str, str]:
        """The settings of the stack's processes as environment variables."""
        folder = self.instance.folder
        return {
            "JOBPLATFORM_DATABASE_URL": self.database_url,
            "JOBPLATFORM_BROKER_URL": self.broker_url,
            "JOBPLATFORM_ARTIFACT_URL": f"file://{folder}/artifacts",
            "JOBPLATFORM_MEDIA_ROOT": f"{folder}/media",
            "JOBPLATFORM_SMTP_URL": f"smtp://127.0.0.1:{self.instance.ports['smtp']}",
            "JOBPLATFORM_LLM_BASE_URL": self.local_url("model", "/v1"),
            "JOBPLATFORM_LLM_MODEL": "local-demo",
            "JOBPLATFORM_WEBHOOK_NETWORKS": "127.0.0.0/8,::1/128",
            **self.extra,
        }

    def environment(self) -> dict[str, str]:
        """The whole environment of the stack's processes."""
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("JOBPLATFORM_")}
        chosen = {key: value for key, value in os.environ.items() if key in CHOSEN_SETTINGS}
        return {**inherited, **chosen, **self.settings_environment(), "PYTHONUNBUFFERED": "1"}

    # --- life ---------------------------------------------------------------------------------------

    def start_servers(self) -> None:
        """Start Postgres and RabbitMQ, or use the named ones; migrate, and declare the topology."""
        self.clean_up()
        for folder in ("artifacts", "media"):
            (self.instance.folder / folder).mkdir(mode=0o700, exist_ok=True)
        if busy_ports(self.instance.ports):
            self.instance = with_new_ports(self.instance)
        node = None
        if self.own_broker:
            self.echo("starting RabbitMQ …")
            node = rabbitmq.start_rabbitmq(self.instance, self.queues(), self.queue_type())
        if self.own_database:
            self.echo("starting Postgres …")
            postgres.start_postgres(self.instance, durable=self.durable)
            postgres.create_database(self.instance)
        self.echo("migrating the ledger …")
        self.run_service("migrate")
        if self.own_database:  # another server may not let us create roles
            self.run_service("login-worker")
            self.run_service("login-reporting")
        if node is not None:
            rabbitmq.wait_until_up(self.instance, node)
        self.run("broker", "apply")

    def start_broker(self) -> None:
        """Restart RabbitMQ, and wait until it is up."""
        rabbitmq.wait_until_up(self.instance, rabbitmq.start_rabbitmq(self.instance, self.queues(), self.queue_type()))

    def queues(self) -> list[str]:
        """Return the queues of the stack's settings."""
        chosen = self.environment().get("JOBPLATFORM_QUEUES")
        return list((Settings.model_validate({"queues": chosen}) if chosen else Settings()).queues)

    def queue_type(self) -> str:
        """Return the type of the stack's queues: "auto", "classic" or "quorum"."""
        return self.environment().get("JOBPLATFORM_QUEUE_TYPE", "auto")

    def start_platform(self) -> None:
        """Start mail sink, model server, and the services of docker-compose.yml; wait until each answers."""
        self.echo("starting API, dispatcher, workers, Flower, mail and model server …")
        self.start_mail()
        port = str(self.instance.ports["model"])
        self._start("model", [sys.executable, "-m", "jobplatform.devstack.modelserver", "--port", port])
        self.start_dispatcher()
        for name in worker_names():
            self.start_service(name)
        api = self.start_api()
        flower = self.start_service("flower")
        self.wait_answers("API", self.local_url("api", "/readyz"), api, "api")
        self.wait_answers("Flower", self.local_url("flower", "/flower/healthcheck"), flower, "flower")
        self.wait_for_workers(len(worker_names()))

    def run_service(self, name: str) -> str:
        """Run a one-shot service by its command in docker-compose.yml; returns its output. Raises `DidNotStart`."""
        _program, *arguments = services()[name].command
        return self.run(*(self._secret_file(word) if word.startswith("/run/secrets/") else word for word in arguments))

    def _secret_file(self, path: str) -> str:
        """Return the stack's file for a secret that a command reads from a file."""
        file = self.instance.folder / path.rpartition("/")[2]
        file.touch(mode=0o600)
        file.write_text(self.instance.secret)
        return str(file)

    def start_service(self, name: str, tag: str | None = None, programs: Path | None = None) -> subprocess.Popen[bytes]:
        """Start a service with its command and role in docker-compose.yml.

        `tag` names a further instance; `programs` is the folder of another environment's programs.
        """
        service = services()[name]
        own = {
            "JOBPLATFORM_BROKER_URL": self.broker_url_of(service.role),
            "JOBPLATFORM_DATABASE_URL": self.database_url_of(service.role),
            "JOBPLATFORM_METRICS_PORT": str(self.instance.ports[f"metrics-{name}"] if service.is_measured else 0),
        }
        if name == "api":
            own["PROMETHEUS_MULTIPROC_DIR"] = str(self.instance.folder / "metrics")
        if name == "flower":
            own["JOBPLATFORM_DATABASE_URL"] = service.environment["JOBPLATFORM_DATABASE_URL"]  # without a password
            own["JOBPLATFORM_FLOWER_PASSWORD"] = self.instance.secret
            if self.own_broker:
                own["JOBPLATFORM_MANAGEMENT_URL"] = rabbitmq.management_url(self.instance, service.role)
        if tag is not None:  # its port is taken
            own["JOBPLATFORM_METRICS_PORT"] = "0"
        program, *arguments = service.local_command(self.instance)
        if programs is not None:
            program = programs / Path(program).name
        return self._start(tag or name, [program, *arguments], own)

    def start_mail(self) -> subprocess.Popen[bytes]:
        """Start the mail sink."""
        smtp, http = (str(self.instance.ports[name]) for name in ("smtp", "mail"))
        command: list[str | Path] = [
            sys.executable,
            "-m",
            "jobplatform.devstack.mailsink",
            "--smtp-port",
            smtp,
            "--http-port",
            http,
        ]
        return self._start("mail", command)

    def start_dispatcher(self) -> subprocess.Popen[bytes]:
        """Start a dispatcher."""
        return self.start_service("dispatcher")

    def start_api(self) -> subprocess.Popen[bytes]:
        """Start the API."""
        metrics = self.instance.folder / "metrics"
        shutil.rmtree(metrics, ignore_errors=True)
        metrics.mkdir()
        return self.start_service("api")

    def start_celery(self, name: str, queue: str, *options: str, app: str = "workers.app") -> subprocess.Popen[bytes]:
        """Start a Celery worker on a queue that is not in docker-compose.yml, optionally of a team's own app."""
        command: list[str | Path] = [script("celery"), "-A", app, "worker", "-Q", queue, "-n", f"{name}@%h"]
        command += [*options, "--without-gossip", "--without-mingle"]
        urls = {"BROKER": self.broker_url_of("worker"), "DATABASE": self.database_url_of("worker")}
        return self._start(name, command, {f"JOBPLATFORM_{server}_URL": url for server, url in urls.items()})

    def wait_answers(self, what: str, url: str, process: subprocess.Popen[bytes], name: str) -> None:
        """Wait until a URL answers 200."""

        def answers() -> bool:
            with urlopen(url, timeout=2) as answer:
                return bool(answer.status == 200)

        wait_for(what, answers, process=process, log=self.instance.logs / f"{name}.log")

    def wait_for_workers(self, count: int) -> None:
        """Wait until this many workers send heartbeats."""
        ledger = self.open_ledger()

        def beating() -> bool:
            with ledger.statement() as connection:
                return bool(
                    connection.exec_driver_sql(
                        "SELECT count(*) FROM workers WHERE stopped_at IS NULL "
                        "AND heartbeat_at > clock_timestamp() - interval '20 s'"
                    ).scalar_one()
                    >= count
                )

        wait_for(f"{count} workers", beating, log=self.instance.logs / "worker-email.log")
        ledger.close()

    def open_ledger(self) -> Ledger:
        """Return a ledger on this stack's database."""
        url = Settings(database_url=self.database_url).database_url.get_secret_value()
        return open_ledger(url, name="dev", connections=2)

    def create_api_key(self) -> str:
        """Create an API key of the tenant "default" with every scope, and revoke that of an earlier start."""
        ledger = self.open_ledger()
        with ledger.transaction() as connection:
            revoke_named(connection, "dev stack")
            key = create_key(connection, create_tenant(connection, "default"), "dev stack", Grants(scopes=tuple(Scope)))
        ledger.close()
        return key

    def run(self, *arguments: str) -> str:
        """Run a `jobplatform` command with the stack's settings; returns its output. Raises `DidNotStart`."""
        done = subprocess.run(
            [str(script("jobplatform")), *arguments],
            env=self.environment(),
            capture_output=True,
            text=True,
            check=False,
            cwd=self.instance.folder,
        )
        if done.returncode:
            raise DidNotStart(f"jobplatform {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def _start(
        self, name: str, command: list[str | Path], own: dict[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        return start(self.instance, name, command, {**self.environment(), **(own or {})})

    def stop(self, *, gently: bool = True) -> list[str]:
        """Stop everything; return the names of processes that had to be killed.

        `gently=False` is for data that is deleted afterwards: a graceful stop of RabbitMQ takes six seconds.
        """
        killed = stop_all(self.instance, [*STOP_ORDER, "rabbitmq", "epmd"] if gently else [], gently=gently)
        postgres.stop_postgres(self.instance)
        return killed

    def stop_platform(self) -> None:
        """Stop the platform's processes; the servers keep running."""
        for name in STOP_ORDER:
            end_named(self.instance, name)

    def clean_up(self) -> None:
        """End processes that an interrupted run has left behind."""
        stop_all(self.instance, [], gently=False)
        postgres.stop_postgres(self.instance)

    def forget(self) -> None:
        """Remove the stack's folder; it must be stopped."""
        shutil.rmtree(stack_folder(self.instance.name), ignore_errors=True)


def new_stack(name: str, **options: Any) -> Stack:
    """Return a stack without data, to be started; `options` are fields of `Stack`. The name must be `taken`.

    What a killed run has left, perhaps of another version, is ended and removed.
    """
    left = Stack(open_instance(name))
    left.clean_up()
    left.forget()
    return Stack(open_instance(name), **options)


def _foreign(variable: str) -> str | None:
    """Return a server named in the environment, unless it comes from a stack's `.local/env`.

    A shell that has sourced that file must be able to run `make demo` and `make test` beside that stack.
    """
    value = os.environ.get(variable, "")
    sourced = read_ports(Path(os.environ.get(ENV_STACK, "/nowhere")))
    ours = any(f"127.0.0.1:{sourced.get(name)}/" in value for name in ("postgres", "amqp"))
    ours = ours or value in os.environ.get(ENV_SERVERS, "").split()
    return value if value and not ours else None
