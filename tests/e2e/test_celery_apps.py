"""An existing Celery app on the ledger, with real processes: the examples of Celery's documentation, and failures.

`celery -A shop worker` and the caller run the app's own code. Only the task class and the config object are the
platform's (tests/support/shop.py).
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from celery.exceptions import (
    ChordError,
    NotRegistered,
    SoftTimeLimitExceeded,
    TaskRevokedError,
    TimeLimitExceeded,
    WorkerLostError,
)

from jobplatform import config
from jobplatform.devstack.processes import end_named
from jobplatform.domain.kinds import REGISTRY
from jobplatform.errors import ConfigurationError
from tests.e2e.conftest import WORKERS, Platform
from tests.support import first_calls
from tests.support.waiting import eventually
from workers.celery.ids import job_id_of

SECONDS = 30


class Shop:
    """The app as its own code calls it."""

    def __init__(self, platform: Platform, app: Any, tasks: Any) -> None:
        self.platform, self.app, self.tasks = platform, app, tasks

    def notes(self, name: str, count: int = 1) -> list[str]:
        """Wait until a task has written this many lines; returns them."""
        path = Path(self.platform.file(name))
        return eventually(
            lambda: result if len(result := path.read_text().splitlines() if path.exists() else []) >= count else None,
            SECONDS,
            f"{count} lines in {name}",
        )


@pytest.fixture(scope="module")
def shop(platform: Platform) -> Iterator[Shop]:
    """The calling side, in this process, with the settings of a team's own web server."""
    platform.stack.start_celery("worker-shop", "shop", "-c", "3", app="shop")
    platform.stack.wait_for_workers(WORKERS + 1)
    environment = platform.stack.environment()
    before, kinds = dict(os.environ), dict(REGISTRY._kinds)
    os.environ.update({name: value for name, value in environment.items() if name.startswith("JOBPLATFORM_")})
    config.settings.cache_clear()
    sys.path[:0] = environment["PYTHONPATH"].split(os.pathsep)
    try:
        tasks = importlib.import_module("shop.tasks")
        yield Shop(platform, importlib.import_module("shop").app, tasks)
    finally:
        os.environ.clear()
        os.environ.update(before)
        config.settings.cache_clear()
        REGISTRY._kinds.clear()
        REGISTRY._kinds.update(kinds)


# --- First Steps, Next Steps, Calling Tasks -------------------------------------------------------


def test_a_task_is_called_by_delay_by_options_and_by_name(shop: Shop) -> None:
    result = shop.tasks.add.delay(4, 4)
    assert result.get(timeout=SECONDS) == 8
    assert (result.ready(), result.successful(), result.failed(), result.state) == (True, True, False, "SUCCESS")
    assert shop.tasks.add.apply_async((2, 2), {"debug": True}, countdown=0.2, priority=7).get(timeout=SECONDS) == 4
    assert shop.app.send_task("shop.tasks.add", (3, 4)).get(timeout=SECONDS) == 7
    assert shop.tasks.add(4, 4) == 8
    job = shop.platform.job(result.id)
    assert (job["kind"], job["queue"], job["state"], job["result"]) == ("shop.tasks.add", "shop", "succeeded", 8)


def test_a_failure_keeps_its_type_and_its_traceback(shop: Shop) -> None:
    result = shop.tasks.fail.delay("no such customer")
    with pytest.raises(ValueError, match="no such customer"):
        result.get(timeout=SECONDS)
    assert result.get(propagate=False).args == ("no such customer",)
    assert (result.state, result.failed()) == ("FAILURE", True)
    assert "raise ValueError(message)" in result.traceback
    assert shop.platform.job(result.id)["state"] == "dead"  # an operator can replay it


