"""The command line over HTTP, against the running platform, as used by people and by scripts."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner, Result

from jobplatform.cli.main import cli
from jobplatform.client import NotFound
from jobplatform.devstack.processes import script
from tests.e2e.conftest import Platform
from tests.support.receiver import Receiver, say
from tests.support.waiting import eventually

Ask = Callable[..., Result]
RESIZE = ("jobs", "submit", "acme.resize", "width:=10", "height:=20")


@pytest.fixture
def ask(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> Ask:
    monkeypatch.setenv("JOBPLATFORM_URL", platform.stack.local_url("api"))
    monkeypatch.setenv("JOBPLATFORM_API_KEY", platform.api._key)
    monkeypatch.setenv("COLUMNS", "250")

    def run(*arguments: Any, stdin: str | None = None) -> Result:
        return CliRunner().invoke(cli, [str(argument) for argument in arguments], input=stdin)

    return run


def said(result: Result, code: int = 0) -> str:
    assert result.exit_code == code, (result.output, result.exception)
    return result.stdout.strip()


def test_payloads_come_from_arguments_a_file_and_standard_input(ask: Ask, tmp_path: Path) -> None:
    file = tmp_path / "payload.json"
    file.write_text('{"width": 10, "height": 20}')
    by_arguments = said(ask(*RESIZE, "--tag", "cli"))
    by_file = said(ask("jobs", "submit", "acme.resize", "-p", f"@{file}"))
    by_stdin = said(ask("jobs", "submit", "acme.resize", "-p", "-", "height:=40", stdin=file.read_text()))
    watched = said(ask("jobs", "watch", by_arguments, by_file, by_stdin)).splitlines()
    for job_id in (by_arguments, by_file, by_stdin):
        assert [line.split()[1] for line in watched if line.startswith(job_id)][-1] == "succeeded"
    assert orjson.loads(said(ask("jobs", "show", by_stdin, "--json")))["result"] == {"width": 5, "height": 20}
    shown = said(ask("jobs", "show", by_arguments))
    assert "succeeded" in shown and "cli" in shown and '"width": 5' in shown
    listed = said(ask("jobs", "list", "--tag", "cli"))
    assert by_arguments in listed and "\x1b" not in listed, "no colours when the output is not a terminal"
    ids = said(ask("jobs", "list", "--kind", "acme.resize", "--quiet", "-n", 3)).splitlines()
    assert len(ids) == 3 and by_stdin in ids
    assert "submitted" in said(ask("jobs", "events", by_file))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("width",), "expected name=text or name:=JSON"),
        (("width:=x",), "expected JSON behind :="),
        (("-p", "[]"), "expected a JSON object, got list"),
        (("-p", "@/nowhere"), "No such file"),
        (("a=1", "a.b=2"), "a is no object"),
        (("--run-at", "tomorrow"), "does not match the formats"),
    ],
)
def test_wrong_usage_exits_with_2_and_names_the_expected_input(ask: Ask, arguments: Any, expected: str) -> None:
    done = ask("jobs", "submit", "acme.resize", *arguments)
    assert done.exit_code == 2 and expected in done.output


def test_watching_a_failed_job_exits_with_3(ask: Ask) -> None:
    done = ask(*RESIZE, "factor:=0", "--watch")
    assert done.exit_code == 3 and "dead: factor must be positive" in done.output
    as_json = ask(*RESIZE, "factor:=0", "--watch", "--json")
    assert as_json.exit_code == 3
    job = orjson.loads(as_json.stdout)
    assert job["error"]["code"] == "bad_factor"
    assert "replay or discard it" in said(ask("jobs", "explain", job["id"]))
    assert said(ask("jobs", "replay", job["id"])).startswith(f"{job['id']} is ")
    eventually(lambda: "is discarded" in ask("jobs", "discard", job["id"], "--reason", "test").output)
    assert isinstance(ask("jobs", "show", "01890000-0000-7000-8000-000000000000").exception, NotFound)


def test_streamed_model_output_is_printed_as_it_arrives(ask: Ask) -> None:
    job_id = said(ask("jobs", "submit", "llm.chat", "-p", '{"messages": [{"role": "user", "content": "hello"}]}'))
    text = said(ask("jobs", "watch", "--output", job_id))
    assert text == orjson.loads(said(ask("jobs", "show", job_id, "--json")))["result"]["content"].strip()


def test_many_jobs_are_submitted_from_a_pipe(ask: Ask) -> None:
    lines = "\n".join(f'{{"kind": "acme.resize", "payload": {{"width": {n}, "height": 1}}}}' for n in range(1, 26))
    ids = said(ask("jobs", "submit-many", "--batch-size", 10, stdin=lines + "\n")).splitlines()
    assert len(set(ids)) == 25
    wrong = ask("jobs", "submit-many", stdin='{"kind": "acme.resize", "payloads": {}}')
    assert wrong.exit_code == 2 and "line 1: expected kind and some of" in wrong.output


def test_a_job_is_changed_and_cancelled(ask: Ask) -> None:
    job_id = said(ask(*RESIZE, "--run-at", "2099-01-31T12:00:00Z"))
    assert said(ask("jobs", "change", job_id, "--priority", 9)) == f"{job_id} is scheduled"
    assert said(ask("jobs", "cancel", job_id, "--reason", "enough")) == f"{job_id} is cancelled"


def test_a_workflow_is_submitted_watched_and_drawn(ask: Ask, tmp_path: Path) -> None:
    resize = {"kind": "acme.resize", "payload": {"width": 2, "height": 2}}
    steps = [{"name": "first", **resize}]
    steps += [{"name": name, **resize, "after": ["first"]} for name in ("left", "right")]
    steps += [{"name": "last", **resize, "after": ["left", "right"]}]
    file = tmp_path / "flow.json"
    file.write_bytes(orjson.dumps({"name": "drawn", "steps": steps}))
    done = said(ask("workflows", "submit", f"@{file}", "--watch"))
    workflow_id = done.split()[0]
    assert f"{workflow_id} succeeded 100%: 4 done" in done
    shown = said(ask("workflows", "show", workflow_id)).splitlines()
    assert [line.split("  ")[0].rstrip() for line in shown[1:]] == ["●", "├─╮", "● │", "│ ●", "├─╯", "●"]
    assert "left" in shown[3] and "succeeded" in shown[3]
    assert workflow_id in said(ask("workflows", "list"))
    assert ask("workflows", "submit", "[]").exit_code == 2


def test_schedules_over_http(ask: Ask) -> None:
    put = ("schedules", "put", "cli-test", "acme.resize", "-p", '{"width": 2, "height": 2}', "--cron", "0 7 * * *")
    assert said(ask(*put)).startswith("cli-test: At 07:00")
    assert "cli-test" in said(ask("schedules", "list"))
    assert "UTC" in said(ask("schedules", "preview", "cli-test", "--count", 3))
    job_id = said(ask("schedules", "run", "cli-test")).removeprefix("job ")
    assert job_id in said(ask("schedules", "fires", "cli-test"))
    assert said(ask("schedules", "pause", "cli-test")) == "cli-test is paused"
    assert said(ask("schedules", "resume", "cli-test")).startswith("cli-test is resumed; next 20")
    assert said(ask("schedules", "delete", "cli-test")) == "cli-test is gone"


def test_dead_letters_and_queues_over_http(ask: Ask) -> None:
    assert ask(*RESIZE, "factor:=0", "--tag", "cli-dead", "--watch").exit_code == 3
    filters = ("--tag", "cli-dead", "--code", "bad_factor", "--died-after", "2026-01-01T00:00:00Z")
    (letter,) = orjson.loads(said(ask("dead", "list", *filters, "--json")))
    assert said(ask("dead", "list", *filters, "--quiet")) == letter["id"]
    assert "factor must be positive" in said(ask("dead", "list", *filters))
    assert orjson.loads(said(ask("dead", "list", *filters, "--kind", "no.such", "--json"))) == []
    preview = said(ask("dead", "replay", "--tag", "cli-dead"))
    assert "bad_factor" in preview and "1 dead letters" in preview
    assert "1 jobs" in said(ask("dead", "replay", "--tag", "cli-dead", "--yes"))
    queues = orjson.loads(said(ask("queues", "list", "--json")))
    assert {"email", "gpu", "webhooks"} <= {queue["name"] for queue in queues}
    assert "slots" in said(ask("queues", "list"))


def test_webhooks(ask: Ask) -> None:
    receiver = Receiver(say(204))
    try:
        made = said(ask("webhooks", "create", receiver.url, "--event", "job.dead", "--kind", "acme.*"))
        hook_id, secret = made.split()
        assert secret.startswith("whsec_") and hook_id in said(ask("webhooks", "list"))
        assert said(ask("webhooks", "test", hook_id)).startswith("taken: 204 in ")
        assert "webhook.test" in said(ask("webhooks", "messages", hook_id))
        assert "is disabled" in said(ask("webhooks", "change", hook_id, "--disable"))
        assert "is enabled" in said(ask("webhooks", "change", hook_id, "--enable"))
        assert said(ask("webhooks", "rotate", hook_id)) != secret
        assert "is on its way" in said(ask("webhooks", "replay", hook_id, "--since", "2026-01-01T00:00:00Z"))
        assert ask("webhooks", "replay", hook_id).exit_code == 2
        assert "is gone" in said(ask("webhooks", "delete", hook_id))
    finally:
        receiver.close()


def test_commands_that_use_the_database(platform: Platform, ask: Ask) -> None:
    environment = platform.stack.environment()
    where = {name: environment[name] for name in environment if name.startswith("JOBPLATFORM_")}
    table = run("workers", "list", **where).stdout
    assert "worker-webhooks" in table and "alive" in table
    assert orjson.loads(run("workers", "list", "--json", **where).stdout)[0]["slots"] > 0
    size = run("db", "status", **where).stdout
    assert "job_events" in size and "revision 00" in size
    job_id = said(ask(*RESIZE, "--run-at", "2099-01-31T12:00:00Z"))
    assert run("jobs", "cancel", job_id, "--database", **where).stdout == f"{job_id} is cancelled\n"


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("JOBPLATFORM_")}
    return subprocess.run(
        [str(script("jobplatform")), *arguments], env=clean | variables, capture_output=True, text=True, check=False
    )


def test_exit_codes_and_error_messages(platform: Platform) -> None:
    where = {"JOBPLATFORM_URL": platform.stack.local_url("api"), "JOBPLATFORM_API_KEY": platform.api._key}
    nowhere = run("jobs", "list")
    assert nowhere.returncode == 2 and "expected JOBPLATFORM_URL and JOBPLATFORM_API_KEY" in nowhere.stderr
    unknown = run("jobs", "submit", "acme.resise", **where)
    assert unknown.returncode == 1 and "did you mean 'acme.resize'?" in unknown.stderr
    assert "Traceback" not in unknown.stderr
    unfit = run("jobs", "submit", "acme.resize", "width=x", **where)
    assert unfit.returncode == 1 and "payload.width: expected" in unfit.stderr
    stranger = run("jobs", "list", **where | {"JOBPLATFORM_API_KEY": "nonsense"})
    assert stranger.returncode == 1 and "unauthorized, 401" in stranger.stderr
    gone = run("workers", "list", JOBPLATFORM_DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")
    assert gone.returncode == 4, gone.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion_is_generated(shell: str) -> None:
    done = run("completion", shell)
    assert done.returncode == 0 and "_JOBPLATFORM_COMPLETE" in done.stdout, done.stderr
