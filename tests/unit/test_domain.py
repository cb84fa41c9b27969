"""States, retry policies, kinds: the pure rules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from jobplatform.domain.context import Context
from jobplatform.domain.kinds import LONGEST_RUN_SECONDS, REGISTRY, Kind, KindRegistry, kind, load_kinds
from jobplatform.domain.retry import Exponential, Fixed
from jobplatform.domain.states import FINAL, LIVE, TRANSITIONS, Event, State, Status, may_lead_to, status_of
from jobplatform.errors import ConfigurationError, InvalidPayload, UnknownKind

POOLS = {"email": "threads", "video": "prefork", "llm": "threads"}


def test_every_state_can_be_reached() -> None:
    assert set().union(*TRANSITIONS.values()) == set(State)


def test_only_a_replay_leads_out_of_a_final_state() -> None:
    assert {key for key in TRANSITIONS if key[0] in FINAL} == {
        (State.CANCELLED, Event.REPLAYED),
        (State.EXPIRED, Event.REPLAYED),
    }
    assert set(State) == LIVE | FINAL and not LIVE & FINAL


def test_every_live_state_can_be_cancelled() -> None:
    for state in LIVE:
        assert may_lead_to(state, Event.CANCELLED) == {State.CANCELLED}


@pytest.mark.parametrize(
    ("state", "run_no", "status"),
    [
        (State.SCHEDULED, 0, Status.PENDING),
        (State.SCHEDULED, 1, Status.PROCESSING),
        (State.AVAILABLE, 0, Status.PENDING),
        (State.DISPATCHED, 0, Status.PENDING),
        (State.BLOCKED, 0, Status.PENDING),
        (State.RUNNING, 1, Status.PROCESSING),
        (State.HELD, 1, Status.PROCESSING),
        (State.SUCCEEDED, 1, Status.COMPLETED),
        (State.DEAD, 1, Status.FAILED),
        (State.CANCELLED, 0, Status.FAILED),
        (State.EXPIRED, 0, Status.FAILED),
        (State.DISCARDED, 1, Status.FAILED),
    ],
)
def test_callers_see_one_of_four_statuses(state: State, run_no: int, status: Status) -> None:
    assert status_of(state, run_no) is status


@given(st.integers(1, 10_000), st.floats(0, 1), st.floats(0.1, 100), st.floats(1, 10), st.floats(1, 10_000))
def test_backoff_stays_between_its_floor_and_its_cap(attempt, random, base, factor, cap) -> None:
    policy = Exponential(base, factor, cap, floor_seconds=min(1.0, cap))
    delay = policy.delay_seconds(attempt, lambda: random)
    assert min(1.0, cap) <= delay <= max(cap, 1.0)


def test_backoff_doubles_and_jitter_is_full() -> None:
    policy = Exponential(base_seconds=10, factor=2, cap_seconds=1000, floor_seconds=0)
    assert [policy.delay_seconds(n, lambda: 1.0) for n in (1, 2, 3, 10)] == [10, 20, 40, 1000]
    assert policy.delay_seconds(3, lambda: 0.0) == 0
    assert Fixed(7).delay_seconds(99, lambda: 0.5) == 7
    with pytest.raises(ConfigurationError):
        Exponential(base_seconds=0)


class Payload(BaseModel):
    model_config = {"extra": "forbid"}
    width: int
    name: str


def make(name: str = "acme.resize", queue: str = "video", **more) -> Kind:
    return Kind(name=name, queue=queue, payload=Payload, handler=more.pop("handler", lambda payload, ctx: None), **more)


def test_an_unknown_kind_names_the_nearest() -> None:
    registry = KindRegistry()
    registry.add(make())
    with pytest.raises(UnknownKind, match=r"did you mean 'acme\.resize'"):
        registry.get("acme.rezise")
    with pytest.raises(UnknownKind, match=r"known kinds: acme\.resize"):
        registry.get("zzz")


@pytest.mark.parametrize("name", ["resize", "Acme.resize", "acme.", "acme..x", "acme resize", "acme.re-size", ""])
def test_kinds_have_names_with_a_dot(name: str) -> None:
    with pytest.raises(ConfigurationError, match="expected lower-case words"):
        KindRegistry().add(make(name))


def test_two_handlers_for_one_kind_are_refused() -> None:
    registry = KindRegistry()
    registry.add(make())

    def other(payload: Payload, ctx: Context) -> None: ...

    with pytest.raises(ConfigurationError, match="registered twice"):
        registry.add(make(handler=other))


def test_invalid_time_limits_and_queues_are_refused() -> None:
    KindRegistry().add(make(hard_limit_seconds=LONGEST_RUN_SECONDS))
    with pytest.raises(ConfigurationError, match="within a day"):
        KindRegistry().add(make(hard_limit_seconds=LONGEST_RUN_SECONDS + 1))
    with pytest.raises(ConfigurationError, match="soft_limit_seconds < hard_limit_seconds"):
        KindRegistry().add(make(soft_limit_seconds=10, hard_limit_seconds=10))
    registry = KindRegistry()
    registry.add(make(queue="email", hard_limit_seconds=10))
    with pytest.raises(ConfigurationError, match="runs on threads"):
        registry.check_queues(POOLS)
    registry = KindRegistry()
    registry.add(make(queue="gpu"))
    with pytest.raises(ConfigurationError, match="Add it to JOBPLATFORM_QUEUES"):
        registry.check_queues(POOLS)


def test_the_decorator_reads_the_payload_from_the_annotation() -> None:
    with pytest.raises(ConfigurationError, match="expected a handler"):

        @kind("acme.wrong", queue="video")
        def wrong(payload: dict, ctx: Context) -> None: ...

    assert "acme.wrong" not in REGISTRY


def test_every_wrong_field_of_a_payload_is_named() -> None:
    with pytest.raises(InvalidPayload) as refused:
        make().parse({"width": "wide", "colour": 1})
    assert {error.field for error in refused.value.errors} == {"payload.width", "payload.name", "payload.colour"}


def test_modules_that_can_not_be_imported_are_named() -> None:
    with pytest.raises(ConfigurationError, match="no_such_team"):
        load_kinds(["no_such_team"], POOLS)


def test_the_built_in_kinds_fit_the_built_in_queues() -> None:
    from jobplatform.config import DEFAULT_QUEUES, QueueSettings

    pools = {name: QueueSettings(**values).pool for name, values in DEFAULT_QUEUES.items()}
    names = [
        item.name
        for item in load_kinds(["workers.handlers.builtin"], pools)
        if not item.name.startswith(("test", "acme"))
    ]
    assert names == ["email.send", "llm.chat", "video.transcode"]
