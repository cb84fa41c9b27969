"""Who is next: shares by weight, limits kept, nobody starved; a ledger of numbers stands for the real one."""

from __future__ import annotations

from collections import Counter, defaultdict, deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobplatform.domain.flows import FlowId, Served, Take
from jobplatform.domain.shares import Shares

UNLIMITED = 10**9


class Hall:
    """Jobs that wait, by flow, and those that are out; plays the rounds of a dispatcher."""

    def __init__(self, limits: dict[str, int] | None = None, weights: dict[str, float] | None = None) -> None:
        self.limits = limits or {}
        self.weights = weights or {}
        self.waiting: dict[FlowId, deque[float]] = defaultdict(deque)
        self.out: list[FlowId] = []
        self.shares = Shares(lambda tenant: self.weights.get(tenant, 1.0))
        self.clock = 0.0

    def submit(self, tenant: str, jobs: int = 1, keys: tuple[str, ...] = (), priority: int = 4, told: bool = True):
        flow = FlowId(priority, tenant, keys)
        self.clock += 1
        self.waiting[flow] += [self.clock] * jobs
        if told:
            self.shares.arrive(flow, self.clock, jobs)
        else:
            self.shares.arrive(flow, self.clock)

    def free(self) -> dict[str, int]:
        used = Counter(key for flow in self.out for key in flow.keys)
        return {key: limit - used[key] for key, limit in self.limits.items()}

    def round(self, window: int = 10) -> list[FlowId]:
        """One round; returns the flows of what went out, in order."""
        places = [window - sum(flow.priority >= p for flow in self.out) for p in range(10)]
        outcomes: list[tuple[Take, Served]] = []
        sent: list[FlowId] = []
        for take in self.shares.plan(places, self.free()):
            jobs = self.waiting[take.flow.id]
            got = min(take.jobs, len(jobs))
            for _ in range(got):
                jobs.popleft()
            sent += [take.flow.id] * got
            outcomes.append((take, Served(got, jobs[0] if jobs else None)))
        self.shares.served(outcomes)
        self.out += sent
        for key, left in self.free().items():
            assert left >= 0, f"above the limit of {key}"
        return sent

    def drain(self, rounds: int, window: int = 10) -> Counter[str]:
        """Let everything that is out end after each round; returns jobs per tenant."""
        result: Counter[str] = Counter()
        for _ in range(rounds):
            result.update(flow.tenant for flow in self.round(window))
            self.out.clear()
        return result


def test_one_tenant_alone_has_all_places_at_once() -> None:
    hall = Hall()
    hall.submit("a", 100)
    assert len(hall.round(50)) == 50


def test_a_lone_job_passes_a_million_of_somebody_elses() -> None:
    hall = Hall()
    hall.submit("big", 1_000_000)
    hall.drain(5)
    hall.submit("small")
    assert FlowId(4, "small") in hall.round()


def test_shares_follow_the_weights_within_five_percent_over_ten_thousand_jobs() -> None:
    hall = Hall(weights={"a": 1.0, "b": 2.0, "c": 5.0, "d": 0.5})
    for tenant in "abcd":
        hall.submit(tenant, 20_000)
    result = hall.drain(1000)
    assert result.total() == 10_000
    for tenant, weight in hall.weights.items():
        assert result[tenant] == pytest.approx(10_000 * weight / 8.5, rel=0.05)


def test_many_lines_of_one_tenant_share_its_one_turn() -> None:
    hall = Hall()
    for number in range(500):
        hall.submit("many", 1, (f"domain:{number}",))
    hall.submit("one", 500)
    result = hall.drain(50)
    assert result["one"] == pytest.approx(250, abs=10)


def test_a_line_of_which_only_the_head_is_known_lets_no_lower_priority_pass() -> None:
    hall = Hall()
    hall.submit("a", 100, priority=9, told=False)
    hall.submit("b", 100, priority=0)
    sent = [flow for _ in range(10) for flow in hall.round(100)]
    assert [flow.priority for flow in sent] == [9] * 100
    hall.out.clear()
    assert {flow.priority for flow in hall.round(100)} == {0}


def test_who_was_away_has_saved_nothing_up() -> None:
    hall = Hall()
    hall.submit("a", 10_000)
    hall.submit("b", 1)
    hall.drain(100)
    hall.submit("b", 10_000)
    result = hall.drain(10)
    assert result["a"] == pytest.approx(50, abs=2)


def test_one_job_at_a_time_gives_no_more_than_the_weight() -> None:
    hall = Hall(weights={"sly": 0.1})
    hall.submit("honest", 10_000)
    result: Counter[str] = Counter()
    for _ in range(1000):
        if not hall.waiting[FlowId(4, "sly")]:
            hall.submit("sly")
        result.update(hall.drain(1, window=1))
    assert result["sly"] == pytest.approx(1000 * 0.1 / 1.1, rel=0.1)


def test_a_full_key_holds_its_own_jobs_only() -> None:
    hall = Hall({"provider:x": 2})
    hall.submit("a", 1000, ("provider:x",))
    hall.submit("a", 5)
    hall.submit("b", 5, ("provider:y",))
    sent = Counter(flow.keys for flow in hall.round(100))
    assert sent == {("provider:x",): 2, (): 5, ("provider:y",): 5}
    assert hall.shares.blocking_keys == {"provider:x": 1}
    assert hall.round(100) == []
    hall.out.remove(FlowId(4, "a", ("provider:x",)))
    assert hall.round(100) == [FlowId(4, "a", ("provider:x",))]


