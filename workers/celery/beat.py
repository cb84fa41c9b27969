"""Celery's beat on the ledger: `celery -A workers.app beat`. Its entries are schedules; several instances may run at
once.

The dispatcher fires schedules too: beat exists for apps that have one, and reads their `beat_schedule`.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

from celery.beat import Scheduler
from celery.schedules import crontab, schedule

from jobplatform.config import settings
from jobplatform.domain.jobs import DEFAULT_PRIORITY
from jobplatform.domain.kinds import REGISTRY, KindRegistry
from jobplatform.domain.schedules import ScheduleDefinition
from jobplatform.errors import ConfigurationError, InvalidRequest, LedgerUnavailable, OutcomeUnknown, UnknownKind
from jobplatform.ledger import keys, schedules
from jobplatform.ledger.session import Ledger
from jobplatform.observe.logs import get_log
from jobplatform.usecases.fire_schedules import fire_schedules
from jobplatform.usecases.manage_schedules import put_schedule
from workers.celery.submissions import TaskCall
from workers.celery.values import to_json
from workers.runtime.process import hints, ledger

log = get_log(__name__)

#: author of schedules that come from a beat_schedule
BEAT = "beat"
LIMIT = 500
MAX_SECONDS = 5.0
_NAME = re.compile(r"[^A-Za-z0-9._-]+")


class LedgerScheduler(Scheduler):  # type: ignore[misc]
    """Scheduler of beat. The ledger holds the schedule: no file, and nothing is lost with this process."""

    def setup_schedule(self) -> None:
        """Put the entries of `beat_schedule` into the ledger."""
        config = settings()
        entries = dict(self.app.conf.beat_schedule)
        if config.beat_schedule is not None:
            entries |= load_entries(config.beat_schedule)
        tenant = config.beat_tenant or config.celery_tenant
        if tenant is None:
            if not entries:
                return
            raise ConfigurationError("JOBPLATFORM_BEAT_TENANT: expected the tenant whose jobs the schedules make")
        self.app.finalize()  # the tasks of an existing app become kinds
        declare(ledger(), REGISTRY, tenant, entries, config.beat_time_zone or str(self.app.timezone))

    def tick(self, *_args: Any, **_kwargs: Any) -> float:
        """Fire due schedules; return the seconds until the next tick."""
        try:
            fired = fire_schedules(ledger(), limit=LIMIT, grace_seconds=settings().schedule_grace_seconds)
        except (LedgerUnavailable, OutcomeUnknown) as error:  # after a lost answer nothing is written twice
            log.warning("ledger_unavailable", error=str(error))
            return 1.0
        except Exception:  # an error in one tick must not end beat
            log.exception("schedules_not_fired")
            return MAX_SECONDS
        hints().send_all(fired.woken)
        if fired.more:
            return 0.0
        limit = min(self.max_interval or MAX_SECONDS, MAX_SECONDS)
        return limit if fired.seconds is None else min(limit, max(0.02, fired.seconds))

    def sync(self) -> None:
        """Do nothing: the ledger holds the schedule."""

    def close(self) -> None:
        """Do nothing: the ledger holds the schedule."""

    @property
    def info(self) -> str:
        """Text of beat's banner."""
        return "    . schedules -> the ledger"


def load_entries(path: str) -> dict[str, Any]:
    """Return the dictionary at `module:attribute`. Raises `ConfigurationError`."""
    module, _, name = path.partition(":")
    try:
        result = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(f"JOBPLATFORM_BEAT_SCHEDULE={path}: expected module:attribute ({error})") from None
    if not isinstance(result, Mapping):
        raise ConfigurationError(
            f"JOBPLATFORM_BEAT_SCHEDULE={path}: expected a dictionary, got {type(result).__name__}"
        )
    return dict(result)


def declare(
    book: Ledger, kinds: KindRegistry, tenant: str, entries: Mapping[str, Mapping[str, Any]], time_zone: str
) -> None:
    """Create or replace a schedule per entry, and delete schedules whose entry was removed from the beat_schedule.

    Raises `ConfigurationError`, which names unreadable entries; nothing is changed then.
    """
    definitions = [read_entry(name, entry, time_zone, kinds) for name, entry in entries.items()]
    names = [definition.name for definition in definitions]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigurationError(f"beat_schedule: two entries would both be called {twice[0]!r}: rename one")
    for name, definition in zip(entries, definitions, strict=True):
        try:
            definition.check()
            kinds.get(definition.kind).parse(definition.payload)
        except (InvalidRequest, UnknownKind) as error:
            fields = "; ".join(f"{item.field}: expected {item.expected}" for item in getattr(error, "errors", ()))
            raise ConfigurationError(f"beat_schedule[{name!r}]: {error} {fields}".rstrip()) from None
    with book.transaction() as connection:
        tenant_id: UUID = keys.find_tenant(connection, tenant) or keys.create_tenant(connection, tenant)
    for definition in definitions:
        put_schedule(book, kinds, tenant_id, definition, by=BEAT, origin=BEAT)
    with book.transaction() as connection:
        gone = schedules.delete_others(connection, tenant_id, BEAT, [definition.name for definition in definitions])
    log.info("beat_schedule_read", schedules=len(definitions), deleted=gone)


