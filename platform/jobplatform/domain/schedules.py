"""Schedule rules: planned times, overlap, and missed fires.

Cron times are wall-clock times of a time zone. At DST changes they follow Debian's cron (cronsim): a time in the hour
that is skipped fires right after it; a time in the hour that occurs twice fires once, the first time; an expression
with `*` as its minute or hour follows elapsed time.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice, takewhile
from typing import Any, Literal, Protocol
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from jobplatform.domain.jobs import DEFAULT_PRIORITY, MAX_PRIORITY
from jobplatform.errors import FieldError, InvalidRequest

#: overlap policy: what happens if the job of the previous fire has not ended
Overlap = Literal["skip", "queue", "cancel", "allow"]
OVERLAPS = ("skip", "queue", "cancel", "allow")
#: missed-fire policy: what happens to fires older than the grace (no dispatcher was running, for instance)
Missed = Literal["skip", "once", "catch_up"]
MISSED = ("skip", "once", "catch_up")
OUTCOMES = ("fired", "queued", "skipped", "missed")

MAX_CATCH_UP = 1000
#: fires per schedule and poll
MAX_FIRES = 100
#: what makes strftime give more than it is given: %99999d
_WIDTH = re.compile(r"%[-_0^#]*[0-9]")
PLANNED_AT = "$planned_at"


class Rule(Protocol):
    """A rule for planned times."""

    def after(self, moment: datetime) -> Iterator[datetime]:
        """Yield the planned times after a moment, in order, in UTC."""
        ...

    def before(self, moment: datetime) -> Iterator[datetime]:
        """Yield the planned times up to a moment, newest first, in UTC."""
        ...


#: the macros of crontab(5); `@reboot` is none of a schedule
MACROS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


@dataclass(frozen=True)
class Cron:
    """Five fields, or six with seconds first, or a macro like `@daily`, in a time zone."""

    expression: str
    zone: ZoneInfo

    def __post_init__(self) -> None:
        CronSim(self.written_out, datetime.now(self.zone))

    def after(self, moment: datetime) -> Iterator[datetime]:
        """See `Rule`."""
        try:
            for result in CronSim(self._five, (moment - self._second).astimezone(self.zone)):
                planned = result.astimezone(UTC) + self._second
                if planned > moment:  # in the hour that occurs twice, start at its first occurrence
                    yield planned
        except (OverflowError, ValueError):  # no times after the year 9999
            return

    def before(self, moment: datetime) -> Iterator[datetime]:
        """See `Rule`."""
        since = moment - self._second + timedelta(seconds=1)  # a time planned for exactly this moment counts
        for result in CronSim(self._five, since.astimezone(self.zone), reverse=True):
            planned = result.astimezone(UTC) + self._second
            if planned <= moment:
                yield planned

    @property
    def _second(self) -> timedelta:
        """A fixed second is added to the other five fields, whose rules hold then; else zero."""
        fields = self.written_out.split()
        return timedelta(seconds=int(fields[0])) if len(fields) == 6 and fields[0].isdecimal() else timedelta(0)

    @property
    def _five(self) -> str:
        fields = self.written_out.split()
        return " ".join(fields[1:]) if len(fields) == 6 and fields[0].isdecimal() else self.written_out

    @property
    def written_out(self) -> str:
        """The expression, or what a macro stands for."""
        return MACROS.get(self.expression.strip().lower(), self.expression)


@dataclass(frozen=True)
class Interval:
    """A fixed number of seconds of elapsed time, counted from an anchor."""

    seconds: float
    anchor: datetime

    def after(self, moment: datetime) -> Iterator[datetime]:
        """See `Rule`."""
        number = max(self._number(moment) + 1, 0)
        try:
            while True:
                yield self._at(number)
                number += 1
        except OverflowError:  # no times after the year 9999
            return

    def before(self, moment: datetime) -> Iterator[datetime]:
        """See `Rule`."""
        for number in range(self._number(moment), -1, -1):
            yield self._at(number)

    @property
    def _step(self) -> timedelta:
        """Whole microseconds: with smaller fractions a recorded time would not be computed again exactly."""
        return timedelta(microseconds=round(self.seconds * 1e6))

    def _number(self, moment: datetime) -> int:
        return (moment - self.anchor) // self._step

    def _at(self, number: int) -> datetime:
        return (self.anchor + number * self._step).astimezone(UTC)


@dataclass(frozen=True)
class Times:
    """A list of moments."""

    moments: tuple[datetime, ...]

    def after(self, moment: datetime) -> Iterator[datetime]:
        """See `Rule`."""
        yield from (item for item in self.moments if item > moment)

    def before(self, moment: datetime) -> Iterator[datetime]:
        """See `Rule`."""
        yield from (item for item in reversed(self.moments) if item <= moment)


@dataclass(frozen=True)
class ScheduleDefinition:
    """Definition of a schedule. Exactly one of `cron`, `every_seconds` and `times`."""

    name: str
    kind: str
    payload: Mapping[str, Any]
    cron: str | None = None
    every_seconds: float | None = None
    times: tuple[datetime, ...] = ()
    time_zone: str = "UTC"
    start_at: datetime | None = None
    end_at: datetime | None = None
    jitter_seconds: float = 0.0
    overlap: Overlap = "skip"
    missed: Missed = "once"
    catch_up: int = 1
    #: None: as it is
    paused: bool | None = None
    priority: int = DEFAULT_PRIORITY
    tags: tuple[str, ...] = field(default_factory=tuple)
    max_attempts: int | None = None
    #: a job expires if no run has started this long after its planned time (s)
    start_within_seconds: float | None = None

    def spec(self) -> dict[str, Any]:
        """Return the fields that determine its times, in the ledger's form."""
        result: dict[str, Any] = {"time_zone": self.time_zone}
        if self.cron is not None:
            result["cron"] = self.cron
        elif self.every_seconds is not None:
            result["every_seconds"] = self.every_seconds
        else:
            result["times"] = [time.astimezone(UTC).isoformat() for time in sorted(self.times)]
        return result

    def check(self) -> None:
        """Raise `InvalidRequest` naming every field that can't work."""
        wrong = []
        forms = [self.cron is not None, self.every_seconds is not None, bool(self.times)]
        if sum(forms) != 1:
            wrong.append(FieldError("body", "exactly one of cron, every_seconds and times"))
        zone = None
        try:
            zone = ZoneInfo(self.time_zone)
        except (ValueError, OSError, KeyError):
            wrong.append(FieldError("time_zone", "a name of the IANA database, like Europe/Berlin", self.time_zone))
        if self.cron is not None and zone is not None:
            try:
                Cron(self.cron, zone)
            except CronSimError as error:
                what = f"five fields (minute hour day month weekday), six with seconds first, or {', '.join(MACROS)}"
                wrong.append(FieldError("cron", f"{what}: {error}", self.cron))
        for name, value, low, high in (
            ("priority", self.priority, 0, MAX_PRIORITY),
            ("catch_up", self.catch_up, 1, MAX_CATCH_UP),
            ("max_attempts", self.max_attempts or 1, 1, 100),
        ):
            if not low <= value <= high:
                wrong.append(FieldError(name, f"a number from {low} to {high}", str(value)))
        if self.missed == "catch_up" and self.catch_up > 1 and self.overlap in ("skip", "cancel"):
            what = "allow or queue: with catch_up several fires come at once"
            wrong.append(FieldError("overlap", what, self.overlap))
        if self.start_at and self.end_at and self.end_at <= self.start_at:
            wrong.append(FieldError("end_at", "a time after start_at", self.end_at.isoformat()))
        if self.every_seconds is not None and not self.every_seconds >= 0.1:
            wrong.append(FieldError("every_seconds", "at least 0.1", str(self.every_seconds)))
        if self.every_seconds is not None and self.jitter_seconds > self.every_seconds:
            wrong.append(FieldError("jitter_seconds", "at most every_seconds", str(self.jitter_seconds)))
        if wrong:
            raise InvalidRequest("the schedule can't work", tuple(wrong))