def test_links_and_error_handlers_are_called(shop: Shop) -> None:
    tasks = shop.tasks
    result = tasks.add.apply_async((2, 2), link=tasks.add.s(8))
    assert result.get(timeout=SECONDS) == 4
    (child,) = eventually(lambda: shop.app.AsyncResult(result.id).children, SECONDS)
    assert child.get(timeout=SECONDS) == 12
    failed = tasks.fail.apply_async(("a",), link_error=[tasks.error_handler.s(), tasks.log_error.s()])
    assert shop.notes("error_handler")[0] == f"{failed.id} ValueError('a') True ['a']"
    assert shop.notes("log_error") == [failed.id]
    tasks.fail.apply_async(("b",), task_id="my own", link_error=tasks.log_error.s())
    assert shop.notes("log_error", 2)[1] == "my own"


def test_errbacks_get_their_arguments_unchanged(shop: Shop) -> None:
    errback = shop.tasks.notes_values.s(Decimal("1.10"), when=b"x")
    shop.tasks.fail.apply_async(("with values",), link_error=errback)
    assert shop.notes("notes_values") == ["Decimal('1.10') b'x' ValueError"]


def test_a_running_task_sets_its_own_state(shop: Shop) -> None:
    gates = [shop.platform.file(f"shop-gate-{n}") for n in range(2)]
    result = shop.tasks.hello.delay(*gates)
    assert eventually(lambda: result.info if result.state == "PROGRESS" else None, SECONDS) == {"progress": 50}
    Path(gates[0]).touch()
    assert eventually(lambda: result.info == {"progress": 90} or None, SECONDS)
    Path(gates[1]).touch()
    assert result.get(timeout=SECONDS) == "hello world: 42"


def test_the_request_is_as_in_celery(shop: Shop) -> None:
    call = shop.tasks.dump_context.apply_async((1, 2), priority=6, headers={"trace": "abc"})
    result = call.get(timeout=SECONDS)
    assert result == {
        "id": call.id, "args": [1, 2], "kwargs": {}, "retries": 0, "root_id": call.id, "parent_id": None, "group": None,
        "task": "shop.tasks.dump_context", "priority": 6, "queue": "shop", "called_directly": False,
        "headers": {"trace": "abc"}, "sum": 3,
    }  # fmt: skip


def test_eta_and_expires(shop: Shop) -> None:
    late = shop.tasks.add.apply_async((1, 1), countdown=3600)
    assert (late.state, shop.platform.job(late.id)["state"]) == ("PENDING", "scheduled")
    late.revoke()
    with pytest.raises(TaskRevokedError):
        late.get(timeout=SECONDS)
    expired = shop.tasks.add.apply_async((1, 1), expires=-1)
    with pytest.raises(TaskRevokedError):
        expired.get(timeout=SECONDS)
    assert (expired.state, shop.platform.job(expired.id)["state"]) == ("REVOKED", "expired")


def test_unsupported_calls_are_refused_before_anything_is_written(shop: Shop) -> None:
    before = shop.platform.sql("SELECT count(*) FROM jobs")
    with pytest.raises(Exception, match="expected what JSON can hold, got"):
        shop.tasks.add.delay(object(), 1)
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        shop.tasks.add.delay(1)
    with pytest.raises(ConfigurationError, match="expected serializer json, got pickle"):
        shop.tasks.add.apply_async((1, 2), serializer="pickle")
    with pytest.raises(ConfigurationError, match="a message can't carry limits"):
        shop.tasks.add.apply_async((1, 2), time_limit=5)
    with pytest.raises(ConfigurationError, match="the option chord"):
        shop.tasks.add.apply_async((1, 2), chord=shop.tasks.tsum.s())
    with pytest.raises(NotImplementedError, match="revoked by their ids"):
        shop.app.control.revoke_by_stamped_headers({"a": "b"})
    with pytest.raises(ConfigurationError, match=r"'nowhere' missing from task_queues.* Expected one of"):
        shop.app.send_task("shop.tasks.add", (1, 2), queue="nowhere")
    assert shop.platform.sql("SELECT count(*) FROM jobs") == before


