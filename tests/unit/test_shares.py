"""Fair queueing: shares follow weights, limits hold, no flow starves. An in-memory queue replaces the ledger."""

from __future__ import annotations

from collections import Counter, defaultdict, deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobplatform.domain.flows import FlowId, Served, Take
from jobplatform.domain.shares import Shares

UNLIMITED = 10**9


class QueueHarness:
    """Waiting jobs by flow, and jobs in flight; runs the rounds of a dispatcher."""

    def __init__(self, limits: dict[str, int] | None = None, weights: dict[str, float] | None = None) -> None:
        self.limits = limits or {}
        self.weights = weights or {}
        self.waiting: dict[FlowId, deque[float]] = defaultdict(deque)
        self.out: list[FlowId] = []
        self.shares = Shares(lambda tenant: self.weights.get(tenant, 1.0))
        self.clock = 0.0

    def submit(self, tenant: str, jobs: int = 1, keys: tuple[str, ...] = (), priority: int = 4, announced: bool = True):
        flow = FlowId(priority, tenant, keys)
        self.clock += 1
        self.waiting[flow] += [self.clock] * jobs
        if announced:
            self.shares.arrive(flow, self.clock, jobs)
        else:
            self.shares.arrive(flow, self.clock)

    def free(self) -> dict[str, int]:
        used = Counter(key for flow in self.out for key in flow.keys)
        return {key: limit - used[key] for key, limit in self.limits.items()}

    def round(self, window: int = 10) -> list[FlowId]:
        """Run one round; return the flows of the dispatched jobs, in order."""
        free_slots = [window - sum(flow.priority >= p for flow in self.out) for p in range(10)]
        outcomes: list[tuple[Take, Served]] = []
        sent: list[FlowId] = []
        for take in self.shares.plan(free_slots, self.free()):
            jobs = self.waiting[take.flow.id]
            got = min(take.jobs, len(jobs))
            for _ in range(got):
                jobs.popleft()
            sent += [take.flow.id] * got
            outcomes.append((take, Served(got, jobs[0] if jobs else None)))
        self.shares.served(outcomes)
        self.out += sent
        for key, left in self.free().items():
            assert left >= 0, f"the limit of {key} is exceeded"
        return sent

    def drain(self, rounds: int, window: int = 10) -> Counter[str]:
        """Run rounds and end all jobs in flight after each; return jobs per tenant."""
        result: Counter[str] = Counter()
        for _ in range(rounds):
            result.update(flow.tenant for flow in self.round(window))
            self.out.clear()
        return result


def test_a_lone_tenant_gets_all_slots_at_once() -> None:
    queue = QueueHarness()
    queue.submit("a", 100)
    assert len(queue.round(50)) == 50


def test_a_single_job_overtakes_a_million_jobs_of_another_tenant() -> None:
    queue = QueueHarness()
    queue.submit("big", 1_000_000)
    queue.drain(5)
    queue.submit("small")
    assert FlowId(4, "small") in queue.round()


def test_shares_follow_the_weights_within_five_percent_over_ten_thousand_jobs() -> None:
    queue = QueueHarness(weights={"a": 1.0, "b": 2.0, "c": 5.0, "d": 0.5})
    for tenant in "abcd":
        queue.submit(tenant, 20_000)
    result = queue.drain(1000)
    assert result.total() == 10_000
    for tenant, weight in queue.weights.items():
        assert result[tenant] == pytest.approx(10_000 * weight / 8.5, rel=0.05)


def test_many_flows_of_one_tenant_divide_its_single_share() -> None:
    queue = QueueHarness()
    for number in range(500):
        queue.submit("many", 1, (f"domain:{number}",))
    queue.submit("one", 500)
    result = queue.drain(50)
    assert result["one"] == pytest.approx(250, abs=10)


def test_no_lower_priority_overtakes_a_flow_of_which_only_the_head_is_known() -> None:
    queue = QueueHarness()
    queue.submit("a", 100, priority=9, announced=False)
    queue.submit("b", 100, priority=0)
    sent = [flow for _ in range(10) for flow in queue.round(100)]
    assert [flow.priority for flow in sent] == [9] * 100
    queue.out.clear()
    assert {flow.priority for flow in queue.round(100)} == {0}


