"""Conditions of a drain in production that a quiet machine lacks: busy neighbours, and servers on the network."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from bench.sides import Bare, Ours

BUSY_PROCESSES = 2
DELAY_SECONDS = 0.001


@contextmanager
def process(*command: str) -> Iterator[subprocess.Popen[str]]:
    """Run a process of this Python for a block."""
    child = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True)
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


@contextmanager
def busy(_: Ours | Bare) -> Iterator[None]:
    """Keep processes running that never wait, as many as `BUSY_PROCESSES`."""
    with ExitStack() as stack:
        for _number in range(BUSY_PROCESSES):
            stack.enter_context(process("-c", "while True: pass"))
        yield


@contextmanager
def delayed(side: Ours | Bare) -> Iterator[None]:
    """Delay every message between the side's processes and Postgres or RabbitMQ, in both directions."""
    instance, before = side.stack.instance, dict(getattr(side, "environment", {}))
    with ExitStack() as stack:
        ports = dict(instance.ports)
        for server in ("postgres", "amqp"):
            proxy = stack.enter_context(process("-m", "bench.delay", str(ports[server]), str(DELAY_SECONDS)))
            assert proxy.stdout is not None
            ports[server] = int(proxy.stdout.readline())
        side.stack.instance = replace(instance, ports=ports)
        for name, value in before.items():  # the bare side has its URLs from the start
            for server in ("postgres", "amqp"):
                value = value.replace(f"127.0.0.1:{instance.ports[server]}", f"127.0.0.1:{ports[server]}")
            side.environment[name] = value  # type: ignore[union-attr]
        try:
            yield
        finally:
            side.stack.instance = instance
            if before:
                side.environment.update(before)  # type: ignore[union-attr]