def test_values_are_returned_as_in_celery(shop: Shop) -> None:
    result = shop.tasks.returns_decimal.delay("1.10").get(timeout=SECONDS)
    assert result == {"price": Decimal("1.10"), "bytes": b"x", "twice": [1, 2]}
    for value in (2**80, -(2**70), 1e16, float("inf"), {"$from": "me"}, {"__type__": "x"}, "\u2028"):
        assert shop.tasks.add.delay([value], []).get(timeout=SECONDS) == [value]


def test_the_order_of_keys_and_negative_zero_are_kept(shop: Shop) -> None:
    value = {"zeta": 1, "a": {"y": 1, "b": 2}, "negative zero": -0.0, "m": 3}
    alone, passed_on = shop.tasks.keeps_order.s(value, zz=1, b=2, a=3), shop.tasks.keeps_order.s(zz=1, b=2, a=3)
    for call in (alone, shop.tasks.same.s(value) | passed_on):
        keys, kwargs, zero, back = call.delay().get(timeout=SECONDS)
        assert (keys, kwargs, zero) == (list(value), ["zz", "b", "a"], "-0.0")
        assert (list(back), list(back["a"]), repr(back["negative zero"])) == (list(value), ["y", "b"], "-0.0")


def test_a_custom_task_id_names_one_job(shop: Shop) -> None:
    path = shop.platform.file("shop-own-id")
    first = shop.tasks.sleeps.apply_async((path, 0), task_id="report 2026-11")
    assert first.get(timeout=SECONDS) == 1
    again = shop.tasks.sleeps.apply_async((path, 0), task_id="report 2026-11")
    assert again.get(timeout=SECONDS) == 1
    assert len(shop.platform.calls(path)) == 1
    assert shop.app.AsyncResult("report 2026-11").state == "SUCCESS"
    assert shop.app.AsyncResult("nobody's").state == "PENDING"


# --- retries, hooks, states ----------------------------------------------------------------------


def test_retries_are_counted_by_celery_and_recorded_by_the_ledger(shop: Shop) -> None:
    result = shop.tasks.unreliable.delay(shop.platform.file("shop-unreliable"), 2)
    assert result.get(timeout=SECONDS) == 2
    assert shop.platform.outcomes(result.id) == ["failed", "failed", "succeeded"]
    assert shop.platform.job(result.id)["attempt"] == 3
    used_up = shop.tasks.unreliable.delay(shop.platform.file("shop-unreliable-2"), 99)
    with pytest.raises(shop.tasks.Flaky, match="not yet"):
        used_up.get(timeout=SECONDS)
    assert len(shop.platform.runs(used_up.id)) == 4
    assert shop.tasks.refreshes.delay(shop.platform.file("shop-refreshes"), 4).get(timeout=SECONDS) == "fresh"
    # with other arguments on every retry
    assert shop.tasks.counts_down.delay(5).get(timeout=SECONDS) == [0, 1, 2, 3, 4]


def test_changed_arguments_of_a_retry_and_code_of_the_body_after_it(shop: Shop) -> None:
    tasks = shop.tasks
    assert tasks.turns_pages.delay({"page": 0}).get(timeout=SECONDS) == [3, 8]
    assert tasks.retries_and_goes_on.delay(shop.platform.file("shop-goes-on")).get(timeout=SECONDS) == 1
    path = shop.platform.file("shop-bad-hook")
    with pytest.raises(RuntimeError, match="a bug in a hook"):
        tasks.fails_in_its_hook.delay(path).get(timeout=SECONDS)
    assert len(shop.platform.calls(path)) == 1
    with pytest.raises(tasks.Shop.ClosedError, match="until Monday"):
        tasks.closes.delay().get(timeout=SECONDS)


def test_ignored_results_reach_only_their_successors(shop: Shop) -> None:
    result = (shop.tasks.adds_in_silence.s(2, 2) | shop.tasks.add.s(3))()
    assert result.get(timeout=SECONDS) == 7
    assert shop.app.AsyncResult(result.parent.id).result is None
    kept = shop.tasks.adds_in_silence.apply_async((1, 1), ignore_result=False)
    assert kept.get(timeout=SECONDS) == 2


