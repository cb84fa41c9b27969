"""Commands that need no server."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner

from jobplatform.cli.broker import definitions
from jobplatform.cli.reporting import ask
from jobplatform.config import settings


@pytest.fixture(autouse=True)
def fresh_settings(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("JOBPLATFORM_BROKER_URL", "amqp://dispatcher@rabbitmq:5672/jobplatform")
    settings.cache_clear()
    yield
    settings.cache_clear()


def test_definitions_have_one_user_per_role_and_no_plaintext_password(tmp_path: Path) -> None:
    folder, output = tmp_path / "passwords", tmp_path / "definitions.json"
    folder.mkdir()
    for role in ("operator", "dispatcher", "worker", "monitor"):
        (folder / role).write_text(f"secret-of-{role}\n")
    done = CliRunner().invoke(definitions, ["--passwords", str(folder), "--output", str(output)])
    assert done.exit_code == 0, done.output
    result = orjson.loads(output.read_bytes())
    rights = {p["user"]: (p["configure"], p["write"], p["read"]) for p in result["permissions"]}
    assert set(rights) == {"operator", "dispatcher", "worker", "monitor"}
    assert rights["dispatcher"][1:] == (r"^(jobs|amq\.default)$", r"^jobs\.(dead\.records|submit)$")
    assert {p["vhost"] for p in result["permissions"]} == {"jobplatform"}
    assert "secret-of" not in output.read_text() + done.output
    assert {q["arguments"].get("x-queue-type") for q in result["queues"] if q["name"] in ("email", "llm")} == {"quorum"}


def test_a_missing_password_is_reported_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "operator").write_text("x")
    output = tmp_path / "definitions.json"
    done = CliRunner().invoke(definitions, ["--passwords", str(tmp_path), "--output", str(output)])
    assert done.exit_code == 1 and "expected the password of 'dispatcher' in the file" in done.output
    assert not output.exists()


def test_an_unknown_question_lists_the_known_ones() -> None:
    done = CliRunner().invoke(ask, ["everything"])
    assert done.exit_code == 1 and "failure_reasons" in done.output
