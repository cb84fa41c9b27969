"""The wheel and the sdist: each extra alone, in an empty environment, installs what its process needs.

An API, a dispatcher and a worker run from their extras, and the client of the base package talks to them.
"""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.request import urlopen

import orjson
import pytest

from jobplatform.devstack.instance import CHECKOUT, taken
from jobplatform.devstack.stack import Stack, new_stack
from jobplatform.extras import INCLUDES, MODULES

NAME = "test-packages"
#: the most packages that a caller installs, including the platform
MOST_PACKAGES = 15
#: distribution → its module, where it is not the name with underscores
MODULE_OF = {"email-validator": "email_validator", "psycopg2-binary": "psycopg2", "pyyaml": "yaml"}

CALL = """
import sys
from jobplatform.client import Client
with Client(*sys.argv[1:]) as client:
    job = client.submit("email.send", {"to": ["ada@example.com"], "subject": "wheel", "text": "built and installed"})
    print(client.wait(job.id, timeout=60).state)
"""


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment without the settings and the import path of these tests."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("JOBPLATFORM_", "PYTHON"))}
    return {**inherited, **(more or {})}


def run(*command: str | Path, expect: int = 0, **more: str) -> str:
    done = subprocess.run(
        [str(part) for part in command], env=environment(more), capture_output=True, text=True, cwd="/", timeout=300
    )
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout if expect == 0 else done.stdout + done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The sdist, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", folder, CHECKOUT)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return {"wheel": wheel, "sdist": sdist}


@pytest.fixture(scope="module")
def client(built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("client"), str(built["wheel"]))


def install(folder: Path, requirement: str) -> Path:
    """Make a virtual environment with a requirement; returns the folder of its programs."""
    run(sys.executable, "-m", "venv", folder)
    python = folder / "bin" / "python"
    constraints = CHECKOUT / "constraints.txt"
    run(python, "-m", "pip", "install", "--disable-pip-version-check", "--quiet", "-c", constraints, requirement)
    return folder / "bin"


@pytest.fixture(scope="module")
def stack(built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack whose processes run from their extras alone."""
    wheel, sdist = built["wheel"], built["sdist"]
    programs = {
        "dispatcher": install(tmp_path_factory.mktemp("dispatcher"), f"{wheel}[dispatcher]"),
        "api": install(tmp_path_factory.mktemp("api"), f"{wheel}[api]"),
        "worker-email": install(tmp_path_factory.mktemp("worker"), f"{sdist}[worker]"),
    }
    with taken(NAME):
        stack = new_stack(NAME, echo=lambda _: None, durable=False)
        try:
            stack.start_servers()
            stack.start_mail()
            started = {name: stack.start_service(name, programs=folder) for name, folder in programs.items()}
            stack.wait_answers("API", stack.local_url("api", "/readyz"), started["api"], "api")
            stack.wait_for_workers(1)
            yield stack
        finally:
            stack.stop(gently=False)
            stack.forget()


def test_each_process_runs_from_its_extra_alone(client: Path, stack: Stack) -> None:
    url, key = stack.local_url("api"), stack.create_api_key()
    assert run(client / "python", "-c", CALL, url, key).strip() == "succeeded"
    with urlopen(stack.local_url("mail"), timeout=10) as answer:
        assert [mail["subject"] for mail in orjson.loads(answer.read())] == ["wheel"]
    listed = run(client / "jobplatform", "jobs", "list", JOBPLATFORM_URL=url, JOBPLATFORM_API_KEY=key)
    assert "email.send" in listed and "succeeded" in listed


def test_a_caller_installs_few_packages(client: Path) -> None:
    listed = orjson.loads(run(client / "python", "-m", "pip", "list", "--format", "json"))
    names = {item["name"] for item in listed} - {"pip", "setuptools"}
    assert "jobplatform" in names and len(names) <= MOST_PACKAGES, sorted(names)


def test_a_missing_package_is_named_with_its_extra(client: Path) -> None:
    for code, extra in (
        ("from jobplatform import kind", "ledger"),
        ("import jobplatform.ledger.jobs", "ledger"),
        ("import api.server", "api"),
        ("import jobplatform.broker.topology", "dispatcher"),
        ("import workers.app", "worker"),
        ("import workers.celery", "worker"),
    ):
        refused = run(client / "python", "-c", code, expect=1).splitlines()[-1]
        assert f"is not installed: pip install 'jobplatform[{extra}]'" in refused
    for command in ("migrate", "doctor", "dispatch"):
        refused = run(client / "jobplatform", command, expect=1)
        assert refused.count("\n") == 1 and "pip install 'jobplatform[" in refused


def test_type_checkers_find_the_type_hints(client: Path) -> None:
    code = "import jobplatform, pathlib; print((pathlib.Path(jobplatform.__file__).parent / 'py.typed').exists())"
    assert run(client / "python", "-c", code).strip() == "True"


def test_the_extras_match_those_of_setup_cfg() -> None:
    config = configparser.ConfigParser()
    config.read(CHECKOUT / "setup.cfg")
    for extra, modules in MODULES.items():
        lines = config["options.extras_require"][extra].split()
        names = {line.split(">")[0].split("[")[0] for line in lines if not line.startswith("jobplatform")}
        known = {MODULE_OF.get(name, name.replace("-", "_")) for name in names}
        included = [line for line in lines if line.startswith("jobplatform")]
        if extra == "dev":
            assert set(modules) <= known
            continue
        assert set(modules) - {"email_validator"} == known
        assert included == [f"jobplatform[{name}]" for name in INCLUDES.get(extra, ())]