def test_hooks_and_call_of_a_base_class_without_the_platform(shop: Shop) -> None:
    assert shop.tasks.noted.delay("fine").get(timeout=SECONDS) == "fine"
    assert shop.tasks.noted.delay("retry").get(timeout=SECONDS) == "retry"
    with pytest.raises(ValueError, match="told to"):
        shop.tasks.noted.delay("fail").get(timeout=SECONDS)
    call = "call shop.tasks.noted"
    assert shop.notes("hooks", 8) == [
        call, "success shop.tasks.noted fine", call, "retry shop.tasks.noted", call, "success shop.tasks.noted retry",
        call, "failure shop.tasks.noted told to",
    ]  # fmt: skip


def test_ignore_reject_and_states_set_by_hand(shop: Shop) -> None:
    assert shop.tasks.silent.delay().get(timeout=SECONDS) is None
    with pytest.raises(ValueError, match="by hand"):
        shop.tasks.sets_its_own_state.delay().get(timeout=SECONDS)
    rejected = shop.tasks.rejects.delay()
    with pytest.raises(Exception, match="no reason"):
        rejected.get(timeout=SECONDS)
    assert shop.platform.job(rejected.id)["state"] == "dead"


def test_time_limits_end_a_task_and_call_its_error_handler(shop: Shop) -> None:
    hard = shop.tasks.hangs.apply_async(link_error=shop.tasks.log_error.s())
    soft = shop.tasks.hangs_softly.delay()
    with pytest.raises(SoftTimeLimitExceeded):
        soft.get(timeout=SECONDS)
    with pytest.raises(TimeLimitExceeded):
        hard.get(timeout=SECONDS)
    assert eventually(lambda: hard.id in shop.notes("log_error"), SECONDS)


def test_a_crash_costs_a_run_and_a_crash_loop_ends(shop: Shop) -> None:
    once = shop.tasks.crashes.delay(shop.platform.file("shop-crashes-once"), 1)
    assert once.get(timeout=SECONDS) == "survived"
    assert shop.platform.outcomes(once.id) == ["crashed", "succeeded"]
    ever = shop.tasks.crashes.apply_async((shop.platform.file("shop-crashes"), 99), link_error=shop.tasks.log_error.s())
    with pytest.raises(WorkerLostError, match="3 runs of this job took their process down"):
        ever.get(timeout=60)
    assert eventually(lambda: ever.id in shop.notes("log_error"), SECONDS)


def test_revoke_leaves_a_running_task_and_with_terminate_ends_it(shop: Shop) -> None:
    path = shop.platform.file("shop-revoked")
    running = shop.tasks.sleeps.delay(path, 60)
    shop.platform.started(path)
    running.revoke()
    assert running.state == "PENDING", "track_started is off"
    running.revoke(terminate=True)
    with pytest.raises(TaskRevokedError):
        running.get(timeout=SECONDS)
    shop.app.control.revoke("01a1fadd-0000-7000-8000-000000000000")  # an unknown id: nothing happens


def test_a_retry_frees_its_slot_and_is_not_reported_as_a_failure(shop: Shop) -> None:
    """A parent that reported a retry as a lost run would occupy the slot until its next heartbeat."""
    log = shop.platform.stack.instance.logs / "worker-shop.log"
    results = [shop.tasks.counts_down.delay(2) for _ in range(3)] + [shop.tasks.rejects.delay()]
    assert [result.get(timeout=SECONDS) for result in results[:3]] == [[0, 1]] * 3
    with pytest.raises(Exception, match="no reason"):
        results[3].get(timeout=SECONDS)
    reported = [line for line in log.read_text().splitlines() if "run_ended_by_parent" in line]
    assert not [line for line in reported if any(result.id in line for result in results)]


def test_sys_exit_in_a_task_is_a_failure(shop: Shop) -> None:
    path = shop.platform.file("shop-exits")
    result = shop.tasks.exits.delay(path)
    with pytest.raises(SystemExit):
        result.get(timeout=SECONDS)
    assert (len(shop.platform.calls(path)), shop.platform.outcomes(result.id)) == (1, ["failed"])


