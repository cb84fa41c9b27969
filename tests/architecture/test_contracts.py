"""Each import contract of setup.cfg breaks when it is violated."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

#: file, forbidden import, contract that must break
VIOLATIONS = [
    ("platform/jobplatform/ledger/ids.py", "import jobplatform.usecases.admit", "entry points call use cases"),
    ("api/auth.py", "import workers.runtime.context", "entry points call use cases"),
    (
        "platform/jobplatform/usecases/admit.py",
        "import jobplatform.broker.envelope",
        "use cases do not know the broker",
    ),
    ("platform/jobplatform/broker/envelope.py", "import sqlalchemy", "the broker package does not know Postgres"),
    ("platform/jobplatform/domain/retry.py", "import structlog", "domain and errors know the standard library"),
    ("platform/jobplatform/usecases/admit.py", "import flask", "only api knows Flask"),
    ("platform/jobplatform/dispatch/pace.py", "import celery", "only workers know Celery"),
    ("workers/handlers/llm_chat.py", "import jobplatform.ledger.runs", "handlers get typed arguments"),
]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("platform", "api", "workers", "migrations"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copy(ROOT / "setup.cfg", folder)
    return folder


def lint(folder: Path) -> str:
    done = subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{folder / 'platform'}{os.pathsep}{folder}"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize(("file", "line", "contract"), VIOLATIONS, ids=[f"{v[0]}: {v[1]}" for v in VIOLATIONS])
def test_a_violation_breaks_its_contract(copy: Path, file: str, line: str, contract: str) -> None:
    path = copy / file
    before = path.read_text()
    path.write_text(before + f"\n{line}\n")
    try:
        said = lint(copy)
    finally:
        path.write_text(before)
    assert any(contract in row and "BROKEN" in row for row in said.splitlines()), said[-2000:]


def test_without_a_violation_the_copy_is_clean(copy: Path) -> None:
    assert "0 broken" in lint(copy)
