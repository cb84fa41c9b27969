"""`python -m workers.flower`: Flower with a login and a bounded, persistent history; a view, never the source of truth.

Secrets are passed in its environment: on a command line every user of the host could read them.

    python -m workers.flower --address=0.0.0.0 --port=5555 --url_prefix=flower --db=/var/lib/flower/flower.db
"""

from __future__ import annotations

import os
import sys

from jobplatform.config import settings
from jobplatform.errors import ConfigurationError, JobPlatformError

#: tasks and workers kept in memory and in its file: Flower's defaults grow to gigabytes
MAX_TASKS, MAX_WORKERS, PURGE_SECONDS, SAVE_MS = 5_000, 200, 3_600, 60_000


def flower_environment() -> dict[str, str]:
    """Return the environment with Flower's options. Raises `ConfigurationError` without a password."""
    config = settings()
    if config.flower_password is None:
        raise ConfigurationError(
            "Flower can stop workers and shows what runs: expected a password in JOBPLATFORM_FLOWER_PASSWORD, got none"
        )
    options = {
        "FLOWER_BASIC_AUTH": f"{config.flower_user}:{config.flower_password.get_secret_value()}",
        "FLOWER_PERSISTENT": "true",
        "FLOWER_STATE_SAVE_INTERVAL": str(SAVE_MS),
        "FLOWER_MAX_TASKS": str(MAX_TASKS),
        "FLOWER_MAX_WORKERS": str(MAX_WORKERS),
        "FLOWER_PURGE_OFFLINE_WORKERS": str(PURGE_SECONDS),
        # Flower's buttons talk to Celery, which does not decide here: a job is cancelled in the ledger
        "FLOWER_READ_ONLY": "true",
    }
    if config.management_url is not None:
        options["FLOWER_BROKER_API"] = config.management_url.get_secret_value().rstrip("/") + "/api/"
    return options


def main() -> None:
    """Run Flower in this process."""
    try:
        environment = {**os.environ, **flower_environment()}
    except JobPlatformError as error:
        sys.exit(f"jobplatform: {error} [{error.code}]")
    # Flower's own log format and banner are disabled: see workers.flower_app
    command = [sys.executable, "-m", "celery", "-A", "workers.flower_app", "--quiet", "flower", "--logging=none"]
    command += sys.argv[1:]
    os.execve(sys.executable, command, environment)


if __name__ == "__main__":
    main()