def read_rule(spec: Mapping[str, Any], anchor: datetime) -> Rule:
    """Return the rule of a spec (`ScheduleDefinition.spec`); `anchor`: origin of intervals."""
    if "cron" in spec:
        return Cron(spec["cron"], ZoneInfo(spec["time_zone"]))
    if "every_seconds" in spec:
        return Interval(float(spec["every_seconds"]), anchor)
    return Times(tuple(datetime.fromisoformat(item) for item in spec["times"]))


def first_after(rule: Rule, moment: datetime, end_at: datetime | None) -> datetime | None:
    """Return the next planned time after a moment; None if there is none."""
    result = next(rule.after(moment), None)
    return result if result is not None and (end_at is None or result <= end_at) else None


def next_times(rule: Rule, moment: datetime, end_at: datetime | None, count: int) -> list[datetime]:
    """Return up to `count` planned times after a moment."""
    return list(islice(takewhile(lambda item: end_at is None or item <= end_at, rule.after(moment)), count))


def jitter_of(schedule_id: str, planned_at: datetime, jitter_seconds: float) -> timedelta:
    """Return the jitter of a fire: deterministic, so that every process computes the same."""
    if not jitter_seconds:
        return timedelta(0)
    digest = hashlib.sha256(f"{schedule_id} {planned_at.timestamp()}".encode()).digest()
    return timedelta(seconds=jitter_seconds * int.from_bytes(digest[:8]) / 2**64)