def test_a_held_line_of_a_high_priority_lets_lower_ones_pass() -> None:
    hall = Hall({"k": 0})
    hall.submit("a", 5, ("k",), priority=9)
    hall.submit("b", 5, priority=0)
    assert Counter(flow.tenant for flow in hall.round()) == {"b": 5}


def test_the_places_of_a_key_are_shared_by_weight_too() -> None:
    hall = Hall({"k": 1}, {"a": 3.0})
    for number in range(50):  # many flows make no more of it
        hall.submit("a", 100, ("k", f"domain:{number}"))
    hall.submit("b", 5000, ("k",))
    result = hall.drain(2000, window=100)
    assert result.total() == 2000
    assert result["a"] == pytest.approx(1500, rel=0.05)


def test_a_line_that_comes_to_a_crowded_key_waits_for_its_turn_there() -> None:
    hall = Hall({"k": 1})
    hall.submit("a", 100, ("k",))
    hall.drain(10, window=5)
    hall.out = [FlowId(4, "a", ("k",))]
    hall.round()
    for tenant in "bcd":
        hall.submit(tenant, 100, ("k",))
    hall.out.clear()
    result = hall.drain(40, window=5)
    assert all(count == pytest.approx(10, abs=1) for count in result.values())


def test_a_limit_that_is_gone_lets_everything_go() -> None:
    hall = Hall({"k": 0})
    hall.submit("a", 5, ("k",))
    assert hall.round() == []
    hall.limits["k"] = UNLIMITED
    assert len(hall.round()) == 5
    assert not hall.shares.blocking_keys


def test_a_plan_that_could_not_be_carried_out_costs_nobody_anything() -> None:
    hall = Hall()
    hall.submit("a", 100)
    hall.submit("b", 100)
    takes = hall.shares.plan([10] * 10, {})
    hall.shares.served([(take, Served(0, take.flow.head)) for take in takes])
    result = hall.drain(5)
    assert result == {"a": 25, "b": 25}


def test_a_line_that_somebody_else_has_emptied_is_forgotten() -> None:
    hall = Hall()
    hall.submit("a", 10)
    hall.waiting.clear()
    assert hall.round() == []
    assert len(hall.shares) == 0 and not hall.shares.keys


def test_a_line_that_is_always_full_does_not_starve_an_older_one_of_its_tenant() -> None:
    hall = Hall()
    hall.submit("a", 100, ("model:a",))
    hall.submit("a", 1, ("model:b",))
    for _ in range(60):
        hall.round(10)
        hall.out.clear()
        hall.submit("a", 10, ("model:a",))
    assert not hall.waiting[FlowId(4, "a", ("model:b",))]


def test_a_room_closes_with_its_last_flow() -> None:
    hall = Hall({"k": 1})
    hall.submit("a", 1, ("k",), told=False)
    hall.round()
    assert len(hall.shares) == 0 and not hall.shares.blocking_keys
    hall.submit("b", 5, ("k",))
    hall.round()
    assert hall.shares.blocking_keys
    hall.shares.keep(set())
    assert len(hall.shares) == 0 and not hall.shares.blocking_keys


def test_a_line_that_waits_for_two_keys_keeps_nobody_from_the_first() -> None:
    hall = Hall({"relay": 1, "domain:full": 0})
    for number in range(50):
        hall.submit(f"t{number}", 1, ("domain:full", "relay"))
    hall.submit("last", 1, ("domain:free", "relay"))
    assert [flow.tenant for flow in hall.round()] == ["last"]


def test_who_comes_is_next_though_somebody_took_what_the_others_left() -> None:
    hall = Hall(weights={"a": 0.01})
    hall.submit("a", 100_000)
    hall.submit("b", 100_000, told=False)
    hall.round(500)
    hall.out.clear()
    hall.submit("c")
    assert "c" in {flow.tenant for flow in hall.round(500)}


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
def test_no_limit_is_passed_and_all_that_waits_goes_in_the_end(events: list[tuple], weights: dict[str, float]) -> None:
    hall = Hall({"k1": 1, "k2": 3, "k3": 2}, weights)
    submitted = sent = 0
    for event in events:
        match event:
            case ("submit", tenant, jobs, keys, priority, told):
                hall.submit(tenant, jobs, keys, priority, told)
                submitted += jobs
            case ("round", window):
                places = [window - sum(flow.priority >= p for flow in hall.out) for p in range(10)]
                went = hall.round(window)
                for p in {flow.priority for flow in went}:  # never more than a window of any class
                    assert sum(flow.priority >= p for flow in went) <= places[p]
                sent += len(went)
            case ("end", number):
                del hall.out[:number]
            case ("limit", key, limit) if limit >= Counter(k for flow in hall.out for k in flow.keys)[key]:
                hall.limits[key] = limit
            case ("fail", window):
                takes = hall.shares.plan([window] * 10, hall.free())
                hall.shares.served([(take, Served(0, take.flow.head)) for take in takes])
    hall.limits = dict.fromkeys(hall.limits, 1)
    hall.out.clear()
    for _ in range(5 * submitted + 20):
        sent += len(hall.round())
        hall.out.clear()
        if not any(hall.waiting.values()):
            break
    assert sent == submitted, "nobody starves"
    hall.round()
    assert len(hall.shares) == 0 and not hall.shares.keys and hall.shares.highest() == -1
