"""Celery's remote control, restricted to inspection.

A user who may publish to the workers' control queues (the monitor's, which Flower has) could otherwise make every
worker consume a missing queue, which ends in a loop of reconnects, or stop consuming its queues.
"""

from __future__ import annotations

from typing import Any

from celery.worker.control import Panel

from jobplatform.observe.logs import get_log

log = get_log(__name__)

#: command → what to do instead
REFUSED = {
    "add_consumer": "start a worker with -Q",
    "cancel_consumer": "jobplatform queues pause, or stop the worker",
    "pool_grow": "start another worker, or one with -c",
    "pool_shrink": "start the worker with another -c",
    "pool_restart": "restart the worker",
    "autoscale": "start or stop workers",
    "rate_limit": "jobplatform limits set",
    "time_limit": "give the kind another limit",
    "shutdown": "stop the worker's process",
    "revoke": "POST /v1/jobs/{id}/cancel",
    "revoke_by_stamped_headers": "POST /v1/jobs/{id}/cancel",
    "terminate": "POST /v1/jobs/{id}/cancel",
}


def restrict_control() -> None:
    """Let workers of this process answer inspection, and ignore commands that would change them. Idempotent."""
    for command, instead in REFUSED.items():
        if command in Panel.data:
            Panel.data[command] = _refuse(command, instead)


def _refuse(command: str, instead: str) -> Any:
    def refuse(state: Any, *_args: Any, **_options: Any) -> dict[str, str]:
        log.warning("control_command_ignored", command=command, instead=instead)
        return {"error": f"{command} is ignored by workers of the job platform: {instead}"}

    return refuse
