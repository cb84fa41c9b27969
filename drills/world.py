"""The platform under a drill: two dispatchers, two workers and the API, restarted when they end, as in production."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import psutil
from sqlalchemy import text

from drills.sink import Sink
from jobplatform.devstack import postgres, rabbitmq
from jobplatform.devstack.demo import Caller
from jobplatform.devstack.place import CHECKOUT, Place, open_place
from jobplatform.devstack.processes import marked, script, wait_for
from jobplatform.devstack.proxy import Proxy
from jobplatform.devstack.rabbitmq_server import CHOICE
from jobplatform.devstack.stack import Stack

BEAT_SECONDS, LEASE_SECONDS, MARKER_SECONDS = 0.5, 2.5, 3.0
#: how soon a process that ended is started again
RESTART_SECONDS = 0.3
WORKERS = ("drill-1", "drill-2")
DISPATCHERS = ("dispatcher", "dispatcher-2")
API = "api"


class World:
    """One stack for all drills. The API reaches Postgres by a proxy that can lose answers, the first dispatcher by one
    that can stop a commit."""

    def __init__(self, tell: Callable[[str], None], sink: Sink, durable: bool = True) -> None:
        name = "drills-next" if os.environ.get(CHOICE) else "drills"
        extra = {
            "JOBPLATFORM_KIND_MODULES": "drills.kinds",
            "JOBPLATFORM_QUEUES": orjson.dumps(
                {"drill": {"pool": "prefork", "prefetch": 2, "window_min": 40}}
            ).decode(),
            "JOBPLATFORM_BEAT_SECONDS": str(BEAT_SECONDS),
            "JOBPLATFORM_LEASE_SECONDS": str(LEASE_SECONDS),
            "JOBPLATFORM_MARKER_SECONDS": str(MARKER_SECONDS),
            "JOBPLATFORM_MAX_BACKOFF_SECONDS": "2",
            "PYTHONPATH": str(CHECKOUT),
        }
        self.sink = sink
        self.stack = Stack(open_place(name), tell=tell, extra=extra, durable=durable)
        self._starters: dict[str, Callable[[], subprocess.Popen[bytes]]] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._stopping = threading.Event()
        #: processes that we have ended, and those that have ended by themselves
        self._asked: set[int] = set()
        self.ended_unasked: list[str] = []
        self._supervisor = threading.Thread(target=self._supervise, daemon=True)

    @property
    def place(self) -> Place:
        """Where the stack is."""
        return self.stack.place

    def start(self) -> None:
        """Start everything, and wait until it works."""
        stack = self.stack
        stack.start_servers()
        self.api_proxy = Proxy(self.place.ports["postgres"])
        self.dispatcher_proxy = Proxy(self.place.ports["postgres"])
        self._starters = {
            API: lambda: self._with_database(self.api_proxy, stack.start_api),
            DISPATCHERS[0]: lambda: self._with_database(self.dispatcher_proxy, stack.start_dispatcher),
            DISPATCHERS[1]: lambda: stack.start_service("dispatcher", tag=DISPATCHERS[1]),
            **{name: partial(stack.start_celery, name, "drill", "-c", "2") for name in WORKERS},
        }
        for name in self._starters:
            self._processes[name] = self._starters[name]()
        stack.wait_answers("API", stack.local_url("api", "/readyz"), self._processes[API], API)
        stack.wait_for_workers(len(WORKERS))
        self.api_key = stack.create_api_key()
        self.caller = Caller(stack.local_url("api"), self.api_key)
        self._supervisor.start()

    def _with_database(self, proxy: Proxy, start: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
        before = dict(self.stack.extra)
        port = self.place.ports["postgres"]
        url = self.stack.database_url.replace(f"127.0.0.1:{port}", f"127.0.0.1:{proxy.port}")
        self.stack.extra["JOBPLATFORM_DATABASE_URL"] = url
        try:
            return start()
        finally:
            self.stack.extra.clear()
            self.stack.extra.update(before)

    def _supervise(self) -> None:
        while not self._stopping.wait(0.1):
            for name, process in list(self._processes.items()):
                if process.poll() is None:
                    continue
                if process.pid not in self._asked:
                    self.ended_unasked.append(f"{name} ({process.returncode})")
                if not self._stopping.wait(RESTART_SECONDS):
                    self._processes[name] = self._starters[name]()

    def head(self, name: str) -> int:
        """Return the id of a process that we started."""
        return self._processes[name].pid

    def pool_children(self, name: str) -> list[int]:
        """Return the ids of a worker's pool."""
        try:
            return [child.pid for child in psutil.Process(self.head(name)).children()]
        except psutil.Error:
            return []

    def kill(self, pid: int, number: int = signal.SIGKILL) -> None:
        """Send a signal to a process of ours; one that has ended is none."""
        if number == signal.SIGKILL:
            self._asked.add(pid)
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass

    def restart_with(self, name: str, environment: dict[str, str]) -> Callable[[], None]:
        """Start a process again with more in its environment; returns how to have it as before."""
        usual = self._starters[name]

        def special() -> subprocess.Popen[bytes]:
            before = dict(self.stack.extra)
            self.stack.extra.update(environment)
            try:
                return usual()
            finally:
                self.stack.extra.clear()
                self.stack.extra.update(before)

        def back() -> None:
            self._starters[name] = usual
            self.kill(self.head(name))

        self._starters[name] = special
        self.kill(self.head(name))
        return back

    # --- servers

    def broker(self) -> int:
        """Return the id of RabbitMQ's process."""
        pids = [pid for pid, tag in marked(self.place).items() if tag == "rabbitmq"]
        return max(pids, key=lambda pid: psutil.Process(pid).memory_info().rss)

    def start_broker(self) -> None:
        """Start RabbitMQ (again), and wait until it works."""
        node = rabbitmq.start_rabbitmq(self.place)
        rabbitmq.wait_until_up(self.place, node)
        self.stack.run("broker", "apply")

    def wipe_broker(self) -> None:
        """Stop RabbitMQ hard and delete its data."""
        self.kill(self.broker())
        rabbitmq.stop_rabbitmq(self.place)
        shutil.rmtree(self.place.folder / "rabbitmq" / "data", ignore_errors=True)

    def rabbitmqctl(self, *arguments: str) -> None:
        """Run a command of RabbitMQ's own."""
        rabbitmq.control(self.place, *arguments)

    def start_postgres(self) -> None:
        """Start Postgres (again)."""
        postgres.start_postgres(self.place, durable=self.stack.durable)

    def kill_postgres(self) -> None:
        """End Postgres as a power cut does."""
        pid = postgres.postmaster(self.place)
        if pid is not None:
            group = [child.pid for child in psutil.Process(pid).children()]
            for one in (pid, *group):
                self.kill(one)
            wait_for("the end of Postgres", lambda: not any(map(psutil.pid_exists, group)), seconds=20)

    def stop_postgres(self) -> None:
        """Stop Postgres."""
        postgres.stop_postgres(self.place)

    # --- what became of it

    def sql(self, statement: str, **values: Any) -> list[Any]:
        """Ask the ledger."""
        ledger = self.stack.open_ledger()
        try:
            with ledger.statement() as connection:
                return list(connection.execute(text(statement), values).all())
        finally:
            ledger.close()

    def state(self, job_id: str) -> str:
        """Return the state of a job."""
        rows = self.sql(
            "SELECT state FROM jobs WHERE id = CAST(:i AS uuid) UNION ALL "
            "SELECT state FROM job_history WHERE id = CAST(:i AS uuid)",
            i=job_id,
        )
        return str(rows[0][0]) if rows else "gone"

    def wait_state(self, job_id: str, state: str, seconds: float) -> None:
        """Wait until a job is in a state."""
        wait_for(f"job {job_id} to be {state}", lambda: self.state(job_id) == state, seconds=seconds)

    def audit(self) -> tuple[bool, str]:
        """Run `jobplatform audit`; returns whether it was clean, and what it said."""
        command = [str(script("jobplatform")), "audit", "--json", "--hours", "2"]
        done = subprocess.run(command, env=self.stack.environment(), capture_output=True, text=True, check=False)
        return done.returncode == 0, done.stdout + done.stderr

    def stop(self) -> None:
        """Stop everything, and forget it unless KEEP_STACK is set."""
        self._stopping.set()
        self._supervisor.join(timeout=10)
        self.stack.stop(gently=False)
        if not os.environ.get("KEEP_STACK"):
            self.stack.forget()

    def log_of(self, name: str) -> Path:
        """Return the log of a process."""
        return self.place.logs / f"{name}.log"


def wait(seconds: float) -> None:
    """Let a fault last. The drills measure durations; tests of logic wait on conditions."""
    time.sleep(seconds)
