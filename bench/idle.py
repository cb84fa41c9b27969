"""CPU usage of an idle stack: each service once, with production settings."""

from __future__ import annotations

import time

import psutil

from jobplatform.devstack.compose import worker_names
from jobplatform.devstack.processes import marked
from jobplatform.devstack.stack import Stack

SETTLE_SECONDS = 5.0


def measure(stack: Stack, seconds: float) -> dict[str, float]:
    """Return process → percent of one core, and their sum as "all"."""
    before = dict(stack.extra)
    stack.extra = {"JOBPLATFORM_LOG_LEVEL": "warning"}
    try:
        stack.run("migrate")
        stack.run("broker", "apply")
        stack.start_api()
        stack.start_dispatcher()
        for name in worker_names():
            stack.start_service(name)
        stack.wait_for_workers(len(worker_names()))
        time.sleep(SETTLE_SECONDS)
        names = ("api", "dispatcher", *worker_names())
        used = {pid: (name, _cpu(pid)) for pid, name in marked(stack.instance).items() if name in names}
        began = time.monotonic()
        time.sleep(seconds)
        passed = time.monotonic() - began
        result = dict.fromkeys(names, 0.0)
        for pid, (name, cpu) in used.items():
            result[name] += 100 * (_cpu(pid) - cpu) / passed
    finally:
        stack.extra = before
        stack.stop_platform()
    return {**result, "all": sum(result.values())}


def _cpu(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)
