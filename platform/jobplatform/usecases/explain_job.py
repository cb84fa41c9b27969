"""Explain the state of a job: everything that keeps it from running, in order, and its time in each state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row

from jobplatform.config import QueueSettings, Settings
from jobplatform.domain.states import SETTLED, State
from jobplatform.domain.window import window_of
from jobplatform.errors import JobNotFound
from jobplatform.ledger import dispatching, explaining, jobs, limits, workflows
from jobplatform.ledger.session import Ledger

#: a dispatcher counts as down after so many missed heartbeats
DISPATCHER_HEARTBEATS = 3


@dataclass(frozen=True)
class Reason:
    """One reason for the state of a job. `code` is stable; `remedy` says what to do, if anything."""

    code: str
    message: str
    remedy: str = ""


@dataclass(frozen=True)
class Explanation:
    """Response of `GET /v1/jobs/{id}/explain`; times in seconds."""

    job_id: UUID
    state: State
    reasons: list[Reason]
    #: state → seconds spent in it so far, in the order in which they were first entered
    seconds_in: dict[str, float]
    #: what happened, as in the job's history
    history: list[dict[str, Any]]

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form of the API."""
        return asdict(self) | {"job_id": str(self.job_id), "state": self.state.value}


def explain_job(ledger: Ledger, settings: Settings, tenant_id: UUID, job_id: UUID) -> Explanation:
    """Explain a job in any state. Raises `JobNotFound`."""
    with ledger.statement() as connection:
        job = jobs.get_job(connection, tenant_id, job_id)
        if job is None:
            raise JobNotFound(job_id)
        events = explaining.events_of(connection, job_id)
        standing = explaining.standing_of(connection, tenant_id, job_id)
        if standing is None:
            reasons, now = [_why_it_ended(job.state, job.error, events)], job.completed_at
        else:
            reasons, now = list(_reasons(connection, settings, standing, events)), standing.now
    state = job.state if standing is None else State(standing.state)
    return Explanation(job_id, state, reasons, _seconds_in(events, now), [dict(row._mapping) for row in events])


def _reasons(connection: Connection, config: Settings, job: Row[Any], events: Sequence[Row[Any]]) -> Iterator[Reason]:
    state = State(job.state)
    if state is State.RUNNING:
        yield Reason("running", f"run {job.run_no} goes on since {_time(job.run_started_at)} on {job.worker}")
        silence = (job.now - job.worker_heartbeat_at).total_seconds() if job.worker_heartbeat_at else None
        if silence is None or silence > 2 * config.heartbeat_seconds:
            said = (
                f"its worker has not beaten for {silence:.0f} s" if silence is not None else "its worker is not known"
            )
            yield Reason("worker_silent", f"{said}: it is given up after {config.lease_seconds:.0f} s")
        if job.cancel_requested_at:
            yield Reason("cancel_requested", f"cancelled {_by(events, 'cancel_requested')}: it is killed after a grace")
        return
    if state in SETTLED or state is State.HELD:
        yield _why_it_ended(state, job.error, events)
        return
    if job.paused_at is not None:
        until = f"until {_time(job.paused_until)}" if job.paused_until else "until it is resumed"
        remedy = f"jobplatform queues resume {job.queue}"
        yield Reason("paused", f"queue {job.queue} is paused since {_time(job.paused_at)}, {until}", remedy)
    if state is State.SCHEDULED:
        why = f"attempt {job.attempt} of {job.max_attempts} failed" if job.run_no and job.error else "ordered for then"
        if events and events[-1].event == "limited":
            why = "a limit key had no units for it"
        yield Reason("scheduled", f"waits until {_time(job.run_at)} ({why})", "PATCH run_at, to run it at once")
        yield from _limits(connection, job)
        return
    if state is State.BLOCKED:
        if job.workflow_id is not None:
            yield from _waited_for(connection, job.id)
        else:
            remedy = "a dispatcher that knows its kind has to run (JOBPLATFORM_KIND_MODULES)"
            yield Reason("unchecked", "its payload is looked at first: it was ordered in a transaction", remedy)
        return
    workers = explaining.workers_of(connection, job, config.lease_seconds)
    slots = sum(worker.slots for worker in workers)
    out = explaining.in_flight_of(connection, job)
    if state is State.DISPATCHED:
        yield Reason(
            "in_rabbitmq",
            f"its message (dispatch {job.dispatch_no}) is in RabbitMQ since {_time(job.dispatched_at)}: "
            f"{out.running} jobs of queue {job.queue} run, {out.dispatched} are dispatched, {slots} slots",
        )
    else:
        yield from _window(connection, config, job, out, slots)
        yield from _limits(connection, job)
    if not workers:
        remedy = f"celery -A workers.app worker -Q {job.queue} …"
        yield Reason("no_worker", f"no live worker consumes queue {job.queue}", remedy)
    elif not any(worker.knows_kind for worker in workers):
        nodes = ", ".join(worker.node for worker in workers)
        yield Reason("kind_unknown", f"no live worker of queue {job.queue} knows kind {job.kind}: {nodes}", "deploy it")
    yield from _broker(connection, config)


