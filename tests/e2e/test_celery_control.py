"""The same canvases on the ledger and on a control worker of plain Celery: callers see the same results."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobplatform.devstack import rabbitmq
from jobplatform.devstack.processes import end_named, script, start, wait_for
from tests.e2e.conftest import Platform
from tests.support import canvas_shapes

SIDES = ("ledger", "plain")


@pytest.fixture(scope="module")
def seen(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, Any]]]:
    """The outcomes of all shapes on each side: side → "shape …" or "children …" → outcome; "errbacks" → counts."""
    folder, stack = tmp_path_factory.mktemp("canvas"), platform.stack
    (folder / "canvas_shapes.py").write_text(Path(canvas_shapes.__file__).read_text())
    rabbitmq.call_management(stack.instance, "/api/vhosts/control", "PUT")
    everything = {"configure": ".*", "write": ".*", "read": ".*"}
    rabbitmq.call_management(stack.instance, f"/api/permissions/control/{rabbitmq.USER}", "PUT", everything)
    (folder / "results").mkdir()
    programs = {}
    try:
        for side in SIDES:
            environment = stack.environment() | {
                "CANVAS_SIDE": side,
                "CANVAS_NOTES": str(folder / f"{side}.txt"),
                "CANVAS_BROKER_URL": rabbitmq.url(stack.instance, "control"),
                "CANVAS_BACKEND_URL": f"file://{folder / 'results'}",
                "JOBPLATFORM_BROKER_URL": stack.broker_url_of("worker"),
                "PYTHONPATH": f"{folder}:{stack.environment()['PYTHONPATH']}",
            }
            (folder / f"{side}.txt").touch()
            command: list[str | Path] = [script("celery"), "-A", "canvas_shapes", "worker", "-Q", "legacy", "-c", "4"]
            start(stack.instance, f"control-{side}", [*command, "-n", f"{side}@%h", "--loglevel", "info"], environment)
            log = stack.instance.logs / f"control-{side}.log"
            wait_for(f"the worker of {side}", lambda log=log: "ready." in log.read_text(errors="replace"), seconds=60)
            command = [sys.executable, "-W", "ignore", str(folder / "canvas_shapes.py")]
            programs[side] = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        result: dict[str, dict[str, Any]] = {}
        for side, program in programs.items():
            said, _ = program.communicate(timeout=300)
            assert program.returncode == 0, side
            result[side] = {f"{what} {json.dumps(name)}": how for what, name, how in map(json.loads, said.splitlines())}
            result[side]["errbacks"] = Counter((folder / f"{side}.txt").read_text().split())
        yield result
    finally:
        for side in SIDES:
            end_named(stack.instance, f"control-{side}")
        rabbitmq.call_management(stack.instance, "/api/vhosts/control", "DELETE")


def comparable(seen: dict[str, dict[str, Any]], name: str) -> bool:
    """Return whether plain Celery has a result for a canvas and the ledger accepts it (see the guide)."""
    return seen["plain"][name] != "TimeoutError" and not seen["ledger"][name].startswith("refused: ")


def test_each_canvas_calls_its_errbacks_as_often_as_plain_celery(seen: dict[str, dict[str, Any]]) -> None:
    shapes = canvas_shapes.all_shapes()
    differing = {
        json.dumps(shape): counts
        for number, shape in enumerate(shapes)
        if comparable(seen, f"shape {json.dumps(shape)}")
        and len(set(counts := [seen[side]["errbacks"][str(number)] for side in SIDES])) > 1
    }
    assert not differing, f"[ledger, plain]: {differing}"
    assert sum(seen["plain"]["errbacks"].values()) >= 14


def test_each_canvas_ends_as_on_plain_celery(seen: dict[str, dict[str, Any]]) -> None:
    names = [name for name in seen["plain"] if name.startswith("shape ") and comparable(seen, name)]
    names.remove(f"shape {json.dumps(canvas_shapes.WRAPPED_ONCE_MORE)}")
    differing = {name: ends for name in names if len(set(ends := [seen[side][name] for side in SIDES])) > 1}
    assert not differing, f"[ledger, plain]: {differing}"


def test_the_tasks_that_a_task_has_called_are_its_children(seen: dict[str, dict[str, Any]]) -> None:
    names = [name for name in seen["plain"] if name.startswith("children ")]
    assert {name: seen["ledger"][name] for name in names} == {name: seen["plain"][name] for name in names}
    for name in ("chord", "group into a task"):
        assert seen["ledger"][f'children "{name}"'] == canvas_shapes.CHORD_CHILDREN
