"""The commands for newcomers: they show the main job, change nothing on the machine, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.request import Request, urlopen

import orjson
import psutil
import psycopg2
import pytest

from jobplatform.devstack import instance, postgres, system
from jobplatform.devstack.compose import worker_names
from jobplatform.devstack.instance import CHECKOUT, NAME_VARIABLE, open_instance
from jobplatform.devstack.processes import MARK, marked, script
from jobplatform.errors import ConfigurationError

NAME = "test-dev"


@pytest.fixture(autouse=True, scope="module")
def clean_stack() -> Iterator[None]:
    """Delete the stack's data before the tests and after them."""
    run("down", "--delete-data")
    yield
    run("down", "--delete-data")
    assert not instance.stack_folder(NAME).exists()


def environment(**more: str) -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("JOBPLATFORM_")}
    return {**inherited, NAME_VARIABLE: NAME, "PYTHONUNBUFFERED": "1", **more}


def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(script("jobplatform")), "dev", *arguments],
        env=environment(**more),
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
        cwd=CHECKOUT,
    )


def machine() -> dict[str, object]:
    """Return what must be equal before and after: users, modes of parent folders, listening ports, servers."""
    parents = [*CHECKOUT.parents, CHECKOUT, Path("/var/tmp"), Path("/var"), Path(sys.prefix), *Path(sys.prefix).parents]
    servers = ("beam.smp", "epmd", "postgres", "celery", "granian", "ffmpeg")
    listening, running = set(), []
    for process in psutil.process_iter(["name"]):
        try:
            if _is_of_others(process):
                continue
            listening |= {c.laddr.port for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN}
            name, parent = process.info["name"], process.parent()
            # parent processes only: the number of a parallel server's helpers varies (autovacuum, say)
            is_head = parent is None or parent.name() != name
            if name in servers and is_head and process.status() != psutil.STATUS_ZOMBIE:
                running.append(name)
        except psutil.Error:
            continue
    return {
        "users": Path("/etc/passwd").read_text(),
        "groups": Path("/etc/group").read_text(),
        "modes": {str(path): oct(stat.S_IMODE(path.stat().st_mode)) for path in parents},
        "listening": listening,
        "servers": sorted(running),
        "policy": Path("/usr/sbin/policy-rc.d").exists(),
    }


def _is_of_others(process: psutil.Process) -> bool:
    """Return whether a process belongs to tests that run in parallel: to their stack, or to a test that started it."""
    if process.environ().get(MARK) not in (None, str(instance.stack_folder(NAME))):
        return True
    above = [process, *process.parents()]
    return any(item.pid != os.getpid() and "pytest" in " ".join(item.cmdline()[:4]) for item in above)


def shared_memory() -> set[str]:
    """Return the shared memory segments that no process uses. A killed Postgres leaves them; a new one may find and
    remove them."""
    used = ""
    for maps in Path("/proc").glob("[0-9]*/maps"):
        try:
            used += maps.read_text()
        except OSError:
            continue
    return {path.name for path in Path("/dev/shm").glob("PostgreSQL.*") if path.name not in used}


def interrupted_demo(number: signal.Signals) -> None:
    """Start a demo, and end it with a signal as soon as it starts its own processes."""
    process = subprocess.Popen(
        [str(script("jobplatform")), "dev", "demo"],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=CHECKOUT,
        # tests that were started in the background ignore SIGINT, and so would their children
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if "starting API" in line:
            break
    else:
        pytest.fail(f"the demo ended before it was interrupted: {''.join(said)}")
    process.send_signal(number)
    process.stdout.read()
    process.wait(60)
    assert process.returncode != 0


def test_the_demo_shows_the_main_job_and_leaves_nothing_even_after_a_killed_demo() -> None:
    before, segments = machine(), shared_memory()
    interrupted_demo(signal.SIGKILL)
    left = open_instance(NAME)
    assert marked(left), "a killed command can't clean up"
    with closing(psycopg2.connect(postgres.url(left).replace("+psycopg2", ""))) as connection, connection:
        # the checkout may have moved to another version since
        connection.cursor().execute("UPDATE alembic_version SET version_num = '9999'")
    done = run("demo")
    assert done.returncode == 0, done.stdout + done.stderr
    for words in ("Hello Ada", "report.csv", "h264", "mpeg4", "640 × 360", "tokens", "email.send", "make up"):
        assert words in done.stdout, words
    assert machine() == before and shared_memory() <= segments
    assert not instance.stack_folder(NAME).exists() and not marked(open_instance(NAME))


def test_an_interrupted_demo_cleans_up_by_itself() -> None:
    before = machine()
    interrupted_demo(signal.SIGINT)
    assert not marked(open_instance(NAME))
    assert machine()["listening"] == before["listening"]


def test_up_writes_addresses_that_any_script_can_source_and_down_stops() -> None:
    env_file = CHECKOUT / ".local" / f"env-{NAME}"
    try:
        done = run("up")
        assert done.returncode == 0, done.stdout + done.stderr
        shown = subprocess.run(
            ["sh", "-c", f". '{env_file}' && env"], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        result = dict(line.split("=", 1) for line in shown if line.startswith("JOBPLATFORM_"))
        for name in ("URL", "API_KEY", "DATABASE_URL", "BROKER_URL", "MANAGEMENT_URL", "FLOWER_URL", "MAIL_URL"):
            assert result[f"JOBPLATFORM_{name}"]
        request = Request(result["JOBPLATFORM_URL"] + "/v1/kinds")
        request.add_header("Authorization", f"Bearer {result['JOBPLATFORM_API_KEY']}")
        with urlopen(request, timeout=10) as answer:
            assert len(orjson.loads(answer.read())["kinds"]) == 3
        with urlopen(result["JOBPLATFORM_MAIL_URL"], timeout=10) as answer:
            assert orjson.loads(answer.read()) == []
        psycopg2.connect(result["JOBPLATFORM_DATABASE_URL"]).close()
        again = run("up")
        assert again.returncode == 0 and "starting" not in again.stdout, "a running stack is only shown"
        sourced = run("up", **result)
        assert sourced.returncode == 0 and "starting" not in sourced.stdout, "its own addresses are not foreign servers"
        status = run("status")
        assert "up" in status.stdout and "down" not in status.stdout
        assert all(name in status.stdout for name in worker_names())
    finally:
        stopped = run("down")
    assert stopped.returncode == 0
    assert not env_file.exists() and not marked(open_instance(NAME))
    assert "down" in run("status").stdout


def test_two_checkouts_never_share_a_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    item = instance.stack_folder("dev")
    monkeypatch.setattr(instance, "CHECKOUT", Path("/somewhere/else"))
    assert instance.stack_folder("dev") != item


def test_only_one_command_at_a_time_works_on_a_stack() -> None:
    with instance.taken(NAME), pytest.raises(ConfigurationError, match="another command"), instance.taken(NAME):
        pass


def test_without_root_one_line_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(system, "rabbitmq_bin", lambda: None)
    monkeypatch.setattr(system.shutil, "which", lambda name: None)
    monkeypatch.delenv("JOBPLATFORM_BROKER_URL", raising=False)
    with pytest.raises(ConfigurationError) as refused:
        system.install_packages()
    line = str(refused.value)
    assert "\n" not in line
    for words in ("apt-get install rabbitmq-server ffmpeg", "dnf install rabbitmq-server ffmpeg-free", "brew install"):
        assert words in line
