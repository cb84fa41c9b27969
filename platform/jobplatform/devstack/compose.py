"""Read docker-compose.yml: the private stack runs the commands of production, which keeps them tested."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from jobplatform.devstack.instance import CHECKOUT, Instance
from jobplatform.devstack.processes import script

FILE = CHECKOUT / "docker-compose.yml"


@dataclass(frozen=True)
class Service:
    """A service of the platform: its command and its RabbitMQ role."""

    name: str
    command: tuple[str, ...]
    environment: dict[str, str]

    @property
    def role(self) -> str:
        """The user in its broker URL."""
        return urlsplit(self.environment["JOBPLATFORM_BROKER_URL"]).username or ""

    @property
    def is_measured(self) -> bool:
        """Return whether it exports metrics on its own port."""
        return self.name == "dispatcher" or self.name.startswith("worker-")

    def option(self, name: str) -> str:
        """Return the value of an option of its command."""
        return self.command[self.command.index(name) + 1]

    def local_command(self, instance: Instance) -> list[str | Path]:
        """Return its command for loopback, with the ports and folders of an instance."""
        words = {
            "0.0.0.0": "127.0.0.1",
            "8080": str(instance.ports["api"]),
            "/etc/jobplatform/granian-logs.json": str(CHECKOUT / "deploy" / "granian" / "logs.json"),
            "--address=0.0.0.0": "--address=127.0.0.1",
            "--port=5555": f"--port={instance.ports['flower']}",
            "--db=/var/lib/flower/flower.db": f"--db={instance.folder}/flower.db",
        }
        program, *rest = self.command
        first: str | Path = sys.executable if program == "python" else script(program)
        return [first, *(words.get(word, word) for word in rest)]


@lru_cache(maxsize=1)
def read_compose() -> dict[str, Any]:
    """Return the whole file."""
    compose: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return compose


@lru_cache(maxsize=1)
def services() -> dict[str, Service]:
    """Return the platform's services by name."""
    return {
        name: Service(name, tuple(str(word) for word in service["command"]), service.get("environment") or {})
        for name, service in read_compose()["services"].items()
        if str(service["image"]).startswith("jobplatform:")
    }


def worker_names() -> tuple[str, ...]:
    """Return the names of the workers' services."""
    return tuple(name for name in services() if name.startswith("worker-"))