def test_unusual_task_names_work_and_an_invalid_one_is_refused_alone(shop: Shop) -> None:
    assert shop.tasks.ships.delay(7).get(timeout=SECONDS) == "shipped 7"
    assert shop.app.send_task("shop:orders/ship@v2", (8,)).get(timeout=SECONDS) == "shipped 8"
    with pytest.raises(ConfigurationError, match="expected 1 to 200 letters, digits"):
        shop.tasks.is_refused_alone.delay()


def test_a_worker_with_the_solo_pool_serves_a_queue_on_a_developers_machine(shop: Shop) -> None:
    stack = shop.platform.stack
    stack.start_celery("worker-solo", "legacy", "--pool", "solo", app="shop")
    try:
        assert shop.tasks.add.apply_async((1, 2), queue="legacy").get(timeout=SECONDS) == 3
        with pytest.raises(ValueError, match="told to fail"):
            shop.tasks.fail.apply_async(queue="legacy").get(timeout=SECONDS)
        retried = shop.tasks.unreliable.apply_async((shop.platform.file("shop-solo"), 2), queue="legacy")
        assert retried.get(timeout=SECONDS) == 2
    finally:
        end_named(stack.instance, "worker-solo")


def test_a_task_that_no_worker_knows_fails_as_in_celery(shop: Shop) -> None:
    result = shop.app.send_task("shop.tasks.no_such_task", queue="shop")
    with pytest.raises(NotRegistered):
        result.get(timeout=SECONDS)
    runs = shop.platform.runs(result.id)
    assert len(runs) > 1 and {run["error"]["code"] for run in runs} == {"unknown_kind"}
    assert shop.platform.job(result.id)["attempt"] == 1, "only the run that ended the job counts as an attempt"


# --- canvas --------------------------------------------------------------------------------------


def test_chains_and_immutable_signatures(shop: Shop) -> None:
    from celery import chain

    add, mul = shop.tasks.add, shop.tasks.mul
    result = chain(add.s(2, 2), add.s(4), add.s(8))()
    assert result.get(timeout=SECONDS) == 16
    assert (result.parent.get(), result.parent.parent.get()) == (8, 4)
    independent = (add.si(2, 2) | add.si(4, 4) | add.si(8, 8))()
    assert [independent.get(timeout=SECONDS), independent.parent.get(), independent.parent.parent.get()] == [16, 8, 4]
    partial = add.s(4) | mul.s(8)
    assert partial(16).get(timeout=SECONDS) == 160
    assert (add.s(4, 16) | mul.s(2) | (add.s(4) | mul.s(8)))().get(timeout=SECONDS) == 352
    assert shop.tasks.subtract.s(3).delay(10).get(timeout=SECONDS) == 7
    first = shop.platform.job(result.parent.parent.id)
    graph = shop.platform.api.call("GET", f"/v1/workflows/{first['workflow_id']}/graph")
    assert [node["name"] for node in graph["nodes"]] == ["add", "add-2", "add-3"]
    assert graph["workflow"]["state"] == "succeeded"


