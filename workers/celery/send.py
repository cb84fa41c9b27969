"""`app.send_task` into the ledger: the only path by which Celery calls a task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

from celery import Celery
from celery.result import AsyncResult
from kombu.exceptions import OperationalError
from kombu.pools import producers

from jobplatform.config import settings
from jobplatform.errors import ConfigurationError, LedgerUnavailable, OutcomeUnknown, QuotaExceeded
from jobplatform.usecases.submit_planned import submit_prepared, submit_steps
from workers.celery.call import Call, as_moment, as_priority, read_call, signal_published
from workers.celery.collect import Collector, active
from workers.celery.flow import plan_calls
from workers.celery.ids import job_id_of, new_task_id
from workers.celery.routing import check_app, how_to_add_a_queue, queues_of_ledger, route
from workers.celery.run import BodyRun, RetryRequest, current_run
from workers.celery.submissions import kind_of_call, submission_of
from workers.celery.tenants import caller_tenant
from workers.celery.values import as_literal, to_json
from workers.runtime.process import hints, ledger

T = TypeVar("T")
SendTask = Callable[..., AsyncResult]

_LIMITS = ("time_limit", "soft_time_limit")


def send_task(
    app: Celery,
    send_by_celery: SendTask,
    name: str,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    task_type: Any = None,
    route_name: str | None = None,
    result_cls: Any = None,
    add_to_parent: bool = True,
    **options: Any,
) -> AsyncResult:
    """Call a task by name, with Celery's arguments and result.

    Raises `ConfigurationError` for options without an equal, kombu's `OperationalError` when the ledger is down,
    `EncodeError` for arguments that JSON can't hold.
    """
    given = {key: value for key, value in options.items() if value is not None}
    if task_type is None:
        task_type = app._tasks.get(name)
        usual = {} if task_type is None else task_type._get_exec_options()
        given = {key: value for key, value in usual.items() if value is not None} | given
    check_app(app)
    run = current_run()
    task_id = given.get("task_id")
    if run is not None and task_id == run.task_id and given.get("retries"):
        run.retry = _read_retry(app, run, args, kwargs, given)
        return (result_cls or app.AsyncResult)(task_id)
    queue, given = route(app, route_name or name, given, task_type, args, kwargs)
    if queue not in queues_of_ledger():
        _check_left_to_celery(name, queue)
        own = {"task_type": task_type, "route_name": route_name, "result_cls": result_cls}
        with old_producer(app) as producer:
            options["producer"] = producer
            return send_by_celery(name, args, kwargs, add_to_parent=add_to_parent, **own, **options)
    _refuse_odd(name, given, task_type)
    given |= {"task_id": task_id or new_task_id(), "queue": queue}
    parent = app.current_worker_task
    if parent is not None and parent.request.id:
        given.setdefault("root_id", parent.request.root_id or parent.request.id)
        given.setdefault("parent_id", parent.request.id)
        if app.conf.task_inherit_parent_priority:
            given.setdefault("priority", (parent.request.delivery_info or {}).get("priority"))
    call = read_call(app, name, args, kwargs, given)
    if (collector := active()) is not None:
        collector.note(call, add_to_parent)
    elif call.links or call.chain or call.errbacks:
        collector = Collector(app)
        collector.run(lambda: collector.note(call, False))
        submit(app, collector)
    else:
        _submit_alone(call)
    result = (result_cls or app.AsyncResult)(call.task_id)
    result.ignored = bool(given.get("ignore_result"))
    if add_to_parent and parent is not None and active() is None:
        parent.add_trail(result)
    return result


def is_left_to_celery(queue: Any) -> bool:
    """Return whether a message for this queue (a kombu `Queue` or a name) is published as Celery does."""
    return queue is not None and str(getattr(queue, "name", queue)) not in queues_of_ledger()


def submit_message(app: Celery, name: str, message: Any, options: Mapping[str, Any]) -> None:
    """Submit the message that Celery was about to publish: the call becomes a job, or a workflow with its links.

    `message`: Celery's (headers, properties, body, sent_event). Raises as `send_task`.
    """
    headers, properties, (args, kwargs, embedded), _ = message
    hard, soft = headers.get("timelimit") or (None, None)
    own = {
        "task_id": headers["id"],
        "eta": headers.get("eta"),
        "expires": headers.get("expires"),
        "retries": headers.get("retries"),
        "group_id": headers.get("group"),
        "group_index": headers.get("group_index"),
        # a task without a caller is its own root
        "root_id": headers.get("root_id") if headers.get("root_id") != headers["id"] else None,
        "parent_id": headers.get("parent_id"),
        "shadow": headers.get("shadow"),
        "ignore_result": headers.get("ignore_result"),
        "replaced_task_nesting": headers.get("replaced_task_nesting"),
        "time_limit": hard,
        "soft_time_limit": soft,
        "priority": properties.get("priority"),
        "link": embedded.get("callbacks"),
        "link_error": embedded.get("errbacks"),
        "chain": embedded.get("chain"),
        "chord": embedded.get("chord"),
        "stamped_headers": headers.get("stamped_headers"),
        **(headers.get("stamps") or {}),
    }
    send_task(app, _never_by_celery, name, args, kwargs, add_to_parent=False, **{**options, **own})


def _never_by_celery(name: str, *_args: Any, **_options: Any) -> AsyncResult:
    raise AssertionError(f"the message of {name} is for a queue of the ledger")


#: a chord whose header is applied next, by a call that began before the package was imported: group id → the chord
_pending_chords: dict[str, tuple[str, Any, Any]] = {}


def note_pending_chord(group_id: str, results: Any, body: Any) -> None:
    """Keep a chord's body until its header is applied."""
    _pending_chords[group_id] = (group_id, list(results), body)


