"""Planned times of schedules: time zones and DST, intervals, missed fires, jitter, payloads."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobplatform.domain.schedules import (
    Cron,
    Interval,
    ScheduleDefinition,
    Times,
    fill_planned,
    fires_until,
    jitter_of,
    next_times,
)
from jobplatform.errors import InvalidRequest

BERLIN = ZoneInfo("Europe/Berlin")


def local(rule: Cron, since: datetime, count: int) -> list[str]:
    return [time.astimezone(rule.zone).strftime("%d %H:%M %z") for time in next_times(rule, since, None, count)]


def test_a_time_in_the_hour_that_dst_skips_fires_once_right_after_it() -> None:
    rule = Cron("30 2 * * *", BERLIN)
    assert local(rule, datetime(2026, 3, 28, 3, tzinfo=BERLIN), 2) == ["29 03:00 +0200", "30 02:30 +0200"]


def test_a_time_in_the_hour_that_dst_repeats_fires_once() -> None:
    rule = Cron("30 2 * * *", BERLIN)
    assert local(rule, datetime(2026, 10, 24, 3, tzinfo=BERLIN), 2) == ["25 02:30 +0200", "26 02:30 +0100"]


def test_rules_by_the_minute_or_hour_follow_elapsed_time_across_dst() -> None:
    rule = Cron("*/30 * * * *", BERLIN)
    result = next_times(rule, datetime(2026, 10, 25, 0, tzinfo=BERLIN), None, 12)
    assert {later - sooner for sooner, later in pairwise(result)} == {timedelta(minutes=30)}
    hourly = next_times(Cron("0 * * * *", BERLIN), datetime(2026, 3, 29, 0, tzinfo=BERLIN), None, 5)
    assert {later - sooner for sooner, later in pairwise(hourly)} == {timedelta(hours=1)}


def test_seconds_are_a_leading_sixth_field() -> None:
    result = next_times(Cron("*/20 * * * * *", ZoneInfo("UTC")), datetime(2026, 1, 1, tzinfo=UTC), None, 3)
    assert [item.second for item in result] == [20, 40, 0]


@pytest.mark.parametrize(
    "rule",
    [
        Cron("*/7 3,4 * * mon-fri", BERLIN),
        Cron("0 2 * * *", BERLIN),
        Cron("30 1-3 * 3,10 sun", BERLIN),
        Cron("*/15 * 25 10 *", BERLIN),
        Cron("20 30 2 * * *", BERLIN),
        Interval(2.2, datetime(2026, 1, 1, tzinfo=UTC)),
        Interval(100 / 3, datetime(2026, 1, 1, tzinfo=UTC)),
        Interval(90, datetime(2026, 1, 1, tzinfo=UTC)),
        Times(tuple(datetime(2026, 10, day, tzinfo=UTC) for day in range(1, 29))),
    ],
)
@given(minutes=st.integers(0, 60 * 24 * 330))
def test_searching_backwards_finds_the_same_times_as_searching_forwards(rule, minutes: int) -> None:
    since = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes)
    ahead = next_times(rule, since, None, 5)
    if not ahead:
        return
    back = []
    for item in rule.before(ahead[-1]):
        if item <= since:
            break
        back.append(item)
    assert back[::-1] == ahead


def test_a_fixed_second_keeps_the_dst_rules_of_the_other_five_fields() -> None:
    rule = Cron("15 30 2 * * *", BERLIN)
    assert local(rule, datetime(2026, 10, 24, 3, tzinfo=BERLIN), 2) == ["25 02:30 +0200", "26 02:30 +0100"]
    assert local(rule, datetime(2026, 3, 28, 3, tzinfo=BERLIN), 1) == ["29 03:00 +0200"]


@pytest.mark.parametrize("seconds", [2.2, 1.1, 100 / 3, 3600 / 7, 90.1])
def test_no_interval_plans_the_same_time_twice(seconds: float) -> None:
    rule = Interval(seconds, DAY)
    at = DAY
    for _ in range(200):
        following = next(rule.after(at))
        assert following > at and next(rule.before(following)) == following
        at = following


def test_late_polls_miss_no_time_of_the_hour_that_dst_repeats() -> None:
    """Polls from 02:00 summer time to 02:00 winter time, up to several minutes apart."""
    rule = Cron("*/5 * * * *", BERLIN)
    first = datetime(2026, 10, 25, 0, 0, tzinfo=UTC)
    fired: list[datetime] = []
    now, planned = first, first
    for minutes in (3, 1, 7, 2, 11, 4) * 6:
        now += timedelta(minutes=minutes)
        if planned > now:
            continue
        result = fires_until(rule, planned, now, end_at=None, missed="once", catch_up=1, grace_seconds=3600)
        fired += result.at
        assert result.next_at is not None and result.next_at > now
        planned = result.next_at
    assert fired == [first + timedelta(minutes=5 * n) for n in range(len(fired))] and len(fired) > 30


def test_jitter_longer_than_the_interval_loses_no_fire() -> None:
    rule = Cron("* * * * *", ZoneInfo("UTC"))
    fired: list[datetime] = []
    planned = DAY
    for minute in range(600):
        now = DAY + timedelta(minutes=minute)
        due_by = lambda item, now=now: item + jitter_of("a", item, 3600) <= now  # noqa: E731
        if not due_by(planned):
            continue
        result = fires_until(
            rule, planned, now, end_at=None, missed="once", catch_up=1, grace_seconds=3660, is_due=due_by
        )
        fired += result.at
        assert result.next_at is not None
        planned = result.next_at
    assert fired == [DAY + timedelta(minutes=n) for n in range(len(fired))] and len(fired) > 500


def due(missed: str, first: datetime, now: datetime, catch_up: int = 3, **more):
    return fires_until(
        Cron("0 * * * *", ZoneInfo("UTC")),
        first,
        now,
        end_at=more.pop("end_at", None),
        missed=missed,
        catch_up=catch_up,
        grace_seconds=60,
        **more,
    )


DAY = datetime(2026, 5, 1, tzinfo=UTC)


def hours(*values: int) -> list[datetime]:
    return [DAY + timedelta(hours=value) for value in values]


def test_a_fire_on_time_does_not_depend_on_the_policy_for_missed_fires() -> None:
    for missed in ("skip", "once", "catch_up"):
        result = due(missed, DAY, DAY + timedelta(seconds=2))
        assert (result.at, result.missed, result.next_at) == ([DAY], None, hours(1)[0])


def test_missed_fires_are_skipped_or_made_up_once_or_up_to_a_maximum() -> None:
    now = DAY + timedelta(hours=9, minutes=30)
    skip, once, some = (due(missed, DAY, now) for missed in ("skip", "once", "catch_up"))
    assert (skip.at, skip.missed, skip.next_at) == ([], (DAY, hours(9)[0]), hours(10)[0])
    assert (once.at, once.missed, once.next_at) == (hours(9), (DAY, hours(8)[0]), hours(10)[0])
    assert (some.at, some.missed, some.next_at) == (hours(7, 8, 9), (DAY, hours(6)[0]), hours(10)[0])


def test_once_fires_once_even_if_the_last_fire_is_on_time() -> None:
    now = DAY + timedelta(hours=9, seconds=5)
    assert due("once", DAY, now).at == hours(9)
    assert due("catch_up", DAY, now, catch_up=2).at == hours(7, 8, 9)
    assert due("skip", DAY, now).at == hours(9)


def test_nothing_is_planned_after_the_end() -> None:
    result = due("catch_up", DAY, DAY + timedelta(hours=9), end_at=DAY + timedelta(hours=2))
    assert (result.at, result.next_at) == (hours(0, 1, 2), None)


def test_a_year_of_missed_seconds_costs_nothing() -> None:
    rule = Cron("* * * * * *", ZoneInfo("UTC"))
    result = fires_until(rule, DAY, DAY + timedelta(days=365), end_at=None, missed="once", catch_up=1, grace_seconds=60)
    assert len(result.at) == 61 and result.next_at == DAY + timedelta(days=365, seconds=1)


def test_jitter_is_deterministic_and_within_its_bound() -> None:
    result = {jitter_of("a", DAY + timedelta(hours=n), 10) for n in range(50)}
    assert len(result) == 50 and max(result) < timedelta(seconds=10)
    assert jitter_of("a", DAY, 10) == jitter_of("a", DAY, 10) != jitter_of("b", DAY, 10)
    assert jitter_of("a", DAY, 0) == timedelta(0)


def test_the_planned_time_goes_into_the_payload() -> None:
    payload = {"day": {"$planned_at": "%Y-%m-%d"}, "at": [{"$planned_at": ""}], "else": {"$planned_at": 1}}
    result = fill_planned(payload, datetime(2026, 5, 1, 22, 30, tzinfo=UTC), "Europe/Berlin")
    assert result == {"day": "2026-05-02", "at": ["2026-05-02T00:30:00+02:00"], "else": {"$planned_at": 1}}


@pytest.mark.parametrize("form", ["%9999999d", "%_5H", "x" * 101])
def test_a_time_format_that_is_long_or_has_widths_is_refused(form: str) -> None:
    with pytest.raises(ValueError, match="widths"):
        fill_planned({"$planned_at": form}, DAY, "UTC")


@pytest.mark.parametrize(
    ("definition", "field"),
    [
        ({}, "body"),
        ({"cron": "* * * * *", "every_seconds": 5}, "body"),
        ({"cron": "61 * * * *"}, "cron"),
        ({"cron": "often"}, "cron"),
        ({"cron": "* * * * *", "time_zone": "Mars/Olympus"}, "time_zone"),
        ({"every_seconds": 5, "jitter_seconds": 6}, "jitter_seconds"),
        ({"every_seconds": 5, "priority": 10}, "priority"),
        ({"every_seconds": 5, "missed": "catch_up", "catch_up": 5}, "overlap"),
        ({"cron": "* * * * *", "start_at": DAY, "end_at": DAY}, "end_at"),
    ],
)
def test_an_invalid_definition_names_the_field(definition, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        ScheduleDefinition("s", "k", {}, **definition).check()
    assert field in {item.field for item in caught.value.errors}