def test_groups_chords_maps_and_chunks(shop: Shop) -> None:
    from celery import chord, group
    from celery.result import GroupResult

    add, tsum = shop.tasks.add, shop.tasks.tsum
    doubles = [0, 2, 4, 6, 8, 10, 12, 14, 16, 18]
    many = group(add.s(i, i) for i in range(10))()
    assert many.get(timeout=SECONDS) == doubles
    assert (many.successful(), many.completed_count()) == (True, 10)
    restored = GroupResult.restore(many.id, app=shop.app)
    assert restored is not None
    assert restored.get(timeout=SECONDS) == doubles
    assert chord((add.s(i, i) for i in range(10)), tsum.s())().get(timeout=SECONDS) == 90
    assert (group(add.s(i, i) for i in range(10)) | tsum.s())().get(timeout=SECONDS) == 90
    into = (add.s(4, 4) | group(add.si(i, i) for i in range(10)))()
    assert (into.get(timeout=SECONDS), into.parent.get()) == (doubles, 8)
    assert group([]).apply_async().get() == []
    assert (~tsum.map([list(range(10)), list(range(100))])) == [45, 4950]
    assert (~add.starmap(zip(range(10), range(10), strict=True))) == doubles
    assert add.chunks(zip(range(10), range(10), strict=True), 5)().get(timeout=SECONDS) == [doubles[:5], doubles[5:]]
    nested = chord([add.s(1, 1) | add.s(1), group(add.s(2, 2), add.s(3, 3)) | tsum.s()], tsum.s())()
    assert nested.get(timeout=SECONDS) == 3 + 10


def test_a_failed_header_fails_the_chord_and_leaves_its_other_tasks(shop: Shop) -> None:
    from celery import chord, group

    add, tsum = shop.tasks.add, shop.tasks.tsum
    result = chord(
        [shop.tasks.fail.s("header"), add.s(1, 1), add.s(2, 2)], tsum.s().on_error(shop.tasks.on_chord_error.s())
    )()
    with pytest.raises(ValueError, match="header"):  # as in Celery: the error of the parent first
        result.get(timeout=SECONDS)
    with pytest.raises(ChordError, match=r"Dependency .* raised ValueError\('header'\)"):
        result.get(timeout=SECONDS, disable_sync_subtasks=False) if result.parent is None else _alone(shop, result)
    assert [item.get(timeout=SECONDS) for item in result.parent.results[1:]] == [2, 4]
    assert shop.notes("on_chord_error") == [f"{result.id} ChordError"]
    independent = group(shop.tasks.fail.s("alone"), add.s(1, 1) | add.s(1))()
    assert independent.results[1].get(timeout=SECONDS) == 3


def _alone(shop: Shop, result: Any) -> Any:
    """Return a task's own result, without waiting for its parents."""
    return shop.app.AsyncResult(result.id).get(timeout=SECONDS)


def test_a_chain_stops_at_a_failed_task_and_continues_after_its_replay(shop: Shop) -> None:
    path = shop.platform.file("shop-unreliable-chain")
    result = (shop.tasks.add.si(1, 1) | shop.tasks.unreliable.si(path, 5) | shop.tasks.add.s(10))()
    with pytest.raises(shop.tasks.Flaky):
        result.get(timeout=SECONDS)
    assert shop.app.AsyncResult(result.id).state == "FAILURE"
    workflow = shop.platform.job(result.parent.id)["workflow_id"]
    ended = shop.platform.api.call("GET", f"/v1/workflows/{workflow}?wait=30")
    assert (ended["state"], ended["error"]["step"]) == ("failed", "unreliable")
    shop.platform.api.call("POST", f"/v1/workflows/{workflow}/replay")
    assert shop.app.AsyncResult(result.id).get(timeout=SECONDS) == 10 + 1
    assert shop.platform.api.call("GET", f"/v1/workflows/{workflow}?wait=30")["state"] == "succeeded"


def test_the_successors_of_a_replaced_task_wait_for_its_replacement(shop: Shop) -> None:
    tasks = shop.tasks
    assert tasks.adds_by_another.delay(3, 4).get(timeout=SECONDS) == 70
    assert (tasks.adds_by_another.s(3, 4) | tasks.add.s(1))().get(timeout=SECONDS) == 71
    assert (tasks.adds_many.s(4) | tasks.tsum.s())().get(timeout=SECONDS) == 12
    ids = tasks.calls_others.delay(3).get(timeout=SECONDS)
    assert [shop.app.AsyncResult(item).get(timeout=SECONDS) for item in ids] == [0, 2, 4]


# --- the platform around it ----------------------------------------------------------------------


