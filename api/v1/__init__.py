"""Version 1 of the API: one endpoint per file."""

from __future__ import annotations

from flask import Flask

from api.operations import Operation
from api.v1 import (
    cancel_job,
    cancel_workflow,
    change_job,
    delete_schedule,
    discard_job,
    download_artifact,
    explain_job,
    get_graph,
    get_job,
    get_replay,
    get_schedule,
    get_workflow,
    list_artifacts,
    list_effects,
    list_events,
    list_fires,
    list_jobs,
    list_kinds,
    list_queues,
    list_runs,
    list_schedules,
    list_workflows,
    pause_schedule,
    preview_order,
    preview_schedule,
    put_schedule,
    replay_job,
    replay_many,
    replay_workflow,
    resolve_effect,
    resume_schedule,
    run_schedule,
    submit_job,
    submit_workflow,
    upload,
)

OPERATIONS: tuple[Operation, ...] = (
    submit_job.OPERATION,
    list_jobs.OPERATION,
    get_job.OPERATION,
    cancel_job.OPERATION,
    change_job.OPERATION,
    explain_job.OPERATION,
    list_runs.OPERATION,
    list_events.OPERATION,
    list_effects.OPERATION,
    replay_job.OPERATION,
    replay_many.OPERATION,
    get_replay.OPERATION,
    discard_job.OPERATION,
    resolve_effect.OPERATION,
    submit_workflow.OPERATION,
    list_workflows.OPERATION,
    get_workflow.OPERATION,
    get_graph.OPERATION,
    cancel_workflow.OPERATION,
    replay_workflow.OPERATION,
    put_schedule.OPERATION,
    list_schedules.OPERATION,
    get_schedule.OPERATION,
    delete_schedule.OPERATION,
    pause_schedule.OPERATION,
    resume_schedule.OPERATION,
    run_schedule.OPERATION,
    list_fires.OPERATION,
    preview_schedule.OPERATION,
    preview_order.OPERATION,
    list_artifacts.OPERATION,
    upload.OPERATION,
    download_artifact.OPERATION,
    list_kinds.OPERATION,
    list_queues.OPERATION,
)


def register(app: Flask) -> None:
    """Add the routes."""
    for operation in OPERATIONS:
        app.add_url_rule(
            "/v1" + operation.path, operation.endpoint.__name__, operation.endpoint, methods=[operation.method]
        )
