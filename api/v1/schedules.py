"""Schedules: `/v1/schedules`."""

from __future__ import annotations

from datetime import UTC, datetime

from flask import Response

from api.auth import caller, tenant_id
from api.operations import operation
from api.responses import answer, read_body, read_query
from api.services import services
from api.v1.schemas.schedules import (
    FireList,
    FiresQuery,
    Preview,
    PreviewQuery,
    RunNow,
    Schedule,
    ScheduleBody,
    SchedulePage,
    SchedulesQuery,
    checked_name,
)
from jobplatform.domain.access import Scope
from jobplatform.usecases import manage_schedules


@operation(
    "PUT",
    "/schedules/<name>",
    "Create or replace a schedule",
    "schedules",
    Scope.SUBMIT,
    answer=Schedule,
    body=ScheduleBody,
    problems=(409,),
)
def put_schedule(name: str) -> Response:
    """Create or replace a schedule. Idempotent.

    It fires by a cron expression in a time zone, by an interval, or at listed times. Its next time is kept
    unless the times are changed.
    """
    has = services()
    definition = read_body(ScheduleBody, has.settings.max_body_bytes).definition(checked_name(name))
    caller().check_priority(definition.priority)
    caller().check_kinds([definition.kind])
    put = manage_schedules.put_schedule(
        has.ledger, has.kinds, tenant_id(), definition, by=caller().key_name, most=has.settings.max_schedules
    )
    return answer(put.as_dict())


@operation(
    "GET",
    "/schedules",
    "List schedules",
    "schedules",
    Scope.READ,
    answer=SchedulePage,
    query=SchedulesQuery,
)
def list_schedules() -> Response:
    """List schedules in the order of their names. Continue with `next_cursor`."""
    query = read_query(SchedulesQuery)
    schedules, cursor = manage_schedules.list_schedules(
        services().ledger, tenant_id(), after=query.cursor, limit=query.limit
    )
    return answer({"schedules": [item.as_dict() for item in schedules], "next_cursor": cursor})


@operation("GET", "/schedules/<name>", "Read a schedule", "schedules", Scope.READ, answer=Schedule, problems=(404,))
def get_schedule(name: str) -> Response:
    """Read a schedule: what it does, when it fires next, and what it fired last."""
    return answer(manage_schedules.get_schedule(services().ledger, tenant_id(), name).as_dict())


@operation("DELETE", "/schedules/<name>", "Delete a schedule", "schedules", Scope.CONTROL, status=204, problems=(404,))
def delete_schedule(name: str) -> Response:
    """Delete a schedule and its fires. The jobs that it has created stay."""
    manage_schedules.delete_schedule(services().ledger, tenant_id(), name)
    return Response(status=204)


@operation(
    "POST", "/schedules/<name>/pause", "Pause a schedule", "schedules", Scope.CONTROL, answer=Schedule, problems=(404,)
)
def pause_schedule(name: str) -> Response:
    """Pause a schedule: it does not fire until it is resumed."""
    result = manage_schedules.pause_schedule(services().ledger, tenant_id(), name, True, by=caller().key_name)
    return answer(result.as_dict())


@operation(
    "POST",
    "/schedules/<name>/resume",
    "Resume a schedule",
    "schedules",
    Scope.CONTROL,
    answer=Schedule,
    problems=(404,),
)
def resume_schedule(name: str) -> Response:
    """Resume a schedule. Fires that were planned during the pause are skipped."""
    result = manage_schedules.pause_schedule(services().ledger, tenant_id(), name, False, by=caller().key_name)
    return answer(result.as_dict())


@operation(
    "POST",
    "/schedules/<name>/run",
    "Run a schedule now",
    "schedules",
    Scope.SUBMIT,
    status=202,
    answer=RunNow,
    problems=(404,),
)
def run_schedule(name: str) -> Response:
    """Fire a schedule once, now, in addition to its planned times. Works while it is paused."""
    has, who = services(), caller()

    def check(kind: str, priority: int) -> None:
        who.check_kinds([kind])
        who.check_priority(priority)

    job_id = manage_schedules.run_now(has.ledger, has.hints, tenant_id(), name, by=who.key_name, check=check)
    return answer({"job_id": job_id}, 202, {"Location": f"/v1/jobs/{job_id}"})


@operation(
    "GET",
    "/schedules/<name>/fires",
    "List the fires of a schedule",
    "schedules",
    Scope.READ,
    answer=FireList,
    query=FiresQuery,
    problems=(404,),
)
def list_fires(name: str) -> Response:
    """List the fires of a schedule and their outcomes, newest first."""
    query = read_query(FiresQuery)
    fires = manage_schedules.list_fires(services().ledger, tenant_id(), name, before=query.before, limit=query.limit)
    return answer({"fires": fires})


@operation(
    "GET",
    "/schedules/<name>/preview",
    "Preview a schedule",
    "schedules",
    Scope.READ,
    answer=Preview,
    query=PreviewQuery,
    problems=(404,),
)
def preview_schedule(name: str) -> Response:
    """Read the next planned times of a schedule, as if it were not paused."""
    query = read_query(PreviewQuery)
    schedule, times = manage_schedules.preview_schedule(services().ledger, tenant_id(), name, query.count)
    return answer({"in_words": schedule.values["in_words"], "times": times})


@operation(
    "POST",
    "/schedules/preview",
    "Preview a new schedule",
    "schedules",
    Scope.READ,
    answer=Preview,
    body=ScheduleBody,
    query=PreviewQuery,
    logged=False,
)
def preview_definition() -> Response:
    """Preview the planned times of a schedule without creating it."""
    has = services()
    query = read_query(PreviewQuery)
    definition = read_body(ScheduleBody, has.settings.max_body_bytes).definition("preview")
    has.kinds.get(definition.kind)
    words, times = manage_schedules.preview_definition(definition, datetime.now(UTC), query.count)
    return answer({"in_words": words, "times": times})
