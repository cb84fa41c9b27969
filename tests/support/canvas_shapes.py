"""Canvases of every shape, applied on the ledger and on plain Celery: the same code, two apps.

Run as a program, it applies all shapes, waits for them, and prints a line of JSON for each: shape, outcome, and the
number of `.children` of its task. CANVAS_SIDE chooses the app (`ledger` or `plain`); errbacks write to CANVAS_NOTES.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

from celery import Celery, chain, chord, group

SIDE = os.environ.get("CANVAS_SIDE", "ledger")
SECONDS = 60
QUEUE = "legacy"

if SIDE == "ledger":
    from workers.celery import Task

    app = Celery("canvas_shapes", task_cls=Task)
    app.config_from_object("workers.celery.config")
else:
    app = Celery("canvas_shapes", broker=os.environ["CANVAS_BROKER_URL"], backend=os.environ["CANVAS_BACKEND_URL"])
    app.conf.update(result_chord_retry_interval=0.2, worker_prefetch_multiplier=1, task_acks_late=True)
app.conf.update(task_default_queue=QUEUE)


@app.task(name="canvas.ok")
def ok(*_: Any) -> int:
    return 1


@app.task(name="canvas.fail")
def fail(*_: Any) -> None:
    raise ValueError("told to fail")


@app.task(name="canvas.errback")
def errback(tag: str) -> None:
    with Path(os.environ["CANVAS_NOTES"]).open("a") as notes:
        notes.write(f"{tag}\n")


@app.task(name="canvas.calls", bind=True)
def calls(self: Any, what: str) -> str | None:
    """Apply something inside a task; returns its id."""
    result = INNER[what]()
    if what == "one, then a failure":
        raise ValueError("after the call")
    return getattr(result, "id", None)


INNER: dict[str, Any] = {
    "nothing": lambda: None,
    "one": lambda: ok.delay(),
    "one, then a failure": lambda: ok.delay(),
    "two": lambda: [ok.delay(), ok.delay()][0],
    "link": lambda: ok.apply_async(link=ok.s()),
    "chain": lambda: chain(ok.s(), ok.s(), ok.s()).apply_async(),
    "group": lambda: group(ok.s(), ok.s()).apply_async(),
    "chain into a group": lambda: chain(ok.s(), group(ok.s(), ok.s())).apply_async(),
}
if SIDE == "ledger":  # with a file backend, plain Celery shows its `chord_unlock`, whose result never arrives
    INNER["chord"] = lambda: chord([ok.s(), ok.s()], ok.s()).apply_async()
    INNER["group into a task"] = lambda: (group(ok.s(), ok.s()) | ok.s()).apply_async()
#: the result for those two in plain Celery with Redis: the header is the child, the body follows its last task
CHORD_CHILDREN = [["GroupResult"], False, 3]

#: a difference named in the guide: the body after a failed chord raises the failed task's exception; plain Celery wraps
#: that in a `ChordError`
WRAPPED_ONCE_MORE = [
    *("chord", ["ok"]),
    ["chain", "ok", ["chord", ["fail", "ok"], ["chain", "ok", ["group", "ok", "ok"], "ok"]]],
]

#: shapes that have failed before, and those of Celery's own tests
KNOWN: list[Any] = [
    "ok", "fail",
    ["chain", "ok", "fail", "ok"],
    ["group", "fail", "ok"],
    ["group", "ok", "fail"],
    ["chord", ["fail", "ok"], "ok"],
    ["chord", ["fail", "fail"], "ok"],
    ["chord", ["ok", "ok"], "fail"],
    ["chain", "ok", ["group", "ok", "fail"], "ok"],
    ["chain", "fail", ["group", "ok", "ok"], "ok"],
    ["chain", "fail", ["chord", ["ok", "ok"], "ok"], "ok"],
    ["chord", ["ok"], ["chain", "ok", ["chord", ["ok"], ["chain", "fail", ["group", "ok", "ok"], "ok"]]]],
    WRAPPED_ONCE_MORE,
    ["chord", [["chain", "fail", "ok"], "ok"], "ok"],
    ["chord", [["chain", "ok", "fail"], "ok"], "ok"],
    ["chain", ["group", "fail", "ok"], "ok", "ok"],
    ["chain", ["chord", ["fail"], "ok"], "ok"],
    ["chain", ["group", "ok", "ok"], "fail", "ok"],
    ["chain", "fail", ["group", "ok", "ok"], "ok", "ok"],
    ["chain", ["group", "fail", "ok"], "ok", ["group", "ok", "ok"], "ok"],
    ["chord", ["fail", "ok"], ["chord", ["ok", "ok"], "ok"]],
    ["chord", ["fail", "ok"], ["group", ["chord", ["ok", "ok"], "ok"], "ok"]],
    ["chord", ["fail", "ok"], ["chain", ["chord", ["ok", "ok"], "ok"], "ok"]],
    ["chord", [["chord", ["ok", "fail"], "ok"], "ok"], "ok"],
    ["chord", [["chord", ["ok", "ok", "fail"], "ok"], "ok", ["chord", ["ok", "ok", "ok"], "ok"]], "ok"],
    ["chord", [["group", ["chord", ["fail"], "ok"], ["chord", ["ok", "fail"], "ok"]], "ok"], "ok"],
    ["chord", [["chain", "ok", ["chord", ["fail", "ok"], "ok"]], ["chord", ["ok"], "fail"]], "ok"],
]  # fmt: skip


def random_shape(dice: random.Random, depth: int) -> Any:
    if depth == 0 or dice.random() < 0.3:
        return dice.choice(["ok", "ok", "fail"])
    kind = dice.choice(["chain", "chain", "group", "chord"])
    parts = [random_shape(dice, depth - 1) for _ in range(dice.randint(2, 3))]
    return [kind, parts, dice.choice(["ok", "ok", "fail"])] if kind == "chord" else [kind, *parts]


def all_shapes() -> list[Any]:
    """The known shapes, and CANVAS_GENERATED random ones; `make test-all` requests some."""
    generated = int(os.environ.get("CANVAS_GENERATED", "0"))
    dice = random.Random(3)
    shapes = [*KNOWN]
    while len(shapes) < len(KNOWN) + generated:
        shape = random_shape(dice, 2)
        if shape not in shapes:
            shapes.append(shape)
    return shapes


def build(shape: Any) -> Any:
    if isinstance(shape, str):
        return {"ok": ok, "fail": fail}[shape].s()
    kind, *parts = shape
    if kind == "chord":
        header, body = parts
        return chord([build(part) for part in header], build(body))
    return {"chain": chain, "group": group}[kind](*map(build, parts))


def apply(shape: Any, tag: str) -> Any:
    canvas = build(shape)
    canvas.link_error(errback.si(tag))
    try:
        return canvas.apply_async()
    except Exception as error:
        return f"refused: {error}"


def outcome(result: Any) -> str:
    if isinstance(result, str):
        return result
    try:
        result.get(timeout=SECONDS)
    except Exception as error:
        return type(error).__name__
    return "ok"


def children_of(what: str) -> list[Any]:
    """What a caller sees of the tasks that a task has called: the types of its children, and how many tasks follow."""
    result = calls.delay(what)
    result.get(timeout=SECONDS, propagate=False)
    result = app.AsyncResult(result.id)
    children = result.children or []
    first = bool(children) and str(children[0].id) == str(result.get(propagate=False))
    return [sorted(type(child).__name__ for child in children), first, _count(children)]


def _count(results: list[Any], deadline: float | None = None) -> int:
    """Count the tasks below these results once all have ended."""
    count = 0
    for result in results:
        if hasattr(result, "results"):
            count += _count(result.results)
            continue
        result.get(timeout=SECONDS)
        count += 1 + _count(app.AsyncResult(result.id).children or [])
    return count


def wait_until_idle() -> None:
    """Wait until this side is idle, so that no errback is still to come."""
    quiet, deadline = 0, time.monotonic() + SECONDS
    while quiet < 3 and time.monotonic() < deadline:
        time.sleep(0.3)
        quiet = quiet + 1 if _is_idle() else 0


def _is_idle() -> bool:
    if SIDE == "ledger":
        from sqlalchemy import text

        from workers.runtime.process import ledger

        with ledger().statement() as connection:
            live = "SELECT count(*) FROM jobs WHERE queue = :queue AND state NOT IN ('dead', 'blocked')"
            return not connection.execute(text(live), {"queue": QUEUE}).scalar()
    with app.connection_for_read() as connection:
        waiting = connection.default_channel.queue_declare(QUEUE, passive=True).message_count
    inspect = app.control.inspect(timeout=2)
    busy = [inspect.active(), inspect.reserved(), inspect.scheduled()]
    return not waiting and all(reply is not None and not any(reply.values()) for reply in busy)


def main() -> None:
    began = time.monotonic()
    shapes = all_shapes()
    results = [apply(shape, str(number)) for number, shape in enumerate(shapes)]
    outcomes = [outcome(result) for result in results]
    print(f"{SIDE}: ended after {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
    wait_until_idle()
    print(f"{SIDE}: idle after {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
    for shape, how in zip(shapes, outcomes, strict=True):
        print(json.dumps(["shape", shape, how]), flush=True)
    for what in INNER:
        print(json.dumps(["children", what, children_of(what)]), flush=True)
        print(f"{SIDE}: {what} after {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
