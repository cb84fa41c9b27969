"""How Celery's canvases become steps: Celery's own code unrolls them. Needs no server."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, namedtuple
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from celery import Celery, chain, chord, group
from celery.signals import before_task_publish

from jobplatform.config import settings
from jobplatform.domain.kinds import REGISTRY
from jobplatform.errors import ConfigurationError, InvalidRequest
from jobplatform.ledger.ids import new_id
from workers.celery.collect import Collector
from workers.celery.flow import Flow, plan_calls
from workers.celery.ids import job_id_of
from workers.celery.values import as_literal, from_json, to_json

TENANT = new_id()


@pytest.fixture(scope="module")
def app() -> Iterator[Celery]:
    before = dict(REGISTRY._kinds)
    made = Celery("unit", task_cls="workers.celery:Task", set_as_current=False)
    made.config_from_object("workers.celery.config")

    @made.task(name="unit.add")
    def add(x: int, y: int) -> int:
        return x + y

    @made.task(name="unit.total", max_retries=7)
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    @made.task(name="unit.note")
    def note(task_id: str) -> None: ...

    yield made
    REGISTRY._kinds.clear()
    REGISTRY._kinds.update(before)


def plan(app: Celery, canvas: Any, *args: Any, **options: Any) -> Flow:
    collector = Collector(app)
    collector.run(lambda: canvas.apply_async(args, **options))
    return plan_calls(app, collector, TENANT)


def shape(flow: Flow) -> dict[str, tuple[int, list[str]]]:
    """Return name → (number of steps it waits for, steps that wait for it)."""
    names = {row["id"]: row["name"] for row in flow.steps}
    return {row["name"]: (row["pending"], [names[item] for item in row["children"]]) for row in flow.steps}


def args_of(flow: Flow, name: str) -> list[Any]:
    (row,) = [row for row in flow.steps if row["name"] == name]
    result: list[Any] = row["payload"]["args"]
    return result


def add(app: Celery, *args: Any) -> Any:
    return app.tasks["unit.add"].s(*args)


def test_a_chain_is_a_line_with_results_by_reference(app: Celery) -> None:
    flow = plan(app, add(app, 2, 2) | add(app, 4) | app.tasks["unit.add"].si(1, 1))
    assert shape(flow) == {"add": (0, ["add-2"]), "add-2": (1, ["add-3"]), "add-3": (1, [])}
    assert [args_of(flow, name) for name in ("add", "add-2", "add-3")] == [
        [2, 2], [{"$from": ["add", "result"]}, 4], [1, 1]
    ]  # fmt: skip
    assert flow.pending == 1 and all(row["on_failure"] == "skip" for row in flow.steps)


def test_steps_have_the_ids_of_their_results(app: Celery) -> None:
    canvas = chord([add(app, 1, 1), add(app, 2, 2)], app.tasks["unit.total"].s())
    collector = Collector(app)
    result = collector.run(canvas.apply_async)
    flow = plan_calls(app, collector, TENANT)
    ids = {row["name"]: UUID(row["id"]) for row in flow.steps}
    assert str(ids["total"]) == result.id and str(ids["group"]) == result.parent.id
    assert [str(ids["add"]), str(ids["add-2"])] == [item.id for item in result.parent.results]
    assert all(item.version == 7 for item in ids.values())


def test_a_chord_waits_for_a_gate_whose_results_the_ledger_collects(app: Celery) -> None:
    flow = plan(app, chord([add(app, n, n) for n in range(3)], app.tasks["unit.total"].s()))
    gate = ["group"]
    assert shape(flow) == {
        "group": (3, ["total"]), "add": (0, gate), "add-2": (0, gate), "add-3": (0, gate), "total": (1, [])
    }  # fmt: skip
    assert args_of(flow, "total") == [{"$from": ["group", "results"]}]
    assert [row["max_attempts"] for row in flow.steps if row["name"] == "total"] == [8]


def test_headers_of_chains_and_groups_come_as_celery_nests_them(app: Celery) -> None:
    total = app.tasks["unit.total"].s
    flow = plan(app, chord([add(app, 1, 1) | add(app, 2), add(app, 3, 3)], total()))
    # the chain's last task is called after the plain task: the order differs, so each result is named
    assert args_of(flow, "total") == [[{"$from": ["add-3", "result"]}, {"$from": ["add-2", "result"]}]]
    inner = chord([add(app, 1, 1), add(app, 2, 2)], total())
    outer = plan(app, chord([inner, add(app, 3, 3)], total()))
    assert shape(outer)["total"] == (1, ["group"]) and outer.pending == 1
    spread = plan(app, add(app, 1, 1) | group(add(app, 2), add(app, 3)) | total())
    assert shape(spread)["add"] == (0, ["add-2", "add-3"])


def test_links_follow_their_task_and_errbacks_are_jobs(app: Celery) -> None:
    note = app.tasks["unit.note"].s()
    flow = plan(app, add(app, 1, 1).set(link=[add(app, 8), add(app, 9)], link_error=[note]))
    assert shape(flow)["add"] == (0, ["add-2", "add-3"])
    (errback,) = next(row for row in flow.steps if row["name"] == "add")["errbacks"]
    assert errback["kind"] == "celery.errbacks"
    assert [item["task"] for item in errback["payload"]["headers"]["errbacks"]] == ["unit.note"]


def test_times_of_the_first_task_are_absolute_and_those_of_later_ones_relative(app: Celery) -> None:
    flow = plan(app, add(app, 1, 1).set(countdown=60) | add(app, 1).set(countdown=30, expires=90))
    first, second = flow.steps
    assert timedelta(seconds=55) < first["run_at"] - datetime.now(UTC) <= timedelta(seconds=60)
    assert second["run_at"] is None
    assert second["template"] == {"delay_seconds": 30.0, "start_within_seconds": 90.0}


def test_values_that_look_like_references_are_kept_unchanged(app: Celery) -> None:
    flow = plan(app, add(app, {"$from": "x"}, 1) | add(app, {"$item": ""}))
    assert args_of(flow, "add")[0] == {"$literal": {"$from": "x"}}
    assert args_of(flow, "add-2") == [{"$from": ["add", "result"]}, {"$literal": {"$item": ""}}]


def test_too_many_tasks_are_refused_with_a_remedy(app: Celery) -> None:
    with pytest.raises(InvalidRequest, match="at most 10,000 are possible: submit it in parts"):
        plan(app, group(add(app, 1, 1) for _ in range(10_000)))


def test_traces_may_add_headers_as_in_celery(app: Celery) -> None:
    def trace(headers: dict[str, Any], **_: Any) -> None:
        headers["traceparent"] = "00-abc"

    before_task_publish.connect(trace)
    try:
        flow = plan(app, chain(add(app, 1, 1), add(app, 1)))
    finally:
        before_task_publish.disconnect(trace)
    assert [row["payload"]["headers"]["custom"]["traceparent"] for row in flow.steps] == ["00-abc"] * 2


def test_a_queue_that_is_not_on_the_ledger_is_refused(app: Celery) -> None:
    with pytest.raises(ConfigurationError, match="Expected one of email, llm, video, webhooks"):
        add(app, 1, 1).apply_async(queue="nowhere")
    assert set(settings().queues) == {"email", "video", "llm", "webhooks"}


@pytest.mark.parametrize(
    "value",
    [
        2**64,
        -(2**63) - 1,
        1e16,
        -1e300,
        float("inf"),
        1.5,
        0.1,
        True,
        None,
        "12345678901234567890",
        {"a": [1e22, 10**30]},
    ],
)
def test_values_are_the_same_after_jsonb(value: Any) -> None:
    kept = to_json(value)
    back = from_json(kept)
    assert back == value and type(back) is type(value)


def test_literals_and_ids() -> None:
    assert as_literal({"a": 1}) == {"a": 1}
    assert as_literal([{"$from": "a.result"}]) == {"$literal": [{"$from": "a.result"}]}
    own = job_id_of("my report", TENANT)
    assert (own.version, own) == (8, job_id_of("my report", TENANT)) and own != job_id_of("my report", new_id())
    assert job_id_of(str(TENANT), new_id()) == TENANT


def test_numbers_are_marked_in_subclasses_of_lists_and_dictionaries_too() -> None:
    point = namedtuple("point", "x y")
    for value in (OrderedDict(a=2**70), defaultdict(int, a=2**70), point(2**70, float("inf"))):
        back = from_json(to_json(value))
        assert back == (list(value) if isinstance(value, tuple) else dict(value))
