"""Manage schedules: put, read, preview, pause, resume, run now, delete."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from cronsim import CronSim
from sqlalchemy import Row

from jobplatform.domain.kinds import KindRegistry
from jobplatform.domain.schedules import (
    Cron,
    ScheduleDefinition,
    fill_planned,
    first_after,
    jitter_of,
    next_times,
    read_rule,
)
from jobplatform.domain.texts import null_error
from jobplatform.errors import FieldError, InvalidRequest, ScheduleNotFound, TooManySchedules
from jobplatform.ledger import schedules, server
from jobplatform.ledger.hints import HintSender
from jobplatform.ledger.ids import new_id
from jobplatform.ledger.session import Ledger
from jobplatform.usecases.fire_schedules import fire_of, next_of

#: default number of times in a preview
PREVIEW = 20


@dataclass(frozen=True)
class ScheduleView:
    """A schedule as callers see it; `values` has the fields of its definition, and more (`as_dict`)."""

    id: UUID
    values: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form of the API."""
        return {"id": str(self.id), **self.values}


def put_schedule(
    ledger: Ledger,
    kinds: KindRegistry,
    tenant_id: UUID,
    definition: ScheduleDefinition,
    *,
    by: str,
    origin: str = "person",
    most: int | None = None,
) -> ScheduleView:
    """Create or replace a schedule. Idempotent.

    Its next time is kept unless the times change: no fire is lost or doubled by a deployment that declares it
    again. `most`: maximum number of schedules per tenant. Raises `UnknownKind`, `InvalidPayload`, `InvalidRequest` and
    `TooManySchedules`.
    """
    definition.check()
    kind = kinds.get(definition.kind)
    with ledger.transaction() as connection:
        before = schedules.get_schedule(connection, tenant_id, definition.name, lock=True)
        now = before.now if before is not None else server.now(connection)
        if before is None and most is not None and schedules.count_schedules(connection, tenant_id, most) >= most:
            raise TooManySchedules(most)
        limit_keys, limit_units = kind.limits_of(_check_payload(definition, kind.parse, now))
        schedule_id = before.id if before is not None else new_id()
        anchor = definition.start_at or (before.anchor_at if before is not None else now)
        paused = (
            definition.paused if definition.paused is not None else before is not None and before.paused_at is not None
        )
        same_times = before is not None and (before.spec, before.start_at, before.end_at, before.paused_at is None) == (
            definition.spec(),
            definition.start_at,
            definition.end_at,
            not paused,
        )
        if same_times and before is not None:
            planned_at = before.next_planned_at
        else:
            planned_at = _next(definition.spec(), anchor, now, definition.start_at, definition.end_at)
        due_at = planned_at + jitter_of(str(schedule_id), planned_at, definition.jitter_seconds) if planned_at else None
        schedules.put_schedule(
            connection,
            {
                "id": schedule_id,
                "tenant_id": tenant_id,
                "name": definition.name,
                "spec": definition.spec(),
                "kind": kind.name,
                "queue": kind.queue,
                "payload": dict(definition.payload),
                "priority": definition.priority,
                "tags": list(definition.tags),
                "max_attempts": definition.max_attempts or kind.max_attempts,
                "crash_limit": kind.crash_limit,
                "lost_limit": kind.lost_limit,
                "limit_keys": list(limit_keys),
                "limit_units": list(limit_units),
                "start_within_seconds": definition.start_within_seconds,
                "jitter_seconds": definition.jitter_seconds,
                "overlap": definition.overlap,
                "missed": definition.missed,
                "catch_up": definition.catch_up,
                "start_at": definition.start_at,
                "end_at": definition.end_at,
                "anchor_at": anchor,
                "paused": paused,
                "next_planned_at": planned_at,
                "next_due_at": due_at,
                "by": by,
                "origin": origin,
            },
        )
        return _view(_found(schedules.get_schedule(connection, tenant_id, definition.name), definition.name))


def _check_payload(definition: ScheduleDefinition, parse: Any, now: datetime) -> Any:
    """Return the typed payload of a fire. Raises `InvalidPayload` or `InvalidRequest`."""
    try:
        filled = fill_planned(dict(definition.payload), now, definition.time_zone)
    except ValueError as error:
        wrong = FieldError("payload", "a format of strftime for $planned_at, like %Y-%m-%d", str(error))
        raise InvalidRequest("the schedule can't work", (wrong,)) from None
    payload = parse(filled)
    if wrong_text := null_error({"payload": dict(definition.payload), "tags": list(definition.tags)}):
        raise InvalidRequest("the schedule has a NUL character", (wrong_text,))
    return payload


def _next(
    spec: dict[str, Any], anchor: datetime, now: datetime, start_at: datetime | None, end_at: datetime | None
) -> datetime | None:
    """Return the first planned time from now on, and from the start on."""
    since = max(now, start_at - timedelta(microseconds=1)) if start_at else now
    return first_after(read_rule(spec, anchor), since, end_at)


