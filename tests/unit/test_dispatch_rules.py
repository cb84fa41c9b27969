"""Window, backoff, fair order, pace: which jobs are dispatched, and when."""

from __future__ import annotations

from datetime import UTC, datetime

from jobplatform.dispatch.backoff import Backoff
from jobplatform.dispatch.pace import LATEST, SOONEST, Pace
from jobplatform.dispatch.waiting import MOST_KEYS, Waiting, in_fair_order
from jobplatform.domain.flows import Flow, FlowId, Served, Take
from jobplatform.domain.window import slots_of, window_of
from jobplatform.ledger.dispatching import Dispatched, FlowHead

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_the_window_grows_with_the_slots_but_has_a_floor() -> None:
    assert window_of(4, 4.0, 0) == 4
    assert window_of(4, 4.0, 8) == 32
    assert window_of(100, 1.5, 8) == 100
    assert window_of(4, 4.0, 2, per_second=1000, window_seconds=0.25) == 250, "short jobs: as many as will finish soon"
    assert window_of(4, 4.0, 2, per_second=0.1, window_seconds=0.25) == 8, "long jobs: a few per slot"
    assert window_of(4, 4.0, 2, per_second=1000, window_seconds=0) == 8, "switched off"


def test_backoff_doubles_to_its_cap_and_a_success_clears_it() -> None:
    now = [0.0]
    backoff = Backoff(cap_seconds=5, clock=lambda: now[0])
    assert backoff.ready("q") and not backoff.doubtful("q")
    assert [backoff.failed("q") for _ in range(5)] == [1, 2, 4, 5, 5]
    assert not backoff.ready("q") and backoff.ready("other")
    now[0] += 5
    assert backoff.ready("q") and backoff.doubtful("q"), "the next batch has one job"
    backoff.failed("q")
    backoff.try_now()
    assert backoff.ready("q") and backoff.doubtful("q")
    backoff.succeeded("q")
    assert not backoff.doubtful("q")


def test_an_urgent_job_has_a_slot_when_less_urgent_ones_fill_the_window() -> None:
    assert slots_of([5, 0, 0, 0, 3, 0, 0, 0, 0, 0], 8, 100) == [0] + [5] * 4 + [8] * 5
    assert slots_of([0] * 10, 1000, 100) == [100] * 10


def test_with_too_many_keys_a_round_reads_all_keys_of_some_flows_and_every_flow_is_served() -> None:
    waiting = Waiting(lambda tenant: 1.0)
    for number in range(1000):
        waiting.shares.arrive(FlowId(4, f"t{number}", (f"domain:{number}", "relay:smtp")), 0.0)
    limited = lambda key: True  # noqa: E731
    seen, rounds = set(), 0
    while len(waiting.shares) and rounds < 60:
        rounds += 1
        keys = waiting.keys_to_ask(limited)
        assert "relay:smtp" in keys and len(keys) <= MOST_KEYS + 1
        takes = waiting.shares.plan([100] * 10, dict.fromkeys(keys, 100), limited)
        waiting.shares.served([(take, Served(take.jobs, None)) for take in takes])
        seen |= {take.flow.id for take in takes}
    assert len(seen) == 1000


def test_a_sweep_forgets_flows_that_another_dispatcher_has_emptied() -> None:
    now = [0.0]
    waiting = Waiting(lambda tenant: 1.0, clock=lambda: now[0])
    flows = [FlowHead(FlowId(4, tenant), 0.0) for tenant in "abcdef"]

    def read(after: FlowId | None, limit: int) -> list[FlowHead]:
        return [flow for flow in flows if after is None or flow.id > after][:limit]

    while waiting.sweep(read, 2):
        pass
    assert len(waiting.shares) == 6
    del flows[1:4]
    now[0] = 60.0
    while waiting.sweep(read, 2):
        pass
    assert [FlowId(4, tenant) in waiting.shares for tenant in "abcdef"] == [True, False, False, False, True, True]
    assert not waiting.sweep(read, 2), "not before a minute has passed"


def test_jobs_are_published_by_priority_and_then_interleaved_by_flow() -> None:
    takes = [
        Take(Flow(FlowId(p, t), None, 0.0, 9, True), jobs) for p, t, jobs in ((4, "a", 4), (4, "b", 2), (9, "c", 1))
    ]
    jobs = [
        Dispatched(flow, f"{take.flow.id.tenant}{n}", "k", take.flow.id.priority, 1, NOW)
        for flow, take in enumerate(takes)
        for n in range(take.jobs)
    ]
    assert [job.id for job in in_fair_order(takes, jobs)] == ["c0", "a0", "b0", "a1", "a2", "b1", "a3"]


def test_a_full_window_has_its_next_round_when_a_quarter_of_it_is_free() -> None:
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