def test_a_returning_tenant_has_saved_up_no_share() -> None:
    queue = QueueHarness()
    queue.submit("a", 10_000)
    queue.submit("b", 1)
    queue.drain(100)
    queue.submit("b", 10_000)
    result = queue.drain(10)
    assert result["a"] == pytest.approx(50, abs=2)


def test_submitting_one_job_at_a_time_gains_no_more_than_the_weight() -> None:
    queue = QueueHarness(weights={"sly": 0.1})
    queue.submit("honest", 10_000)
    result: Counter[str] = Counter()
    for _ in range(1000):
        if not queue.waiting[FlowId(4, "sly")]:
            queue.submit("sly")
        result.update(queue.drain(1, window=1))
    assert result["sly"] == pytest.approx(1000 * 0.1 / 1.1, rel=0.1)


def test_a_key_without_capacity_blocks_only_its_own_jobs() -> None:
    queue = QueueHarness({"provider:x": 2})
    queue.submit("a", 1000, ("provider:x",))
    queue.submit("a", 5)
    queue.submit("b", 5, ("provider:y",))
    sent = Counter(flow.keys for flow in queue.round(100))
    assert sent == {("provider:x",): 2, (): 5, ("provider:y",): 5}
    assert queue.shares.blocking_keys == {"provider:x": 1}
    assert queue.round(100) == []
    queue.out.remove(FlowId(4, "a", ("provider:x",)))
    assert queue.round(100) == [FlowId(4, "a", ("provider:x",))]


def test_a_blocked_flow_of_high_priority_lets_lower_priorities_pass() -> None:
    queue = QueueHarness({"k": 0})
    queue.submit("a", 5, ("k",), priority=9)
    queue.submit("b", 5, priority=0)
    assert Counter(flow.tenant for flow in queue.round()) == {"b": 5}


def test_the_capacity_of_a_key_is_shared_by_weight_too() -> None:
    queue = QueueHarness({"k": 1}, {"a": 3.0})
    for number in range(50):  # more flows do not increase its share
        queue.submit("a", 100, ("k", f"domain:{number}"))
    queue.submit("b", 5000, ("k",))
    result = queue.drain(2000, window=100)
    assert result.total() == 2000
    assert result["a"] == pytest.approx(1500, rel=0.05)


def test_a_new_flow_at_a_contended_key_gets_its_fair_share_there() -> None:
    queue = QueueHarness({"k": 1})
    queue.submit("a", 100, ("k",))
    queue.drain(10, window=5)
    queue.out = [FlowId(4, "a", ("k",))]
    queue.round()
    for tenant in "bcd":
        queue.submit(tenant, 100, ("k",))
    queue.out.clear()
    result = queue.drain(40, window=5)
    assert all(count == pytest.approx(10, abs=1) for count in result.values())


def test_removing_a_limit_releases_all_its_jobs() -> None:
    queue = QueueHarness({"k": 0})
    queue.submit("a", 5, ("k",))
    assert queue.round() == []
    queue.limits["k"] = UNLIMITED
    assert len(queue.round()) == 5
    assert not queue.shares.blocking_keys


def test_a_plan_that_was_not_carried_out_charges_no_tenant() -> None:
    queue = QueueHarness()
    queue.submit("a", 100)
    queue.submit("b", 100)
    takes = queue.shares.plan([10] * 10, {})
    queue.shares.served([(take, Served(0, take.flow.head)) for take in takes])
    result = queue.drain(5)
    assert result == {"a": 25, "b": 25}


def test_a_flow_that_another_dispatcher_has_emptied_is_forgotten() -> None:
    queue = QueueHarness()
    queue.submit("a", 10)
    queue.waiting.clear()
    assert queue.round() == []
    assert len(queue.shares) == 0 and not queue.shares.keys