@dataclass(frozen=True)
class Fires:
    """The fires of a schedule that are due."""

    #: planned times to fire, in order
    at: list[datetime]
    #: the first and the last planned time that were skipped; None if none were
    missed: tuple[datetime, datetime] | None
    next_at: datetime | None


def fires_until(
    rule: Rule,
    first: datetime,
    now: datetime,
    *,
    end_at: datetime | None,
    missed: str,
    catch_up: int,
    grace_seconds: float,
    is_due: Callable[[datetime], bool] = lambda _: True,
    most: int = MAX_FIRES,
) -> Fires:
    """Return the due fires of a schedule whose next planned time, `first`, has passed; at most `most`.

    Times older than the grace are missed: skipped, fired once, or the newest `catch_up` of them fired. The
    rest, and fires that are not due yet by their jitter, follow with the next poll.
    """
    until = now if end_at is None else min(now, end_at)
    late = now - timedelta(seconds=grace_seconds)
    tick = timedelta(microseconds=1)
    old: list[datetime] = []
    given_up: tuple[datetime, datetime] | None = None
    if first < late:
        wanted = {"skip": 0, "once": 1, "catch_up": catch_up}[missed]
        if missed == "once" and next(rule.after(max(first, late) - tick), now + tick) <= until:
            wanted = 0  # one that is on time makes up for it
        for planned in rule.before(min(until, late - tick)):
            if planned < first:
                break
            if len(old) == wanted:
                given_up = (first, planned)
                break
            old.append(planned)
        old.reverse()
        if len(old) > most:
            return Fires(old[:most], given_up, old[most])
    fires = old
    following: datetime | None = None
    for planned in rule.after(max(first, late) - tick):
        if planned > until or not is_due(planned) or len(fires) >= most:
            following = planned
            break
        fires.append(planned)
    if following is not None and end_at is not None and following > end_at:
        following = None
    return Fires(fires, given_up, following)


def fill_planned(payload: Any, planned_at: datetime, time_zone: str) -> Any:
    """Return a payload with its planned time: `{"$planned_at": ""}` is RFC 3339, else a format like `%Y-%m-%d`."""
    if isinstance(payload, Mapping):
        if len(payload) == 1 and isinstance(payload.get(PLANNED_AT), str):
            local = planned_at.astimezone(ZoneInfo(time_zone))
            form = payload[PLANNED_AT]
            if len(form) > 100 or _WIDTH.search(form):
                raise ValueError(f"at most 100 characters, and no widths: {form[:40]!r}")
            return local.strftime(form) if form else local.isoformat()
        return {key: fill_planned(inner, planned_at, time_zone) for key, inner in payload.items()}
    if isinstance(payload, list):
        return [fill_planned(inner, planned_at, time_zone) for inner in payload]
    return payload