def list_schedules(ledger: Ledger, tenant_id: UUID, *, after: str, limit: int) -> tuple[list[ScheduleView], str | None]:
    """Return a page of schedules in the order of their names, and the name to continue after."""
    with ledger.statement() as connection:
        rows = schedules.list_schedules(connection, tenant_id, after, limit + 1)
    return [_view(row) for row in rows[:limit]], rows[limit - 1].name if len(rows) > limit else None


def get_schedule(ledger: Ledger, tenant_id: UUID, name: str) -> ScheduleView:
    """Return a schedule. Raises `ScheduleNotFound`."""
    with ledger.statement() as connection:
        return _view(_found(schedules.get_schedule(connection, tenant_id, name), name))


def preview_schedule(
    ledger: Ledger, tenant_id: UUID, name: str, count: int = PREVIEW
) -> tuple[ScheduleView, list[datetime]]:
    """Return a schedule and its next planned times, as if it were not paused. Raises `ScheduleNotFound`."""
    with ledger.statement() as connection:
        row = _found(schedules.get_schedule(connection, tenant_id, name), name)
    since = max(row.now, row.start_at - timedelta(microseconds=1)) if row.start_at else row.now
    return _view(row), next_times(read_rule(row.spec, row.anchor_at), since, row.end_at, count)


def preview_definition(
    definition: ScheduleDefinition, now: datetime, count: int = PREVIEW
) -> tuple[str, list[datetime]]:
    """Return the description of a definition, and its next planned times. Raises `InvalidRequest`."""
    definition.check()
    anchor = definition.start_at or now
    since = max(now, definition.start_at - timedelta(microseconds=1)) if definition.start_at else now
    rule = read_rule(definition.spec(), anchor)
    return describe(definition.spec()), next_times(rule, since, definition.end_at, count)


def describe(spec: dict[str, Any]) -> str:
    """Return the description of a spec."""
    if "cron" in spec:
        rule = read_rule(spec, datetime.min)
        assert isinstance(rule, Cron)
        return f"{CronSim(rule.written_out, datetime.now(rule.zone)).explain()} ({spec['time_zone']})"
    if "every_seconds" in spec:
        return f"Every {timedelta(seconds=spec['every_seconds'])}"
    return f"At {len(spec['times'])} fixed times"


def pause_schedule(ledger: Ledger, tenant_id: UUID, name: str, paused: bool, *, by: str) -> ScheduleView:
    """Pause or resume. Fires planned during the pause are skipped. Raises `ScheduleNotFound`."""
    with ledger.transaction() as connection:
        row = _found(schedules.get_schedule(connection, tenant_id, name, lock=True), name)
        planned_at = row.next_planned_at
        if not paused and row.paused_at is not None:
            planned_at = _next(row.spec, row.anchor_at, row.now, row.start_at, row.end_at)
        due_at = next_of(row, planned_at)["due_at"]
        schedules.set_paused(connection, row.id, paused, planned_at, due_at, by)
        return _view(_found(schedules.get_schedule(connection, tenant_id, name), name))


def run_now(
    ledger: Ledger,
    hints: HintSender | None,
    tenant_id: UUID,
    name: str,
    *,
    by: str,
    check: Callable[[str, int], None] | None = None,
) -> UUID:
    """Fire a schedule once, in addition to its planned times, even when it is paused. Returns the job.

    `check` gets its kind and priority, and raises if the caller may not submit it. Raises `ScheduleNotFound`.
    """
    with ledger.transaction() as connection:
        row = _found(schedules.get_schedule(connection, tenant_id, name, lock=True), name)
        if check is not None:
            check(row.kind, row.priority)
        fire = fire_of(row, row.now, by)
        woken = schedules.fire_schedules(connection, [fire])
    if hints is not None:
        hints.send_all(woken)
    return UUID(fire["job_id"])


def delete_schedule(ledger: Ledger, tenant_id: UUID, name: str) -> None:
    """Delete a schedule; the jobs that it created stay. Raises `ScheduleNotFound`."""
    with ledger.transaction() as connection:
        if not schedules.delete_schedule(connection, tenant_id, name):
            raise ScheduleNotFound(name)


def list_fires(
    ledger: Ledger, tenant_id: UUID, name: str, *, before: datetime | None, limit: int
) -> Sequence[dict[str, Any]]:
    """Return the fires of a schedule, newest first. Raises `ScheduleNotFound`."""
    with ledger.statement() as connection:
        row = _found(schedules.get_schedule(connection, tenant_id, name), name)
        return [dict(fire._mapping) for fire in schedules.fires_of(connection, row.id, before, limit)]


def _found(row: Row[Any] | None, name: str) -> Row[Any]:
    if row is None:
        raise ScheduleNotFound(name)
    return row


def _view(row: Row[Any]) -> ScheduleView:
    values = {key: value for key, value in row._mapping.items() if key not in ("id", "spec", "anchor_at", "now")}
    spec = {"cron": None, "every_seconds": None, "times": [], **row.spec}
    values |= {**spec, "paused": values["paused_at"] is not None, "next_at": values.pop("next_planned_at")}
    values["last_at"] = values.pop("last_planned_at")
    return ScheduleView(row.id, values | {"in_words": describe(row.spec)})
