"""The platform that drills run on: two dispatchers, two workers and the API, restarted when they exit."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import orjson
import psutil
from sqlalchemy import text

from drills.kinds import LIMIT_KEY, LIMIT_SLOTS
from drills.load import Load
from drills.sink import Sink
from jobplatform.devstack import postgres, rabbitmq
from jobplatform.devstack.demo import Caller
from jobplatform.devstack.instance import CHECKOUT, Instance
from jobplatform.devstack.processes import marked, script, wait_for
from jobplatform.devstack.proxy import Proxy
from jobplatform.devstack.rabbitmq_server import CHOICE
from jobplatform.devstack.stack import new_stack

HEARTBEAT_SECONDS, LEASE_SECONDS, MARKER_SECONDS, SHUTDOWN_SECONDS = 0.5, 4.0, 3.0, 1.0
#: delay before a process that exited is restarted
RESTART_SECONDS = 0.3
SLOTS = 3
WORKERS = ("drill-1", "drill-2")
DISPATCHERS = ("dispatcher", "dispatcher-2")
API = "api"


class World:
    """One stack for all drills. The API and the first worker connect to Postgres through proxies that can drop
    responses, the first dispatcher through one that can stop a commit."""

    def __init__(self, echo: Callable[[str], None], sink: Sink, durable: bool = True) -> None:
        name = "drills-next" if os.environ.get(CHOICE) else "drills"
        extra = {
            "JOBPLATFORM_KIND_MODULES": "drills.kinds",
            "JOBPLATFORM_QUEUES": orjson.dumps(
                {"drill": {"pool": "prefork", "prefetch": 2, "window_min": 40}}
            ).decode(),
            "JOBPLATFORM_BUILTIN_SCHEDULES": "false",  # drills count every job
            "JOBPLATFORM_HEARTBEAT_SECONDS": str(HEARTBEAT_SECONDS),
            "JOBPLATFORM_LEASE_SECONDS": str(LEASE_SECONDS),
            "JOBPLATFORM_MARKER_SECONDS": str(MARKER_SECONDS),
            "JOBPLATFORM_MAX_BACKOFF_SECONDS": "2",
            "JOBPLATFORM_SHUTDOWN_SECONDS": str(SHUTDOWN_SECONDS),
            "PYTHONPATH": str(CHECKOUT),
        }
        self.sink = sink
        #: the load of the running drill
        self.load: Load | None = None
        self.stack = new_stack(name, echo=echo, extra=extra, durable=durable)
        self._starters: dict[str, Callable[[], subprocess.Popen[bytes]]] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._stopping = threading.Event()
        #: pids that the drills ended; names and exit codes of processes that exited on their own
        self._asked: set[int] = set()
        self.ended_unasked: list[str] = []
        self._supervisor = threading.Thread(target=self._supervise, daemon=True)

    @property
    def instance(self) -> Instance:
        """The stack's instance: its folder, ports and logs."""
        return self.stack.instance

    def start(self) -> None:
        """Start all servers and processes, and wait until they work."""
        stack = self.stack
        stack.start_servers()
        self.api_proxy = Proxy(self.instance.ports["postgres"])
        self.dispatcher_proxy = Proxy(self.instance.ports["postgres"])
        self.worker_proxy = Proxy(self.instance.ports["postgres"])
        usual_worker = {name: partial(stack.start_celery, name, "drill", "-c", str(SLOTS)) for name in WORKERS}
        self._starters = {
            API: lambda: self._with_database(self.api_proxy, stack.start_api),
            DISPATCHERS[0]: lambda: self._with_database(self.dispatcher_proxy, stack.start_dispatcher),
            DISPATCHERS[1]: lambda: stack.start_service("dispatcher", tag=DISPATCHERS[1]),
            WORKERS[0]: lambda: self._with_database(self.worker_proxy, usual_worker[WORKERS[0]]),
            WORKERS[1]: usual_worker[WORKERS[1]],
        }
        for name in self._starters:
            self._processes[name] = self._starters[name]()
        stack.wait_answers("API", stack.local_url("api", "/readyz"), self._processes[API], API)
        stack.wait_for_workers(len(WORKERS))
        self.api_key = stack.create_api_key()
        stack.run("limits", "set", LIMIT_KEY, "--max-concurrent", str(LIMIT_SLOTS))
        self.caller = Caller(stack.local_url("api"), self.api_key)
        self._supervisor.start()

    def _with_database(self, proxy: Proxy, start: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
        port = self.instance.ports["postgres"]
        url = self.stack.database_url.replace(f"127.0.0.1:{port}", f"127.0.0.1:{proxy.port}")
        return self._with_environment({"JOBPLATFORM_DATABASE_URL": url}, start)

    def _with_environment(
        self, more: dict[str, str], start: Callable[[], subprocess.Popen[bytes]]
    ) -> subprocess.Popen[bytes]:
        before = dict(self.stack.extra)
        self.stack.extra.update(more)
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
        """Return the pid of a process of the stack."""
        return self._processes[name].pid

    def pool_children(self, name: str) -> list[int]:
        """Return the pids of a worker's pool children."""
        try:
            return [child.pid for child in psutil.Process(self.head(name)).children()]
        except psutil.Error:
            return []

    def kill(self, pid: int, number: int = signal.SIGKILL) -> None:
        """Send a signal to a process; does nothing when it has exited."""
        if number in (signal.SIGKILL, signal.SIGTERM):
            self._asked.add(pid)
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass

    @contextmanager
    def frozen(self, pids: list[int]) -> Iterator[None]:
        """Freeze processes with SIGSTOP for a block."""
        for pid in pids:
            self.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                self.kill(pid, signal.SIGCONT)

    def restart(self, *names: str) -> None:
        """Send SIGTERM to processes, and wait until their successors work."""
        old = {name: self.head(name) for name in names}
        for pid in old.values():
            self.kill(pid, signal.SIGTERM)
        for name, pid in old.items():
            wait_for(f"another {name}", lambda: self.head(name) != pid and self.works(name), seconds=60)  # noqa: B023

    def works(self, name: str) -> bool:
        """Return whether a process has started: the API is ready, any other has written its first heartbeat."""
        if name == API:
            with urlopen(self.stack.local_url("api", "/readyz"), timeout=2) as answer:
                return bool(answer.status == 200)
        registered = {
            "workers": "SELECT count(*) FROM workers WHERE pid = :pid AND stopped_at IS NULL",
            "dispatchers": "SELECT count(*) FROM dispatchers WHERE pid = :pid",
        }["workers" if name in WORKERS else "dispatchers"]
        return bool(self.sql(registered, pid=self.head(name))[0][0])

    @contextmanager
    def started_with(self, environments: dict[str, dict[str, str]]) -> Iterator[None]:
        """Run processes with extra environment variables for a block; restarts them before and after."""
        usual = {name: self._starters[name] for name in environments}
        for name, more in environments.items():
            self._starters[name] = partial(self._with_environment, more, usual[name])
        try:
            self.restart(*environments)
            yield
        finally:
            self._starters.update(usual)
            self.restart(*environments)

    # --- servers

    def broker(self) -> int:
        """Return the pid of RabbitMQ."""
        pids = [pid for pid, tag in marked(self.instance).items() if tag == "rabbitmq"]
        return max(pids, key=lambda pid: psutil.Process(pid).memory_info().rss)

    def start_broker(self, apply: bool = True) -> None:
        """Start RabbitMQ (again), and wait until it works."""
        self.stack.start_broker()
        if apply:
            self.stack.run("broker", "apply")

    def definitions(self) -> str:
        """Return the path of the definitions file that RabbitMQ loads at boot, as the server sees it."""
        return str(rabbitmq.definitions_file(self.instance))

    def wipe_broker(self) -> None:
        """Delete the data of a RabbitMQ that was killed."""
        rabbitmq.stop_rabbitmq(self.instance)
        shutil.rmtree(self.instance.folder / "rabbitmq" / "data", ignore_errors=True)

    def rabbitmqctl(self, *arguments: str) -> str:
        """Run a rabbitmqctl command; returns its output."""
        return rabbitmq.control(self.instance, *arguments)

    def start_postgres(self) -> None:
        """Start Postgres (again)."""
        postgres.start_postgres(self.instance, durable=self.stack.durable)

    def kill_postgres(self) -> None:
        """Kill every process of Postgres, as in a power cut."""
        pids = self.postgres()
        for pid in pids:
            self.kill(pid)
        wait_for("the end of Postgres", lambda: not any(map(psutil.pid_exists, pids[1:])), seconds=20)

    def postgres(self) -> list[int]:
        """Return the pids of Postgres' processes, the postmaster's first."""
        pid = postgres.postmaster(self.instance)
        return [] if pid is None else [pid, *(child.pid for child in psutil.Process(pid).children())]

    def stop_postgres(self) -> None:
        """Stop Postgres."""
        postgres.stop_postgres(self.instance)

    # --- the load that a fault hits

    def submit_backlog(self, jobs: int, seconds_each: float) -> None:
        """Submit more jobs than the workers prefetch, so that messages wait in RabbitMQ. The drill counts them."""
        assert self.load is not None, "no drill is running"
        for _ in range(jobs):
            self.load.submit("drill.plain", seconds_each)

    def failed_answers(self) -> int:
        """Return how many submissions were refused or had an unknown outcome so far in this drill."""
        assert self.load is not None, "no drill is running"
        return self.load.refused + self.load.unknown

    def longest_wait_seconds(self) -> float:
        """Return the age of the oldest `drill.plain` job that has not started, in seconds; 0.0 when there is none."""
        rows = self.sql(
            "SELECT coalesce(extract(epoch FROM clock_timestamp() - min(created_at)), 0) FROM jobs "
            "WHERE kind = 'drill.plain' AND started_at IS NULL AND state IN ('available', 'dispatched')"
        )
        return float(rows[0][0])

    def runs_on(self, name: str) -> int:
        """Return how many runs a worker has at this moment."""
        rows = self.sql(
            "SELECT count(*) FROM jobs j JOIN workers w ON w.id = j.worker_id "
            "WHERE j.state = 'running' AND w.pid = :pid",
            pid=self.head(name),
        )
        return int(rows[0][0])

    # --- results

    def sql(self, statement: str, **values: Any) -> list[Any]:
        """Run a statement on the ledger; returns its rows."""
        ledger = self.stack.open_ledger()
        try:
            with ledger.statement() as connection:
                return list(connection.execute(text(statement), values).all())
        finally:
            ledger.close()

    def now(self) -> datetime:
        """Return the ledger's time."""
        result: datetime = self.sql("SELECT clock_timestamp()")[0][0]
        return result

    def runs_ended(self, since: datetime, *outcomes: str) -> int:
        """Return how many runs have ended with one of these outcomes since then."""
        rows = self.sql(
            "SELECT count(*) FROM job_runs WHERE finished_at >= :since AND outcome = ANY (:outcomes)",
            since=since,
            outcomes=list(outcomes),
        )
        return int(rows[0][0])

    def runs_with_another_clock(self, since: datetime, shift: str) -> int:
        """Return how many jobs succeeded in a process whose clock was off by about this shift ("-1h", say)."""
        rows = self.sql(
            "SELECT count(*) FROM job_history WHERE finished_at >= :since AND kind = 'drill.plain' AND "
            "abs(CAST(result ->> 'clock' AS double precision) - "
            "extract(epoch FROM finished_at + CAST(:shift AS interval))) < 600",
            since=since,
            shift=shift.replace("h", " h"),
        )
        return int(rows[0][0])

    def states(self, job_ids: list[str]) -> dict[str, str]:
        """Return job id → state; deleted jobs are absent."""
        rows = self.sql(
            "SELECT id::text AS id, state FROM jobs WHERE id = ANY (CAST(:ids AS uuid[])) UNION ALL "
            "SELECT id::text, state FROM job_history WHERE id = ANY (CAST(:ids AS uuid[]))",
            ids=job_ids,
        )
        return {row.id: row.state for row in rows}

    def state(self, job_id: str) -> str:
        """Return the state of a job."""
        return self.states([job_id]).get(job_id, "gone")

    def wait_for_flow(self, seconds: float = 120.0) -> None:
        """Wait until a job that is submitted now succeeds."""
        payload = {"sink": self.sink.url, "key": f"probe-{time.time_ns()}"}
        result: list[str] = []

        def flows() -> bool:
            if not result:
                result.append(self.caller.call("POST", "/v1/jobs", {"kind": "drill.plain", "payload": payload})["id"])
            return self.state(result[0]) == "succeeded"

        wait_for("a job to succeed", flows, seconds=seconds)

    def wait_state(self, job_id: str, state: str, seconds: float) -> None:
        """Wait until a job is in a state."""
        wait_for(f"job {job_id} to be {state}", lambda: self.state(job_id) == state, seconds=seconds)

    def audit(self) -> tuple[bool, str]:
        """Run `jobplatform audit`; returns whether it was clean, and its output."""
        command = [str(script("jobplatform")), "audit", "--json", "--hours", "2"]
        done = subprocess.run(command, env=self.stack.environment(), capture_output=True, text=True, check=False)
        return done.returncode == 0, done.stdout + done.stderr

    def stop(self) -> None:
        """Stop everything, and delete the stack unless KEEP_STACK is set."""
        self._stopping.set()
        self._supervisor.join(timeout=10)
        self.stack.stop(gently=False)
        if not os.environ.get("KEEP_STACK"):
            self.stack.forget()

    def count_log_lines(self, names: Iterable[str], text: str) -> int:
        """Return how many lines of these processes' logs contain a text."""
        lines = (line for name in names for line in self.log_of(name).read_text(errors="replace").splitlines())
        return sum(text in line for line in lines)

    def log_of(self, name: str) -> Path:
        """Return the path of a process's log."""
        return self.instance.logs / f"{name}.log"


def wait(seconds: float) -> None:
    """Let a fault last for a time. Drills measure durations; tests of logic wait for conditions instead."""
    time.sleep(seconds)
