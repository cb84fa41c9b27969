"""The environment of the programs that workers start: what they need to run, and none of the worker's secrets."""

from __future__ import annotations

import os

#: everything else stays with the worker: its environment has the passwords of the ledger and of RabbitMQ
PASSED_ON = frozenset(
    ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "JOBPLATFORM_STACK")
)


def minimal_environment() -> dict[str, str]:
    """Return the environment for a program that a handler starts."""
    return {name: value for name, value in os.environ.items() if name in PASSED_ON}