def _waited_for(connection: Connection, job_id: UUID) -> Iterator[Reason]:
    result = workflows.waited_for(connection, job_id)
    if not result:
        yield Reason("blocked", "its workflow stops, or takes it up in this moment")
    for item in result:
        what = (
            f"job {item.id}, {item.job_state or item.state}" if item.type == "job" else f"a {item.type}, {item.state}"
        )
        remedy = "replay or discard it" if item.job_state == State.DEAD else ""
        yield Reason("blocked", f"waits for step {item.name} of its workflow ({what})", remedy)


def _window(connection: Connection, config: Settings, job: Row[Any], out: Row[Any], slots: int) -> Iterator[Reason]:
    ahead = explaining.ahead_of(connection, job)
    yield Reason(
        "waiting",
        f"ahead of it in queue {job.queue}: {_capped(ahead.above)} of higher priority, {_capped(ahead.own)} of its own "
        f"tenant and priority {job.priority}; tenants take turns",
    )
    queue = config.queues.get(job.queue, QueueSettings())
    window = window_of(queue.window_min, queue.window_factor, slots)
    if out.of_this_class >= window:
        yield Reason(
            "window_full",
            f"the window of queue {job.queue} is full: {out.of_this_class} jobs of priority {job.priority} or higher "
            f"are in flight; at most {window} may be, or as many as the queue finishes in {queue.window_seconds:g} s",
        )


def _limits(connection: Connection, job: Row[Any]) -> Iterator[Reason]:
    for position, key in enumerate(limits.capacity_of(connection, job)):
        units = job.limit_units[position] if position < len(job.limit_units) else 1
        if key.paused_until is not None:
            yield Reason(
                "key_paused",
                f"limit key {key.key} is paused until {_time(key.paused_until)}, by a run or an operator",
                f"jobplatform limits resume {key.key}",
            )
        if key.max_concurrent is not None and key.out >= key.max_concurrent:
            yield Reason(
                "key_full",
                f"limit key {key.key} has no free slot: at most {key.max_concurrent} jobs of all tenants are in flight",
                "jobplatform limits list",
            )
        if key.units_left is not None and key.units_left < units + key.units_reserved:
            reserved = f" ({key.units_reserved:g} reserved for a job before it)" if key.units_reserved else ""
            yield Reason(
                "key_without_units",
                f"limit key {key.key} has {max(0.0, key.units_left):.1f} units left{reserved}, this job takes {units}; "
                f"it gets {key.rate_units:g} in {key.rate_seconds:g} s",
                "jobplatform limits list",
            )


def _capped(jobs: int) -> str:
    return f"{jobs:,}{' or more' if jobs >= explaining.AHEAD_CAP else ''} jobs"


def _broker(connection: Connection, config: Settings) -> Iterator[Reason]:
    dispatchers = dispatching.live_dispatchers(connection, DISPATCHER_HEARTBEATS * config.heartbeat_seconds)
    if not dispatchers:
        yield Reason("no_dispatcher", "no dispatcher is alive", "jobplatform dispatch")
    elif all(dispatcher.broker_error for dispatcher in dispatchers):
        since, error = dispatchers[0].broker_error_at, dispatchers[0].broker_error
        yield Reason("broker_down", f"RabbitMQ can't be used since {_time(since)}: {error}")


def _why_it_ended(state: State, error: Any, events: Sequence[Row[Any]]) -> Reason:
    message = (error or {}).get("message", "")
    if state is State.DEAD:
        return Reason("dead", f"it needs an operator: {message}", "replay or discard it")
    if state is State.HELD:
        return Reason("held", f"it needs an operator: {message}", "resolve its effects")
    if state is State.CANCELLED:
        return Reason("cancelled", f"cancelled {_by(events, 'cancelled', 'cancel_requested')}", "replay it")
    if state is State.EXPIRED:
        return Reason("expired", "its start_by passed before a run began", "replay it")
    if state is State.DISCARDED:
        return Reason("discarded", f"discarded {_by(events, 'discarded')}")
    return Reason("succeeded", "it has succeeded")


def _by(events: Sequence[Row[Any]], *names: str) -> str:
    for row in reversed(events):
        if row.event in names and row.data:
            who, why = row.data.get("by"), row.data.get("reason")
            if who or why:
                return f"by {who or 'the platform'} at {_time(row.at)}" + (f": {why}" if why else "")
    return ""


def _seconds_in(events: Sequence[Row[Any]], now: datetime | None) -> dict[str, float]:
    seconds: dict[str, float] = {}
    for row, after in zip(events, [*events[1:], None], strict=True):
        end = after.at if after is not None else now
        if end is not None:
            seconds[row.state] = round(seconds.get(row.state, 0.0) + max(0.0, (end - row.at).total_seconds()), 6)
    return seconds


def _time(moment: datetime | None) -> str:
    return moment.isoformat(timespec="seconds") if moment is not None else "an unknown time"
