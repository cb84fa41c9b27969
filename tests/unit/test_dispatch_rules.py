"""Window, back-off, marks: what goes out when."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from jobplatform.dispatch.backoff import Backoff
from jobplatform.dispatch.marks import SLACK, LowWaterMarks
from jobplatform.dispatch.pace import LATEST, SOONEST, Pace
from jobplatform.domain.window import window_of


@dataclass
class Job:
    priority: int
    state_at: datetime = datetime(2026, 1, 1, tzinfo=UTC)


def test_the_window_grows_with_the_slots_but_has_a_floor() -> None:
    assert window_of(4, 4.0, 0) == 4
    assert window_of(4, 4.0, 8) == 32
    assert window_of(100, 1.5, 8) == 100


def test_backoff_doubles_to_its_cap_and_a_success_clears_it() -> None:
    now = [0.0]
    backoff = Backoff(cap_seconds=5, clock=lambda: now[0])
    assert backoff.ready("q") and not backoff.doubtful("q")
    assert [backoff.failed("q") for _ in range(5)] == [1, 2, 4, 5, 5]
    assert not backoff.ready("q") and backoff.ready("other")
    now[0] += 5
    assert backoff.ready("q") and backoff.doubtful("q"), "the next try is a careful one"
    backoff.failed("q")
    backoff.try_now()
    assert backoff.ready("q") and backoff.doubtful("q")
    backoff.succeeded("q")
    assert not backoff.doubtful("q")


def test_marks_stay_a_little_behind_and_are_forgotten() -> None:
    now = [0.0]
    marks = LowWaterMarks(reset_seconds=5, clock=lambda: now[0])
    job = Job(4)
    marks.advance("email", [job])
    assert marks.current() == {("email", 4): job.state_at - SLACK}
    assert marks.active("email") is None
    marks.note_oldest("email", job.state_at)
    assert marks.active("email") == job.state_at - SLACK
    now[0] = 5
    assert marks.current() == {} and marks.active("email") is None


def test_a_full_window_is_looked_at_when_a_quarter_of_it_is_free() -> None:
    now = [0.0]
    pace = Pace(clock=lambda: now[0])
    pace.note(active=0, sent=100)
    for _ in range(30):  # a thousand jobs end in a second
        now[0] += 0.01
        pace.note(active=90, sent=10)
    assert 0.02 < pace.seconds_until_worth_it(100) < 0.03
    assert pace.seconds_until_worth_it(4) == SOONEST
    for _ in range(30):  # nothing ends
        now[0] += 1
        pace.note(active=100, sent=0)
    assert pace.seconds_until_worth_it(100) == LATEST
