"""Queue by queue from Celery to the ledger, and back: the guide's steps (docs/howto/migrate-from-celery.md)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobplatform.devstack import rabbitmq
from jobplatform.devstack.processes import end_named, script, start
from tests.e2e.conftest import Platform
from tests.support.shop import write_legacy

CALL = """
import sys
from legacy import app, mail, report
task = {"mail": mail, "report": report}[sys.argv[1]]
result = task.delay(7)
print(result.id, result.get(timeout=40), app.AsyncResult(result.id).state)
"""
CANVAS = "from legacy import mail, report; (report.si(1) | mail.si(2)).delay()"


class Legacy:
    """An app with an old side (its own broker and result backend) and a new one."""

    def __init__(self, platform: Platform, folder: Path) -> None:
        self.platform, stack = platform, platform.stack
        rabbitmq.call_management(stack.instance, "/api/vhosts/old", "PUT")
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        rabbitmq.call_management(stack.instance, f"/api/permissions/old/{rabbitmq.USER}", "PUT", everything)
        results = folder / "results"
        results.mkdir()
        old = {
            "OLD_BROKER_URL": rabbitmq.url(stack.instance, "old"),
            "OLD_RESULT_BACKEND": f"file://{results}",
            "PYTHONPATH": f"{folder}:{stack.environment()['PYTHONPATH']}",
        }
        self.old = stack.environment() | old | {"LEGACY_CONFIG": "legacy_old_config"}
        self.new = stack.environment() | old | {
            "JOBPLATFORM_CELERY_QUEUES": "legacy",
            "JOBPLATFORM_CELERY_OLD_BROKER_URL": old["OLD_BROKER_URL"],
            "JOBPLATFORM_CELERY_OLD_RESULT_BACKEND": old["OLD_RESULT_BACKEND"],
            "JOBPLATFORM_BROKER_URL": stack.broker_url_of("worker"),
        }  # fmt: skip

    def start_worker(self, name: str, queues: str, environment: dict[str, str]) -> None:
        command: list[str | Path] = [script("celery"), "-A", "legacy", "worker", "-Q", queues, "-n", f"{name}@%h"]
        start(self.platform.stack.instance, name, [*command, "-c", "1", "--without-mingle"], environment)

    def call(self, task: str, environment: dict[str, str]) -> list[str]:
        """Call a task in a separate process; returns id, result, state."""
        done = self.run(CALL, environment, task)
        assert done.returncode == 0, done.stderr
        task_id, *value, state = done.stdout.split()
        return [task_id, " ".join(value), state]

    def run(self, code: str, environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-W", "ignore", "-c", code, *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture
def legacy(platform: Platform, tmp_path: Path) -> Iterator[Legacy]:
    write_legacy(tmp_path)
    result = Legacy(platform, tmp_path)
    try:
        yield result
    finally:
        for name in ("legacy-old", "legacy-new"):
            end_named(platform.stack.instance, name)
        rabbitmq.call_management(platform.stack.instance, "/api/vhosts/old", "DELETE")


def test_one_queue_is_switched_while_the_other_stays_and_both_work(legacy: Legacy) -> None:
    known = legacy.platform.sql
    legacy.start_worker("legacy-old", "mails,legacy", legacy.old)
    # before: plain Celery, although the task class is installed
    assert legacy.call("report", legacy.old)[1:] == ["report 7", "SUCCESS"]
    assert known("SELECT count(*) FROM job_history WHERE kind LIKE 'legacy.%'") == [0]
    # one queue is switched: its tasks are jobs, the other's are published as before
    legacy.start_worker("legacy-new", "legacy", legacy.new)
    task_id, *rows = legacy.call("report", legacy.new)
    assert rows == ["report 7", "SUCCESS"]
    assert known("SELECT state FROM job_history WHERE id = CAST(:id AS uuid)", id=task_id) == ["succeeded"]
    assert legacy.call("mail", legacy.new)[1:] == ["mail 7", "SUCCESS"]
    assert known("SELECT count(*) FROM job_history WHERE kind = 'legacy.mail'") == [0]
    refused = legacy.run(CANVAS, legacy.new)
    assert "goes to queue 'mails', which is not on the ledger, and others do not" in refused.stderr
    # back: callers use the old config; the ledger's worker still runs what the ledger has accepted
    assert legacy.call("report", legacy.old)[1:] == ["report 7", "SUCCESS"]
    assert known("SELECT count(*) FROM job_history WHERE kind = 'legacy.report'") == [1]