def pending_chord(group_id: str | None) -> tuple[str, Any, Any] | None:
    """Return, once, the (group id, results, body) of a chord whose header is applied now; None for any other group."""
    return None if group_id is None else _pending_chords.pop(group_id, None)


def collect_and_submit(app: Celery, apply: Callable[[], T]) -> T:
    """Apply a canvas and submit its calls as one workflow. Returns what Celery returns."""
    collector = Collector(app)
    result = collector.run(apply)
    if collector.calls:
        submit(app, collector)
    return result


def submit(app: Celery, collector: Collector) -> None:
    """Submit collected calls in one transaction: a workflow, or a job if there is only one."""
    calls = list(collector.calls.values())
    if len(calls) == 1 and not collector.groups and not calls[0].errbacks:
        _submit_alone(calls[0])
        return
    tenant_id = caller_tenant()
    flow = plan_calls(app, collector, tenant_id)
    _translated(lambda: submit_steps(ledger(), hints(), tenant_id, flow.name, flow.steps, flow.pending))
    for call in calls:
        signal_published(call)


def _submit_alone(call: Call) -> None:
    tenant_id = caller_tenant()
    submission = submission_of(call, kind_of_call(call), call.payload())
    _translated(lambda: submit_prepared(ledger(), hints(), tenant_id, job_id_of(call.task_id, tenant_id), submission))
    signal_published(call)


def _translated(action: Callable[[], T]) -> T:
    """Translate errors to the one that Celery raises when the broker is unreachable, which callers may handle."""
    try:
        return action()
    except (LedgerUnavailable, OutcomeUnknown, QuotaExceeded) as error:
        raise OperationalError(f"the task was not accepted: {error}") from error


def _refuse_odd(name: str, options: dict[str, Any], task_type: Any) -> None:
    if options.get("chord") and active() is None:
        raise ConfigurationError(
            f"task {name!r}: the option chord={options['chord']!r} has no equal here: apply a chord, of which its "
            f"header is a part"
        )
    serializer = options.get("serializer") or "json"
    if serializer != "json":
        raise ConfigurationError(f"task {name!r}: expected serializer json, got {serializer}: the ledger keeps JSON")
    for option in _LIMITS:
        value = options.get(option)
        own = getattr(task_type, option, None)
        if value is not None and task_type is not None and value != own:
            raise ConfigurationError(
                f"task {name!r}: expected {option} to be the task's own ({own}), got {value} for one call: a message "
                f"can't carry limits, as workers obey none. Give the task the limit, or make a second one"
            )


@contextmanager
def old_producer(app: Celery) -> Iterator[Any]:
    """Borrow a producer on the previous broker."""
    url = settings().celery_old_broker_url
    assert url is not None, "checked before"
    with producers[app.connection_for_write(url.get_secret_value())].acquire(block=True) as producer:
        yield producer


def _check_left_to_celery(name: str, queue: str) -> None:
    """Refuse to publish as Celery does, where it would go nowhere: the queue is not switched to the ledger (yet)."""
    if settings().celery_old_broker_url is None:
        raise ConfigurationError(
            f"task {name!r} goes to queue {queue!r}, which is not on the ledger: {how_to_add_a_queue()}"
        )
    if active() is not None:
        raise ConfigurationError(
            f"task {name!r} of a canvas goes to queue {queue!r}, which is not on the ledger, and others do not: "
            f"expected all of its queues on one side. Switch them together"
        )


def _read_retry(
    app: Celery, run: BodyRun, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None, options: dict[str, Any]
) -> RetryRequest:
    """Read the call that `Task.retry` makes: the same task with the same id. The ledger keeps its history."""
    for option in RETRY_WITHOUT_EQUAL:
        if (wanted := options.get(option)) and not (option == "queue" and wanted == run.queue):
            raise ConfigurationError(
                f"self.retry({option}={wanted!r}) has no equal: a retry is the same job again. Call the task instead"
            )
    delay = 0.0
    if options.get("countdown") is not None:
        delay = float(options["countdown"])
    elif options.get("eta") is not None:
        delay = max(0.0, (as_moment(app, options["eta"]) - datetime.now(UTC)).total_seconds())
    headers = dict(run.payload.get("headers") or {})
    custom = to_json(dict(options.get("headers") or {}))
    next_args, next_kwargs = to_json(list(args or ())), to_json(dict(kwargs or {}))
    next_run: dict[str, Any] = {}
    priority = options.get("priority")
    if priority is not None and priority != headers.get("priority"):
        next_run["priority"] = headers["priority"] = as_priority(priority)
    # compared with the payload as stored: the body may have changed the objects that it was given
    is_changed = next_args != run.payload["args"] or next_kwargs != run.payload["kwargs"]
    if is_changed or custom != headers.get("custom", {}) or next_run:
        keep = as_literal if headers.get("is_step") else _as_it_is
        next_run["payload"] = {
            "args": [keep(arg) for arg in next_args],
            "kwargs": {key: keep(value) for key, value in next_kwargs.items()},
            "headers": keep({**headers, "custom": custom} if custom else headers),
        }
    return RetryRequest(delay, next_run)


#: options of `self.retry` that would make it another job
RETRY_WITHOUT_EQUAL = ("queue", "link", "link_error", "chain", "chord")


def _as_it_is(value: Any) -> Any:
    return value
