"""The real processes on dedicated servers, with fast heartbeats and a team's package from outside the repository."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest
from sqlalchemy import text

from jobplatform.config import DEFAULT_QUEUES
from jobplatform.devstack.compose import worker_names
from jobplatform.devstack.demo import Caller
from jobplatform.devstack.instance import taken
from jobplatform.devstack.processes import marked
from jobplatform.devstack.rabbitmq_server import CHOICE
from jobplatform.devstack.stack import Stack, new_stack
from tests.support.acme import write_package
from tests.support.shop import write_shop
from tests.support.waiting import eventually

STACK = "test-e2e-next" if os.environ.get(CHOICE) else "test-e2e"
HEARTBEAT_SECONDS, LEASE_SECONDS = 0.4, 2.0
#: the workers of docker-compose.yml, and one for the team's queue
WORKERS = len(worker_names()) + 1


@dataclass
class Platform:
    """The running platform as a caller and an operator see it."""

    stack: Stack
    api: Caller
    scratch: Path

    def submit(self, kind: str, payload: dict[str, Any] | None = None, **fields: Any) -> str:
        job: dict[str, Any] = self.api.call("POST", "/v1/jobs", {"kind": kind, "payload": payload or {}, **fields})
        return str(job["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        result: dict[str, Any] = self.api.call("GET", f"/v1/jobs/{job_id}")
        return result

    def wait(self, job_id: str, seconds: float = 60) -> dict[str, Any]:
        """Wait until the job has ended or is a dead letter."""
        result: dict[str, Any] = self.api.call("GET", f"/v1/jobs/{job_id}?wait={int(min(seconds, 60))}")
        assert result["status"] in ("completed", "failed"), result
        return result

    def wait_state(self, job_id: str, state: str, seconds: float = 30) -> dict[str, Any]:
        return eventually(lambda: self.job(job_id) if self.job(job_id)["state"] == state else None, seconds, state)

    def runs(self, job_id: str) -> list[dict[str, Any]]:
        """Return the runs whose handler started: on a busy machine a claim may be given back before."""
        runs: list[dict[str, Any]] = self.api.call("GET", f"/v1/jobs/{job_id}/runs")["runs"]
        return [run for run in runs if (run["error"] or {}).get("code") != "not_started"]

    def outcomes(self, job_id: str) -> list[str]:
        return [run["outcome"] for run in self.runs(job_id)]

    def file(self, name: str) -> str:
        return str(self.scratch / name)

    def calls(self, path: str) -> list[int]:
        """Return the pids of the processes that ran the handler, recorded outside the platform's tables."""
        return [int(line) for line in Path(path).read_text().splitlines()] if Path(path).exists() else []

    def started(self, path: str) -> int:
        """Wait until a handler has written its pid to this file; returns the last one."""
        return eventually(lambda: self.calls(path))[-1]

    def pids(self, name: str) -> list[int]:
        return sorted(pid for pid, tag in marked(self.stack.instance).items() if tag == name)

    def head(self, name: str) -> int:
        """Return the pid of the parent process with this name."""
        pids = self.pids(name)
        return next(pid for pid in pids if psutil.Process(pid).ppid() not in pids)

    def sql(self, statement: str, **values: Any) -> list[Any]:
        ledger = self.stack.open_ledger()
        with ledger.statement() as connection:
            rows = connection.execute(text(statement), values).all()
        ledger.close()
        return [row[0] if len(row) == 1 else row for row in rows]


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    outside = tmp_path_factory.mktemp("team")
    write_package(outside)
    write_shop(outside)
    scratch = tmp_path_factory.mktemp("scratch")
    extra = {
        "JOBPLATFORM_KIND_MODULES": "workers.handlers.builtin,acme_jobs,shop:app",
        "JOBPLATFORM_CELERY_TENANT": "default",
        "SHOP_NOTES": str(scratch),
        "JOBPLATFORM_QUEUES": orjson.dumps(
            {
                **DEFAULT_QUEUES,
                "gpu": {},
                "limbo": {"window_min": 100},
                "loose": {"pool": "threads", "prefetch": 4},
                "shop": {},
                "legacy": {},
            }
        ).decode(),
        "JOBPLATFORM_BUILTIN_SCHEDULES": "false",  # tests count jobs
        "JOBPLATFORM_MARKER_SECONDS": "2",
        "JOBPLATFORM_HEARTBEAT_SECONDS": str(HEARTBEAT_SECONDS),
        "JOBPLATFORM_LEASE_SECONDS": str(LEASE_SECONDS),
        "JOBPLATFORM_CANCEL_GRACE_SECONDS": "1",
        "JOBPLATFORM_WATCHDOG_SECONDS": "8",
        "JOBPLATFORM_SHUTDOWN_SECONDS": "5",
        "JOBPLATFORM_UNKNOWN_KIND_SECONDS": "3",
        "JOBPLATFORM_BODY_SECONDS": "1",
        "PYTHONPATH": os.pathsep.join([str(outside), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
    }
    with taken(STACK):
        stack = new_stack(STACK, echo=lambda _: None, extra=extra, durable=False)
        try:
            stack.start_servers()
            stack.start_platform()
            stack.start_celery("worker-gpu", "gpu", "-c", "4")
            stack.wait_for_workers(WORKERS)
            yield Platform(stack, Caller(stack.local_url("api"), stack.create_api_key()), scratch)
        finally:
            stack.stop(gently=False)
            if not os.environ.get("KEEP_STACK"):
                stack.forget()
