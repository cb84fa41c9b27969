"""Run the integration tests that come with Celery's source package on an app that is on the ledger.

The tests, their tasks and their worker (in the test's own process) are Celery's. Only their conftest is changed: the
app gets the platform's class and config object, a test has 60 s and one try. Those that want Redis use it as a box
that tasks put notes into; with `redis://` as the name of its backend they run here, too.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tarfile
from pathlib import Path

import celery
import orjson

from jobplatform.devstack.place import open_place, taken
from jobplatform.devstack.processes import start, wait_for
from jobplatform.devstack.stack import Stack
from jobplatform.devstack.system import require_programs

NAME = "celery-suite"
FILES = ("test_tasks.py", "test_canvas.py", "test_group_chains.py")
TOOLS = ("pytest-timeout", "pytest-subtests", "redis")
FIXTURES = """

from celery.loaders.base import BaseLoader
from workers.celery import config as _ledger

BaseLoader.override_backends = {"redis": "workers.backend:LedgerBackend"}


@pytest.fixture(scope="session")
def celery_config():
    found = {key: value for key, value in vars(_ledger).items() if key.islower() and not key.startswith("_")}
    return {**found, "result_backend": TEST_BACKEND}


@pytest.fixture(scope="session")
def celery_parameters():
    return {"task_cls": "workers.celery:Task", "backend": TEST_BACKEND, "broker": _ledger.broker_url}
"""


def fetch(folder: Path) -> Path:
    """Unpack the tests of the installed version of Celery; returns their root."""
    folder.mkdir(parents=True, exist_ok=True)
    version = celery.__version__
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "-d", str(folder)]
    subprocess.run([*command, f"celery=={version}"], check=True)
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--target", str(folder / "tools"), *TOOLS], check=True
    )
    with tarfile.open(folder / f"celery-{version}.tar.gz") as archive:
        wanted = re.compile(rf"celery-{re.escape(version)}/t/(__init__|canvas_helpers|skip|integration/)")
        archive.extractall(folder, [one for one in archive.getmembers() if wanted.match(one.name)], filter="data")
    root = folder / f"celery-{version}"
    conftest = root / "t/integration/conftest.py"
    text = conftest.read_text()
    text = re.sub(r"_flaky = pytest\.mark\.flaky\(.*\)", "_flaky = lambda fn: fn", text)
    text = text.replace("timeout(timeout=300)", "timeout(timeout=60)")
    conftest.write_text(text + FIXTURES)
    (root / "pytest.ini").write_text("[pytest]\npython_classes = test_*\n")
    return root


def main() -> int:
    """Run the suite; extra arguments go to pytest."""
    require_programs("redis-server")  # Celery's tests take notes in Redis
    with taken(NAME):
        place = open_place(NAME)
        extra = {
            "JOBPLATFORM_QUEUES": orjson.dumps({"celery": {"window_min": 50}}).decode(),
            "JOBPLATFORM_KIND_MODULES": "",
            "JOBPLATFORM_CELERY_TENANT": "celery",
            "JOBPLATFORM_BUILTIN_SCHEDULES": "false",
            "JOBPLATFORM_BEAT_SECONDS": "0.5",
            "JOBPLATFORM_LEASE_SECONDS": "3",
        }
        stack = Stack(place, tell=lambda line: print(line, flush=True), extra=extra, durable=False)
        try:
            stack.start_servers()
            stack.start_dispatcher()
            port = free_port()
            command = ["redis-server", "--port", port, "--save", "", "--dir", str(place.folder)]
            box = start(place, "redis", command, dict(os.environ))
            wait_for("redis", lambda: answers(port), process=box, log=place.logs / "redis.log")
            root = fetch(place.folder / "celery")
            environment = stack.environment() | {
                "JOBPLATFORM_BROKER_URL": stack.broker_url_of("worker"),
                "TEST_BACKEND": f"redis://127.0.0.1:{port}/0",
                "REDIS_PORT": port,
                "WORKER_LOGLEVEL": "INFO",
                "PYTHONPATH": os.pathsep.join([str(Path.cwd()), str(root), str(root.parent / "tools")]),
            }
            tests = [f"t/integration/{name}" for name in FILES]
            command = [sys.executable, "-m", "pytest", "-c", "pytest.ini", "-p", "celery.contrib.pytest", "-q"]
            command += ["-p", "no:cacheprovider", "--timeout=60", "--timeout-method=signal", "--tb=short", "-rfE"]
            return subprocess.run(
                [*command, *(sys.argv[1:] or tests)], cwd=root, env=environment, check=False
            ).returncode
        finally:
            stack.stop(gently=False)
            stack.forget()


def free_port() -> str:
    """Return a port of this machine that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def answers(port: str) -> bool:
    """Return whether Redis takes connections."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(port))) == 0


if __name__ == "__main__":
    raise SystemExit(main())
