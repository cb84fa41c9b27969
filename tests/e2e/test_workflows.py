"""Workflows through every process: the same dispatch and attempt as single jobs."""

from __future__ import annotations

import os
import signal
from typing import Any

from tests.e2e.conftest import Platform
from tests.support.waiting import eventually


def submit(platform: Platform, **fields: Any) -> tuple[str, dict[str, str]]:
    accepted = platform.api.call("POST", "/v1/workflows", fields)
    return accepted["id"], accepted["steps"]


def wait(platform: Platform, workflow: str, seconds: int = 60) -> dict[str, Any]:
    result: dict[str, Any] = platform.api.call("GET", f"/v1/workflows/{workflow}?wait={seconds}")
    return result


def total(numbers: Any, **more: Any) -> dict[str, Any]:
    return {"kind": "acme.sum", "payload": {"numbers": numbers}, **more}


def test_a_model_answer_goes_into_a_mail(platform: Platform) -> None:
    chat = {"kind": "llm.chat", "payload": {"messages": [{"role": "user", "content": "Hello"}]}, "name": "text"}
    mail = {
        "kind": "email.send",
        "payload": {"to": ["flow@example.com"], "subject": "x", "text": {"$from": "text.result.content"}},
        "name": "mail",
    }
    workflow, steps = submit(platform, steps=[mail, chat])
    result = wait(platform, workflow)
    assert (result["state"], result["progress"], result["steps"]) == ("succeeded", 1.0, {"done": 2})
    assert platform.job(steps["mail"])["result"]["accepted"] == ["flow@example.com"]


def test_fan_out_map_and_steps_added_by_a_run_work_together(platform: Platform) -> None:
    flow = {
        "chain": [
            {"kind": "acme.fan", "payload": {"numbers": list(range(10))}, "name": "fan"},
            {"map": {"$from": "fan.results"}, "step": total([{"$item": "sum"}, 1]), "name": "plus"},
            {"group": [total([{"$from": "plus.results.3.sum"}]), total([{"$from": "fan.result.sum"}])], "name": "g"},
            total([{"$from": "g.results.0.sum"}, {"$from": "g.results.1.sum"}], name="end"),
        ]
    }
    workflow, steps = submit(platform, flow=flow)
    result = wait(platform, workflow)
    assert result["state"] == "succeeded", result
    assert result["steps"] == {"done": 1 + 10 + 10 + 2 + 1}
    assert platform.job(steps["end"])["result"] == {"sum": (3 + 3 + 1) + 10}
    graph = platform.api.call("GET", f"/v1/workflows/{workflow}/graph")
    assert {node["state"] for node in graph["nodes"]} == {"succeeded", "done"}


def test_a_failed_step_is_replayed_and_completed_steps_are_kept(platform: Platform) -> None:
    path = platform.file("fails-once")
    flow = {"chain": [total([1], name="a"), {**total([2], name="b")}, total([3], name="c")]}
    flow["chain"][1]["payload"] |= {"path": path, "fails": 1}
    workflow, steps = submit(platform, flow=flow)
    result = wait(platform, workflow)
    assert (result["state"], result["error"]["step"]) == ("failed", "b")
    assert platform.job(steps["c"])["state"] == "cancelled"
    platform.api.call("POST", f"/v1/workflows/{workflow}/replay")
    assert wait(platform, workflow)["state"] == "succeeded"
    assert len(platform.calls(path)) == 2
    assert platform.outcomes(steps["a"]) == ["succeeded"]


def test_a_killed_child_costs_its_step_a_run_and_the_workflow_succeeds(platform: Platform) -> None:
    path = platform.file("killed-step")
    slow = {"kind": "acme.sleep", "payload": {"path": path, "seconds": 60, "times": 1}, "name": "slow"}
    workflow, steps = submit(platform, flow={"group": [slow, total([1])], "then": total([2], name="end")})
    os.kill(platform.started(path), signal.SIGKILL)
    assert wait(platform, workflow)["state"] == "succeeded"
    assert platform.outcomes(steps["slow"]) == ["crashed", "succeeded"]


def test_cancel_and_the_time_limit_also_end_running_steps(platform: Platform) -> None:
    paths = [platform.file(f"stopped-{n}") for n in range(2)]
    flows = [
        {"chain": [{"kind": "acme.sleep", "payload": {"path": path, "seconds": 60}, "name": "slow"}, total([1])]}
        for path in paths
    ]
    cancelled, _ = submit(platform, flow=flows[0])
    limited, steps = submit(platform, flow=flows[1], time_limit_seconds=1)
    platform.started(paths[0])
    platform.api.call("POST", f"/v1/workflows/{cancelled}/cancel")
    assert wait(platform, cancelled)["state"] == "cancelled"
    result = wait(platform, limited)
    assert (result["state"], result["error"]["code"]) == ("failed", "timed_out")
    assert eventually(lambda: platform.job(steps["slow"])["state"] == "cancelled")
