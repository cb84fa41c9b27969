"""Each public way to call a task, as the first call of a fresh process.

Run as a program with the form of the app, `text` or `class`, and the id of a task that has succeeded. Prints a line of
JSON per way: its name, its result, and the ids of its tasks. Only Celery is imported before the fork.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from celery import Celery, chain, chord, chunks, group, signature

ADD, SUM = "shop.tasks.add", "shop.tasks.tsum"
SECONDS = 40


def make_app(form: str) -> Any:
    """The app as in the guide, with the task class as text or imported."""
    if form == "class":
        from workers.celery import Task

        app = Celery("first", task_cls=Task)
    else:
        app = Celery("first", task_cls="workers.celery:Task")
    app.config_from_object("workers.celery.config")
    app.conf.update(task_default_queue="shop")
    return app


def task(app: Any) -> Any:
    """A task that is registered in this process."""

    @app.task(name=ADD)
    def add(x: int, y: int) -> int:
        return x + y

    return add


def sig(app: Any, *args: int) -> Any:
    return app.signature(ADD, args)


def add_in_default_app(app: Any) -> Any:
    app.set_default()
    return signature(ADD, (1, 2)).delay()


def chunks_by_name(app: Any) -> Any:
    return chunks(sig(app), [(1, 1), (2, 2), (3, 3)], 2, app=app).apply_async()


def with_links(app: Any) -> Any:
    first = app.send_task(ADD, (1, 2), link=sig(app, 10), link_error=sig(app))
    return app.AsyncResult(first.get(timeout=SECONDS) and first.id).children[0]


WAYS: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "send_task": (lambda app: app.send_task(ADD, (1, 2)), 3),
    "send_task with links": (with_links, 13),
    "send_task with a countdown": (lambda app: app.send_task(ADD, (1, 2), countdown=0.2, expires=600), 3),
    "signature.delay": (lambda app: sig(app, 1, 2).delay(), 3),
    "signature in the default app": (add_in_default_app, 3),
    "chain": (lambda app: chain(sig(app, 1, 2), sig(app, 3)).apply_async(), 6),
    "chain by |": (lambda app: (sig(app, 1, 2) | sig(app, 3)).delay(), 6),
    "group": (lambda app: group(sig(app, 1, 1), sig(app, 2, 2)).apply_async(), [2, 4]),
    "chord": (lambda app: chord([sig(app, 1, 1), sig(app, 2, 2)])(app.signature(SUM)), 6),
    "chord of one": (lambda app: chord([sig(app, 1, 1)], app.signature(SUM)).apply_async(), 2),
    "group | task": (lambda app: (group(sig(app, 1, 1), sig(app, 2, 2)) | app.signature(SUM)).delay(), 6),
    "task | group": (lambda app: (sig(app, 1, 1) | group(sig(app, 1), sig(app, 2))).delay(), [3, 4]),
    "chunks by name": (chunks_by_name, [[2, 4], [6]]),
    "delay": (lambda app: task(app).delay(1, 2), 3),
    "apply_async": (lambda app: task(app).apply_async((1, 2), priority=9), 3),
    "task in a chord": (lambda app: chord([task(app).s(1, 1)])(app.signature(SUM)), 2),
    "map": (lambda app: task(app).starmap([(1, 1), (2, 2)]).delay(), [2, 4]),
    "AsyncResult": (lambda app: app.AsyncResult(sys.argv[2]), None),
}


def job_ids(result: Any) -> list[str]:
    """The ids of the tasks whose results are known here."""
    return [result.id] if not hasattr(result, "results") else [item.id for item in result.results]


def call(way: str) -> None:
    assert not any(name.split(".")[0] in ("workers", "jobplatform") for name in sys.modules), "fresh"
    app = make_app(sys.argv[1])
    result = WAYS[way][0](app)
    value = result.get(timeout=SECONDS)
    print(json.dumps([way, value, job_ids(result)]), flush=True)


if __name__ == "__main__":
    for way in WAYS:
        if os.fork() == 0:
            try:
                call(way)
            except BaseException:
                print(json.dumps([way, traceback.format_exc(), []]), flush=True)
            os._exit(0)
        os.wait()