def test_a_flow_that_is_always_full_does_not_starve_an_older_one_of_its_tenant() -> None:
    queue = QueueHarness()
    queue.submit("a", 100, ("model:a",))
    queue.submit("a", 1, ("model:b",))
    for _ in range(60):
        queue.round(10)
        queue.out.clear()
        queue.submit("a", 10, ("model:a",))
    assert not queue.waiting[FlowId(4, "a", ("model:b",))]


def test_a_key_blocks_nothing_once_its_last_flow_is_gone() -> None:
    queue = QueueHarness({"k": 1})
    queue.submit("a", 1, ("k",), announced=False)
    queue.round()
    assert len(queue.shares) == 0 and not queue.shares.blocking_keys
    queue.submit("b", 5, ("k",))
    queue.round()
    assert queue.shares.blocking_keys
    queue.shares.keep(set())
    assert len(queue.shares) == 0 and not queue.shares.blocking_keys


def test_a_flow_blocked_by_one_of_two_keys_does_not_block_the_other_key() -> None:
    queue = QueueHarness({"relay": 1, "domain:full": 0})
    for number in range(50):
        queue.submit(f"t{number}", 1, ("domain:full", "relay"))
    queue.submit("last", 1, ("domain:free", "relay"))
    assert [flow.tenant for flow in queue.round()] == ["last"]


def test_a_new_tenant_is_next_even_after_another_used_the_spare_capacity() -> None:
    queue = QueueHarness(weights={"a": 0.01})
    queue.submit("a", 100_000)
    queue.submit("b", 100_000, announced=False)
    queue.round(500)
    queue.out.clear()
    queue.submit("c")
    assert "c" in {flow.tenant for flow in queue.round(500)}


SUBMIT = st.tuples(
    st.just("submit"),
    st.sampled_from("abcd"),
    st.integers(1, 30),
    st.lists(st.sampled_from(["k1", "k2", "k3"]), max_size=2, unique=True).map(lambda keys: tuple(sorted(keys))),
    st.integers(0, 9),
    st.booleans(),
)
EVENT = st.one_of(
    SUBMIT,
    st.tuples(st.just("round"), st.integers(1, 20)),
    st.tuples(st.just("end"), st.integers(0, 30)),
    st.tuples(st.just("limit"), st.sampled_from(["k1", "k2", "k3"]), st.integers(0, 5)),
    st.tuples(st.just("fail"), st.integers(1, 20)),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(EVENT, max_size=60), st.dictionaries(st.sampled_from("abcd"), st.sampled_from([0.1, 1.0, 7.0])))
def test_no_limit_is_exceeded_and_every_job_is_dispatched(events: list[tuple], weights: dict[str, float]) -> None:
    queue = QueueHarness({"k1": 1, "k2": 3, "k3": 2}, weights)
    submitted = sent = 0
    for event in events:
        match event:
            case ("submit", tenant, jobs, keys, priority, announced):
                queue.submit(tenant, jobs, keys, priority, announced)
                submitted += jobs
            case ("round", window):
                free_slots = [window - sum(flow.priority >= p for flow in queue.out) for p in range(10)]
                went = queue.round(window)
                for p in {flow.priority for flow in went}:  # never more than the window, in any priority class
                    assert sum(flow.priority >= p for flow in went) <= free_slots[p]
                sent += len(went)
            case ("end", number):
                del queue.out[:number]
            case ("limit", key, limit) if limit >= Counter(k for flow in queue.out for k in flow.keys)[key]:
                queue.limits[key] = limit
            case ("fail", window):
                takes = queue.shares.plan([window] * 10, queue.free())
                queue.shares.served([(take, Served(0, take.flow.head)) for take in takes])
    queue.limits = dict.fromkeys(queue.limits, 1)
    queue.out.clear()
    for _ in range(5 * submitted + 20):
        sent += len(queue.round())
        queue.out.clear()
        if not any(queue.waiting.values()):
            break
    assert sent == submitted, "no flow starves"
    queue.round()
    assert len(queue.shares) == 0 and not queue.shares.keys and queue.shares.highest() == -1
