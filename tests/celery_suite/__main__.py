"""Run the integration tests that come with Celery's source package on an app that is on the ledger.

The tests, their tasks and their worker (in the test's own process) are Celery's. Only their conftest is changed: the
app gets the platform's class and config object, a test has 60 s and one try. Tests that need Redis use it only to
record notes of their tasks. They run here too, because the name of the backend is `redis://`.

`known_failures.tsv` names each test that fails or is skipped, and why: `expected` (a row of the guide) or `setup` (how
the suite is run). Any other failure fails the run, and so does a known one that passes now.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tarfile
from pathlib import Path
from xml.etree import ElementTree

import celery
import orjson

from jobplatform.devstack.instance import taken
from jobplatform.devstack.processes import start, wait_for, wait_gone
from jobplatform.devstack.stack import new_stack
from jobplatform.devstack.system import require_programs

NAME = "celery-suite"
FILES = ("test_tasks.py", "test_canvas.py", "test_group_chains.py")
TOOLS = ("pytest-timeout", "pytest-subtests", "redis")
FIXTURES = """

from celery.loaders.base import BaseLoader
from workers.celery import config as _ledger

BaseLoader.override_backends = {"redis": "workers.celery.backend:LedgerBackend"}


@pytest.fixture(scope="session")
def celery_config():
    found = {key: value for key, value in vars(_ledger).items() if key.islower() and not key.startswith("_")}
    return {**found, "result_backend": TEST_BACKEND}


@pytest.fixture(scope="session")
def celery_parameters():
    return {"task_cls": "workers.celery:Task", "backend": TEST_BACKEND, "broker": _ledger.broker_url}


def _wait_until_idle(self):
    # Celery's purges the queue, which is refused here, and waits for the worker: what is left over is waited for
    from sqlalchemy import text
    from workers.runtime.process import ledger

    live = text("SELECT count(*) FROM jobs WHERE state IN ('available', 'dispatched', 'running')")
    end = time.monotonic() + 30
    while time.monotonic() < end:
        with ledger().transaction() as connection:
            if not connection.execute(live).scalar():
                return
        time.sleep(0.05)


Manager.wait_until_idle = _wait_until_idle
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
        archive.extractall(
            folder, [member for member in archive.getmembers() if wanted.match(member.name)], filter="data"
        )
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
    require_programs("redis-server")  # Celery's tests record notes in Redis
    with taken(NAME):
        extra = {
            "JOBPLATFORM_QUEUES": orjson.dumps({"celery": {"window_min": 50}}).decode(),
            "JOBPLATFORM_KIND_MODULES": "",
            "JOBPLATFORM_CELERY_TENANT": "celery",
            "JOBPLATFORM_BUILTIN_SCHEDULES": "false",
            "JOBPLATFORM_HEARTBEAT_SECONDS": "0.5",
            "JOBPLATFORM_LEASE_SECONDS": "3",
        }
        stack = new_stack(NAME, echo=lambda line: print(line, flush=True), extra=extra, durable=False)
        instance = stack.instance
        box: subprocess.Popen[bytes] | None = None
        try:
            stack.start_servers()
            stack.start_dispatcher()
            port = free_port()
            command = [
                "redis-server",
                "--bind",
                "127.0.0.1",
                "--port",
                port,
                "--save",
                "",
                "--dir",
                str(instance.folder),
            ]
            box = start(instance, "redis", command, dict(os.environ))
            wait_for("redis", lambda: answers(port), process=box, log=instance.logs / "redis.log")
            root = fetch(instance.folder / "celery")
            environment = stack.environment() | {
                "JOBPLATFORM_BROKER_URL": stack.broker_url_of("worker"),
                "TEST_BACKEND": f"redis://127.0.0.1:{port}/0",
                "REDIS_PORT": port,
                "WORKER_LOGLEVEL": "INFO",
                "PYTHONPATH": os.pathsep.join([str(Path.cwd()), str(root), str(root.parent / "tools")]),
            }
            tests = [f"t/integration/{name}" for name in FILES]
            command = [sys.executable, "-m", "pytest", "-c", "pytest.ini", "-p", "celery.contrib.pytest", "-q"]
            # native tracebacks: pytest's own parse source, which two threads of CPython 3.11 must not do at once
            command += ["-p", "no:cacheprovider", "--timeout=60", "--timeout-method=signal", "--tb=native", "-rfE"]
            report = instance.folder / "report.xml"
            command += [f"--junitxml={report}"]
            subprocess.run([*command, *(sys.argv[1:] or tests)], cwd=root, env=environment, check=False)
            return judge(read_report(report), read_known(), complete=not sys.argv[1:])
        finally:
            if box is not None:  # Redis overwrites its environment, so the stack does not recognise it as its own
                box.terminate()
                wait_gone([box.pid], 10)
            stack.stop(gently=False)
            stack.forget()


KNOWN = Path(__file__).parent / "known_failures.tsv"


def read_known() -> dict[str, str]:
    """Return test → why it does not pass."""
    lines = KNOWN.read_text().splitlines()[1:]
    return {test: f"{kind}: {reason}" for test, kind, reason in (line.split("\t") for line in lines)}


def read_report(file: Path) -> dict[str, bool]:
    """Return test → whether it passed, of pytest's JUnit report; a test passes when all of its subtests do."""
    outcomes: dict[str, bool] = {}
    for case in ElementTree.parse(file).getroot().iter("testcase"):
        parts = case.get("classname", "").split(".")
        instance = next((index for index, part in enumerate(parts) if part.startswith("test_")), len(parts) - 1) + 1
        test = "::".join(["/".join(parts[:instance]) + ".py", *parts[instance:], case.get("name", "")])
        passed = not any(case.find(kind) is not None for kind in ("failure", "error", "skipped"))
        outcomes[test] = outcomes.get(test, True) and passed
    return outcomes


def judge(outcomes: dict[str, bool], known: dict[str, str], *, complete: bool) -> int:
    """Print the differences from the known failures; returns the exit code. A flaky test may pass or fail."""
    failed = {test for test, passed in outcomes.items() if not passed}
    new = sorted(failed - set(known))
    fixed = sorted(test for test in known if outcomes.get(test) and not known[test].startswith("flaky"))
    missing = sorted(set(known) - set(outcomes)) if complete else []
    for title, tests in (("NEW FAILURE", new), ("PASSES NOW, take it off the list", fixed), ("NOT RUN", missing)):
        for test in tests:
            print(f"{title}: {test}")
    count = len(outcomes) - len(failed)
    print(f"{count} passed, {len(failed)} failed or skipped as known, {len(new)} new failures")
    return 1 if new or fixed or missing or not outcomes else 0


def free_port() -> str:
    """Return a free port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def answers(port: str) -> bool:
    """Return whether Redis accepts connections."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(port))) == 0


if __name__ == "__main__":
    raise SystemExit(main())