def test_the_api_lists_the_apps_tasks_and_accepts_their_calls(shop: Shop) -> None:
    kinds = {kind["name"]: kind for kind in shop.platform.api.call("GET", "/v1/kinds")["kinds"]}
    assert kinds["shop.tasks.add"]["queue"] == "shop"
    job = shop.platform.submit("shop.tasks.add", {"args": [20, 22]})
    assert shop.platform.wait(job)["result"] == 42
    assert shop.app.AsyncResult(job).get(timeout=SECONDS) == 42


def test_a_killed_worker_loses_nothing_of_a_chord(shop: Shop) -> None:
    from celery import chord

    paths = [shop.platform.file(f"shop-lost-{n}") for n in range(3)]
    result = chord([shop.tasks.sleeps.s(path, 60) for path in paths], shop.tasks.tsum.s())()
    for path in paths:
        shop.platform.started(path)
    for pid in shop.platform.pids("worker-shop"):
        os.kill(pid, signal.SIGKILL)
    shop.platform.stack.start_celery("worker-shop", "shop", "-c", "3", app="shop")
    assert result.get(timeout=60) == 6
    assert all(len(shop.platform.calls(path)) == 2 for path in paths)


def test_eager_tasks_need_no_server(shop: Shop) -> None:
    shop.app.conf.task_always_eager = True
    try:
        assert shop.tasks.add.delay(1, 1).get() == 2
        assert (shop.tasks.add.s(1, 1) | shop.tasks.mul.s(4)).apply_async().get() == 8
        assert shop.tasks.unreliable.delay(shop.platform.file("shop-eager"), 2).get() == 2
    finally:
        shop.app.conf.task_always_eager = False


def test_an_app_with_a_backend_or_broker_of_its_own_is_refused(shop: Shop) -> None:
    from celery import Celery

    for given in ({"backend": "cache+memory://"}, {"broker": "memory://"}):
        other = Celery("other", task_cls="workers.celery:Task", set_as_current=False, **given)
        other.config_from_object("workers.celery.config")
        with pytest.raises(ConfigurationError, match=f"take `{next(iter(given))}=…` out"):
            other.send_task("shop.tasks.add", (1, 1))


def test_without_the_config_object_the_app_is_plain_celery(shop: Shop) -> None:
    from celery import Celery

    plain = Celery("plain", task_cls="workers.celery:Task", broker="memory://", backend="cache+memory://")
    plain.set_current()

    @plain.task(name="plain.add")
    def add(x: int, y: int) -> int:
        return x + y

    try:
        result = add.delay(1, 1)
        assert result.state == "PENDING"
        assert shop.platform.sql("SELECT count(*) FROM jobs WHERE kind = 'plain.add'") == [0]
        with plain.connection_for_read() as connection:
            message = connection.SimpleQueue("celery").get(block=False)
        assert message.headers["id"] == result.id
    finally:
        shop.app.set_current()


# --- the first call of a process -----------------------------------------------------------------


@pytest.mark.parametrize("form", ["text", "class"])
def test_every_way_to_call_a_task_creates_a_job_as_the_first_call_of_a_process(shop: Shop, form: str) -> None:
    known = shop.tasks.add.delay(2, 5)
    assert known.get(timeout=SECONDS) == 7
    command = [sys.executable, "-W", "ignore", first_calls.__file__, form, known.id]
    environment = shop.platform.stack.environment()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)
    outcomes = {way: (value, ids) for way, value, ids in map(json.loads, done.stdout.splitlines())}
    expected = {way: value if value is not None else 7 for way, (_, value) in first_calls.WAYS.items()}
    assert {way: value for way, (value, _) in outcomes.items()} == expected, done.stderr
    for way, (_, ids) in outcomes.items():
        count = "SELECT count(*) FROM job_history WHERE id = ANY (CAST(:ids AS uuid[]))"
        owner = shop.platform.sql("SELECT id FROM tenants WHERE name = 'default'")[0]
        job_ids = [str(job_id_of(task_id, owner)) for task_id in ids]
        assert shop.platform.sql(count, ids=job_ids) == [len(ids)], way