def read_entry(name: str, entry: Mapping[str, Any], time_zone: str, kinds: KindRegistry) -> ScheduleDefinition:
    """Return an entry of a `beat_schedule` as a schedule of the ledger. Raises `ConfigurationError` if it has no
    equivalent.

    The payload of a kind is its kwargs; a Celery task has both its args and its kwargs.
    """

    def wrong(what: str) -> ConfigurationError:
        return ConfigurationError(f"beat_schedule[{name!r}]: {what}")

    known = {"task", "schedule", "args", "kwargs", "options", "relative"}
    if unknown := set(entry) - known:
        raise wrong(f"expected {', '.join(sorted(known))}, got {', '.join(sorted(map(str, unknown)))}")
    if not isinstance(entry.get("task"), str):
        raise wrong(f"expected the name of a kind as task, got {entry.get('task')!r}")
    args, kwargs = list(entry.get("args") or ()), dict(entry.get("kwargs") or {})
    is_task = entry["task"] in kinds and kinds.get(entry["task"]).payload is TaskCall
    if args and not is_task:
        raise wrong("expected its payload as kwargs, got args")
    payload = {"args": to_json(args), "kwargs": to_json(kwargs)} if is_task else kwargs
    options = dict(entry.get("options") or {})
    start_within = options.pop("expires", None)
    if isinstance(start_within, timedelta):
        start_within = start_within.total_seconds()
    if start_within is not None and (isinstance(start_within, bool) or not isinstance(start_within, int | float)):
        raise wrong(
            f"options.expires: expected seconds or a timedelta, counted from each fire, got "
            f"{type(start_within).__name__}: a fixed time would expire every fire after it"
        )
    priority = options.pop("priority", None)
    if priority is not None and (isinstance(priority, bool) or not isinstance(priority, int)):
        raise wrong(f"options.priority: expected a whole number from 0 to 9, got {priority!r}")
    queue = options.pop("queue", None)
    if queue is not None and entry["task"] in kinds and queue != kinds.get(entry["task"]).queue:
        raise wrong(
            f"its queue is {kinds.get(entry['task']).queue!r}, and one for its schedule alone has no equal: {queue!r}"
        )
    if options:
        raise wrong(f"options that have no equal here: {', '.join(sorted(options))}")
    when = entry.get("schedule")
    times: dict[str, Any]
    if isinstance(when, crontab):
        days = (_field(when._orig_day_of_month), _field(when._orig_day_of_week))
        if not any(day.startswith("*") for day in days):
            raise wrong("day_of_month and day_of_week together: Celery wants both to fit, cron one of them")
        fields = (when._orig_minute, when._orig_hour, when._orig_day_of_month, when._orig_month_of_year)
        times = {"cron": " ".join(_field(item) for item in (*fields, when._orig_day_of_week))}
    elif isinstance(when, schedule):
        times = {"every_seconds": when.run_every.total_seconds()}
    elif isinstance(when, timedelta):
        times = {"every_seconds": when.total_seconds()}
    elif isinstance(when, int | float):
        times = {"every_seconds": float(when)}
    else:
        raise wrong(f"expected crontab, schedule, timedelta or seconds, got {type(when).__name__}")
    return ScheduleDefinition(
        name=_NAME.sub("-", name).strip("-.")[:100] or "schedule",
        kind=entry["task"],
        payload=payload,
        time_zone=time_zone,
        overlap="allow",  # as beat does
        missed="once",
        start_within_seconds=float(start_within) if start_within is not None else None,
        **times,
        priority=DEFAULT_PRIORITY if priority is None else int(priority),
    )


def _field(value: Any) -> str:
    """Return a field of a crontab as text: they may be numbers and sets."""
    if isinstance(value, str):
        return value.replace(" ", "")
    if isinstance(value, int):
        return str(value)
    return ",".join(str(item) for item in sorted(value))
