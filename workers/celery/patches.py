"""Patches of Celery for apps that are on the ledger; every other app runs Celery's own code.

| Celery's | here |
|---|---|
| `Celery.send_task` | the call becomes a job |
| `group`, `chain`, `chord`: `apply_async` | all their calls together become one workflow |
| `AMQP._create_task_sender` | no message of a queue on the ledger is published, whatever created it |
| `canvas.uuid` | ids are UUIDv7, as in the ledger |
| `Control.revoke` | a cancel in the ledger, which works with all workers down |
| `Control.purge`, `revoke_by_stamped_headers` | refused, with advice what to do instead |
| `WorkController.setup_instance` | the worker gets the ledger's bootstep, and its tasks the ledger's class |

An app that names the task class by text (`task_cls="workers.celery:Task"`) imports this package when its configuration
is read for the first time, which may be inside its first `send_task` or canvas: Celery's original code runs already.
The task sender and `pending_chord` (send.py) take over from there, so that the first call becomes a job as well.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import celery.canvas
from celery import Celery
from celery.app.amqp import AMQP
from celery.app.control import Control
from celery.canvas import _chain, _chord, group
from celery.utils.functional import _regen
from celery.worker.worker import WorkController

from workers.celery.collect import active
from workers.celery.ids import new_task_id
from workers.celery.routing import is_on_ledger

_done = False


def install_patches() -> None:
    """Install the patches, once per process."""
    global _done
    if _done:
        return
    _done = True
    celery.canvas.uuid = new_task_id
    Celery.send_task = _send_task(Celery.send_task)
    for canvas in (group, _chain, _chord):
        canvas.apply_async = _apply_async(canvas.apply_async, canvas is group)
    AMQP._create_task_sender = _create_task_sender(AMQP._create_task_sender)
    Control.revoke = _revoke(Control.revoke)
    Control.revoke_by_stamped_headers = _refuse(
        Control.revoke_by_stamped_headers,
        "revoke_by_stamped_headers: on the ledger tasks are revoked by their ids; find these by SQL",
    )
    Control.purge = Control.discard_all = _refuse(
        Control.purge,
        "purge: the ledger would send these jobs again; cancel them instead (`jobplatform jobs cancel`), or pause the "
        "queue (`jobplatform queues pause`)",
    )
    WorkController.setup_instance = _setup_instance(WorkController.setup_instance)


def _send_task(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def send(self: Celery, name: str, args: Any = None, kwargs: Any = None, *more: Any, **options: Any) -> Any:
        if not is_on_ledger(self):
            return original(self, name, args, kwargs, *more, **options)
        from workers.celery.send import send_task

        # countdown, eta, … by position, as Celery accepts them
        options |= dict(zip(_POSITIONAL, more, strict=False))
        by_celery = original.__get__(self)
        return send_task(self, by_celery, name, args, kwargs, **options)

    return send


_POSITIONAL = (
    *("countdown", "eta", "task_id", "producer", "connection", "router", "result_cls", "expires", "publisher"),
    *("link", "link_error", "add_to_parent", "group_id", "group_index", "retries", "chord", "reply_to", "time_limit"),
    *("soft_time_limit", "root_id", "parent_id", "route_name", "shadow", "chain", "task_type"),
)


def _create_task_sender(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def create(self: AMQP) -> Callable[..., Any]:
        publish = original(self)

        def send_task_message(producer: Any, name: str, message: Any, **options: Any) -> Any:
            if is_on_ledger(self.app):
                from workers.celery.send import is_left_to_celery, submit_message

                if not is_left_to_celery(options.get("queue")):
                    return submit_message(self.app, name, message, options)
            return publish(producer, name, message, **options)

        return send_task_message

    return create


def _apply_async(original: Callable[..., Any], is_group: bool) -> Callable[..., Any]:
    @wraps(original)
    def apply_async(self: Any, *args: Any, **options: Any) -> Any:
        app = self.app
        if app.conf.task_always_eager or not is_on_ledger(app):
            return original(self, *args, **options)
        from workers.celery.send import collect_and_submit, pending_chord

        def apply() -> Any:
            if is_group and (body := pending_chord(options.get("task_id"))) is not None:
                active().note_chord(*body)  # type: ignore[union-attr]
            result = original(self, *args, **options)
            if is_group and (collector := active()) is not None:
                collector.note_group(result, args[2] if len(args) > 2 else options.get("add_to_parent", True))
            return result

        if active() is not None:
            return apply()
        for item in (self, self.kwargs.get("header")):
            _look_at_all(getattr(item, "tasks", item))
        return collect_and_submit(app, apply)

    return apply_async


def _look_at_all(tasks: Any) -> None:
    """Exhaust a generator of signatures before any is collected: it may call tasks itself."""
    if isinstance(tasks, _regen):
        for _ in tasks:
            pass


def _revoke(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def revoke(
        self: Control,
        task_id: Any,
        destination: Any = None,
        terminate: bool = False,
        signal: Any = "SIGTERM",
        **more: Any,
    ) -> Any:
        def by_celery(task_ids: Any, **broker: Any) -> Any:
            return original(self, task_ids, destination, terminate, signal, **{**more, **broker})

        if not is_on_ledger(self.app):
            return by_celery(task_id)
        from workers.celery.revoke import revoke_tasks

        return revoke_tasks(self.app, by_celery, task_id, terminate, signal, reply=bool(more.get("reply")))

    return revoke


def _refuse(original: Callable[..., Any], reason: str) -> Callable[..., Any]:
    @wraps(original)
    def refuse(self: Control, *args: Any, **options: Any) -> Any:
        if not is_on_ledger(self.app):
            return original(self, *args, **options)
        raise NotImplementedError(reason)

    return refuse


def _setup_instance(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def setup_instance(self: WorkController, *args: Any, **options: Any) -> Any:
        if is_on_ledger(self.app):
            from workers.celery.worker import prepare_worker

            prepare_worker(self.app)
        return original(self, *args, **options)

    return setup_instance
