"""Window, back-off, marks: what goes out when."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from jobplatform.dispatch.backoff import Backoff
from jobplatform.dispatch.marks import SLACK, LowWaterMarks
from jobplatform.dispatch.window import choose, free_places, window_of

ACTIVE = st.dictionaries(st.integers(0, 9), st.integers(0, 50))


@dataclass
class Job:
    priority: int
    state_at: datetime = datetime(2026, 1, 1, tzinfo=UTC)


@given(st.integers(1, 100), ACTIVE, st.integers(1, 500), st.lists(st.integers(0, 9), max_size=200))
def test_never_more_than_a_window_of_any_class(window, active, batch, waiting) -> None:
    free = free_places(window, active, batch)
    picked, taken = [], dict.fromkeys(range(10), 0)
    for priority in sorted(waiting, reverse=True):
        if taken[priority] < free[priority]:
            taken[priority] += 1
            picked.append(Job(priority))
    chosen = choose(picked, free, batch)
    assert len(chosen) <= batch
    for priority in {job.priority for job in chosen}:
        # what goes out at a priority finds a place in a window that only its equals and betters fill
        out = sum(count for p, count in active.items() if p >= priority)
        assert out + sum(job.priority >= priority for job in chosen) <= window


@given(st.integers(1, 20), st.integers(0, 8))
def test_an_urgent_job_goes_out_when_the_window_is_full_of_lesser_ones(window, lesser) -> None:
    free = free_places(window, {lesser: window}, 100)
    assert free[lesser] == 0 and free[9] == window
    assert len(choose([Job(9), Job(lesser)], free, 100)) == 1


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
    now[0] = 5
    assert marks.current() == {}
