"""Processes of a stack: marked in their environment, found by that mark, and ended only by pid."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from jobplatform.devstack.instance import Instance, demote
from jobplatform.errors import ConfigurationError, JobPlatformError

MARK = "JOBPLATFORM_STACK"
TAG = "JOBPLATFORM_PROCESS"

#: kept, to avoid ResourceWarning for processes that outlive this one
_started: list[subprocess.Popen[bytes]] = []


class DidNotStart(JobPlatformError):
    """A process of the stack did not start."""

    code = "did_not_start"


def start(
    instance: Instance,
    name: str,
    command: Sequence[str | Path],
    environment: dict[str, str],
    *,
    unprivileged: bool = False,
    folder: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start a process in its own session, with its output in `logs/<name>.log`."""
    log = instance.logs / f"{name}.log"
    extra: dict[str, Any] = demote() if unprivileged else {}
    with log.open("ab") as output:
        process = subprocess.Popen(
            [str(part) for part in command],
            env={**environment, MARK: instance.mark, TAG: name},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=folder or instance.folder,
            **extra,
        )
    _started.append(process)
    return process


def marked(instance: Instance) -> dict[int, str]:
    """Return pid → name of every living process with this stack's mark."""
    names = {}
    for process in psutil.process_iter(["pid"]):
        try:
            environment = process.environ()
            if environment.get(MARK) == instance.mark and process.status() != psutil.STATUS_ZOMBIE:
                names[process.pid] = environment.get(TAG, "?")
        except (psutil.Error, OSError):
            continue
    names.pop(os.getpid(), None)
    return names


def stop_all(
    instance: Instance, order: Sequence[str], *, gently: bool = True, grace_seconds: float = 10.0
) -> list[str]:
    """End every marked process: SIGTERM in the given order of names, then the rest, finally SIGKILL.

    Returns the names of those that had to be killed.
    """
    for name in [*order, None] if gently else []:
        end_named(instance, name, grace_seconds)
    killed = set()
    while left := marked(instance):  # a killed process may have started another meanwhile
        killed |= set(left.values())
        for pid in left:
            _signal(pid, signal.SIGKILL)
        wait_gone(list(left), 5.0)
    return sorted(killed)


def end_named(instance: Instance, name: str | None, grace_seconds: float = 10.0) -> None:
    """End the marked processes of a name (None: all) with SIGTERM, and wait for them."""
    pids = [pid for pid, tag in marked(instance).items() if name is None or tag == name]
    for pid in pids:
        if _parent(pid) not in pids:  # a child is ended by its parent
            _signal(pid, signal.SIGTERM)
    if pids:
        wait_gone(pids, grace_seconds)


def _parent(pid: int) -> int:
    try:
        return psutil.Process(pid).ppid()
    except psutil.Error:
        return 0


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def wait_gone(pids: Sequence[int], seconds: float) -> bool:
    """Wait until these processes have ended, and reap those that are our children."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        alive = []
        for pid in pids:
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                pass
            try:
                if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                    alive.append(pid)
            except psutil.Error:
                continue
        if not alive:
            return True
        time.sleep(0.03)
    return False


def wait_for(
    what: str,
    ready: Callable[[], bool],
    *,
    seconds: float = 60.0,
    process: subprocess.Popen[bytes] | None = None,
    log: Path | None = None,
) -> None:
    """Wait until `ready()`. Raises `DidNotStart` with the end of the log when the process ends or at the time-out."""
    deadline = time.monotonic() + seconds
    while True:
        if process is not None and process.poll() is not None:
            raise DidNotStart(f"{what} ended with code {process.returncode}: {_tail(log)}")
        last = "not ready"
        try:
            if ready():
                return
        except Exception as error:  # not ready yet: any error counts until the time-out
            last = repr(error)
        if time.monotonic() > deadline:
            raise DidNotStart(f"{what} was not ready within {seconds:.0f} s ({last}): {_tail(log)}")
        time.sleep(0.05)


def _tail(log: Path | None, lines: int = 15) -> str:
    if log is None or not log.exists():
        return "no log"
    return f"{log}:\n" + "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def script(name: str) -> Path:
    """Return a console script of this environment."""
    path = Path(sys.executable).parent / name
    if not path.exists():
        raise ConfigurationError(f"{name} is not installed in this environment: run `make setup`")
    return path
