"""One private stack of servers for the whole run, shared by all its processes; started by the controller."""

from __future__ import annotations

import os
import shutil

import pytest
import structlog

from jobplatform.devstack.instance import taken
from jobplatform.devstack.rabbitmq_server import CHOICE, choose_server
from jobplatform.devstack.stack import new_stack
from jobplatform.errors import ConfigurationError
from tests.support.servers import STACK, keep_in_memory, slim_template

# structlog's own tracebacks draw every local variable: of a request that is nested 240 levels deep, for minutes
structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
    ]
)

pytest_plugins = ("tests.support.fixtures", "tests.support.desk")
READY = "JOBPLATFORM_TEST_SERVERS"
#: why the chosen broker can't be had
_no_broker = ""


def pytest_configure(config: pytest.Config) -> None:
    """Start Postgres and RabbitMQ, unless only tests that need neither were asked for."""
    if os.environ.get(CHOICE):
        try:
            choose_server()
        except ConfigurationError as error:
            global _no_broker
            _no_broker = f"RabbitMQ {os.environ[CHOICE]} can't be had here: {error}"
            print(f"\n*** SKIPPED: the broker-facing tests on RabbitMQ {os.environ[CHOICE]}. {error} ***\n", flush=True)
            return
    if hasattr(config, "workerinput") or os.environ.get(READY) or not _needs_servers(config):
        return
    hold = taken(STACK)
    hold.__enter__()
    stack = new_stack(STACK, echo=lambda line: print(line, flush=True), durable=False)
    memory = keep_in_memory(stack)

    def clean() -> None:
        stack.stop(gently=False)
        stack.forget()
        if memory is not None:
            shutil.rmtree(memory, ignore_errors=True)
        hold.__exit__(None, None, None)

    config.add_cleanup(clean)
    stack.start_servers()
    slim_template(stack)
    os.environ[READY] = "1"
    config.add_cleanup(lambda: os.environ.pop(READY, None))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip everything when the broker that was asked for can't be had."""
    if _no_broker:
        for item in items:
            item.add_marker(pytest.mark.skip(reason=_no_broker))


def _needs_servers(config: pytest.Config) -> bool:
    if config.option.collectonly or config.option.help:
        return False
    asked = [argument for argument in config.args if not argument.startswith("-")]
    light = ("tests/unit", "tests/architecture", "tests/e2e")  # e2e starts servers of its own
    return not asked or not all(any(part in argument for part in light) for argument in asked)
