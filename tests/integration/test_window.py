"""The window: the jobs that one round of a queue picks, compared with the rule in Python."""

from __future__ import annotations

from uuid import UUID

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.ledger_harness import LedgerHarness


def choose(window: int, batch: int, out: list[int], waiting: list[int]) -> list[int]:
    """By priority, then age: dispatch a job while fewer than `window` jobs of its priority or above are in flight."""
    chosen: list[int] = []
    for priority in sorted(waiting, reverse=True):
        busy = sum(1 for other in [*out, *chosen] if other >= priority)
        if len(chosen) < batch and busy < window:
            chosen.append(priority)
    return chosen


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    window=st.integers(1, 8),
    batch=st.integers(1, 10),
    out=st.lists(st.integers(0, 9), max_size=10),
    waiting=st.lists(st.integers(0, 9), max_size=14),
)
def test_a_round_fills_the_window_by_priority(harness: LedgerHarness, window, batch, out, waiting) -> None:
    harness.do("TRUNCATE jobs, job_events, queue_counters")
    if out:
        harness.dispatch(*[harness.submit(priority=priority) for priority in out])
    ids = {harness.submit(priority=priority): priority for priority in waiting}
    expected = choose(window, batch, out, waiting)
    with harness.round(window=window, batch=batch) as (result, opened):
        assert [job.priority for job in result] == expected
        assert sum(opened.queue_state.in_flight) == len(out)
        picked = [UUID(job.id) for job in result]
    for priority in range(10):  # the oldest of each priority first
        mine = [job_id for job_id, p in ids.items() if p == priority]
        assert [job_id for job_id in picked if ids[job_id] == priority] == mine[: expected.count(priority)]


def test_a_job_that_the_broker_did_not_accept_is_unchanged(harness: LedgerHarness) -> None:
    first, second = harness.submit(), harness.submit()
    before = {job_id: harness.row(job_id) for job_id in (first, second)}
    with harness.round() as (result, opened):
        opened.take_back([job for job in result if job.id == str(first)])
    row = harness.row(first)
    assert (row.state, row.dispatch_no, row.state_at) == ("available", 0, before[first].state_at)
    assert harness.events(first) == ["submitted"]
    assert (harness.row(second).state, harness.events(second)) == ("dispatched", ["submitted", "dispatched"])
