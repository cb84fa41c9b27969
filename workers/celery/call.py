"""A call of a task as data: the message that Celery would have sent, built by Celery itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from celery import Celery
from celery.signals import after_task_publish, before_task_publish
from celery.utils.time import maybe_iso8601, maybe_make_aware

from jobplatform.domain.jobs import DEFAULT_PRIORITY, MAX_PRIORITY
from jobplatform.domain.kinds import REGISTRY
from workers.celery.values import as_literal, to_json

#: headers of Celery's message that a worker's request gets back; the ledger has the others in columns of its own, or
#: nothing uses them
KEPT = (
    *("shadow", "group", "group_index", "root_id", "parent_id", "ignore_result", "replaced_task_nesting"),
    *("stamped_headers", "stamps", "timelimit", "origin", "eta", "expires", "argsrepr", "kwargsrepr"),
)
#: properties of a message that an app may set
PROPERTIES = ("app_id", "type")
_DROPPED = frozenset((*KEPT, "lang", "task", "id", "retries", "argsrepr", "kwargsrepr", "reply_to", "compression"))


@dataclass(frozen=True)
class Ref:
    """A placeholder among arguments for the result of a task that has not run yet."""

    task_id: str


@dataclass
class Call:
    """One call. `after`: ids of preceding tasks and groups; `links` and the like are Celery's signatures."""

    task_id: str
    name: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    queue: str
    priority: int
    headers: dict[str, Any]
    #: counted from the end of the preceding tasks
    delay_seconds: float | None = None
    start_within_seconds: float | None = None
    run_at: datetime | None = None
    start_by: datetime | None = None
    links: list[Any] = field(default_factory=list)
    errbacks: list[Any] = field(default_factory=list)
    chain: list[Any] = field(default_factory=list)
    after: tuple[str, ...] = ()
    #: results of the tasks that it has called, as in Celery's `children`
    children: list[Any] = field(default_factory=list)
    #: a chord's body; a failure in the header is a `ChordError` for it, unless it is a group
    is_body: bool = False
    #: of a body: the ids that the header of its chord waits for
    header_after: tuple[str, ...] = ()
    of_chord: bool = False

    def payload(self, names: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Return its job's payload. `names`: task or group id → name of its step, in a workflow.

        Raises kombu's `EncodeError` for arguments that can't be written.
        """
        headers = {key: value for key, value in self.headers.items() if value is not None}
        if self.children:
            headers["children"] = [item.as_tuple() for item in self.children]
        if self.of_chord:
            headers["of_chord"] = True
        if names is None:
            return {"args": to_json(list(self.args)), "kwargs": to_json(dict(self.kwargs)), "headers": to_json(headers)}
        headers["is_step"] = True
        kwargs = {key: as_literal(to_json(value)) for key, value in self.kwargs.items()}
        args = [_argument(arg, names) for arg in self.args]
        return {"args": args, "kwargs": kwargs, "headers": as_literal(to_json(headers))}


class Results(list[Any]):
    """The results of a group's tasks: `Ref`s, and lists of them."""

    group_id: str | None = None


def _argument(value: Any, names: Mapping[str, str]) -> Any:
    """Return an argument as JSON, with references for pending results."""
    if isinstance(value, Ref):
        return {"$from": [names[value.task_id], "result"]}
    if isinstance(value, Results):
        if value.group_id is not None and value.group_id in names:  # the ledger assembles the list
            return {"$from": [names[value.group_id], "results"]}
        return [_argument(item, names) for item in value]
    return as_literal(to_json(value))


def read_call(
    app: Celery, name: str, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None, options: dict[str, Any]
) -> Call:
    """Return a call from the options of `send_task`; `options["queue"]` is the routed queue.

    Celery's own code builds the message, so its checks, its times and the receivers of `before_task_publish` (tracing,
    say) apply here too. Raises as Celery does.
    """
    task_id = options["task_id"]
    countdown, eta, expires = options.get("countdown"), options.get("eta"), options.get("expires")
    stamped = options.get("stamped_headers") or []
    message = app.amqp.as_task_v2(
        task_id,
        name,
        args,
        kwargs,
        countdown,
        eta,
        options.get("group_id"),
        options.get("group_index"),
        expires,
        0,
        None,
        time_limit=options.get("time_limit"),
        soft_time_limit=options.get("soft_time_limit"),
        root_id=options.get("root_id"),
        parent_id=options.get("parent_id"),
        shadow=options.get("shadow"),
        ignore_result=options.get("ignore_result") or False,
        replaced_task_nesting=options.get("replaced_task_nesting") or 0,
        origin=options.get("origin"),
        argsrepr=options.get("argsrepr") or "",
        kwargsrepr=options.get("kwargsrepr") or "",
        stamped_headers=options.get("stamped_headers"),
        **{item: options[item] for item in stamped if item in options},
    )
    headers, queue = message.headers, options["queue"]
    headers["ignore_result"] = options.get("ignore_result")
    headers.update(options.get("headers") or {})
    arguments = {"sender": name, "exchange": "jobs", "routing_key": queue, "headers": headers, "body": message.body}
    if before_task_publish.receivers:
        before_task_publish.send(
            **arguments, declare=[], properties=message.properties, retry_policy=options.get("retry_policy") or {}
        )
    kept = {key: headers[key] for key in KEPT if _says_something(headers.get(key))}
    if options.get("ignore_result") is None:
        kept.pop("ignore_result", None)
    if custom := {key: value for key, value in headers.items() if key not in _DROPPED}:
        kept["custom"] = custom
    if not _is_ordered_by_time(task_id):
        kept["id"] = task_id
    if own := {key: options[key] for key in PROPERTIES if options.get(key) is not None}:
        kept["properties"] = own
    if options.get("priority") is not None:
        kept["priority"] = as_priority(options["priority"])
    if name not in REGISTRY or REGISTRY.get(name).queue != queue:
        kept["queue"] = queue
    body_args, body_kwargs, _ = message.body
    call = Call(
        task_id,
        name,
        body_args,
        body_kwargs,
        queue,
        as_priority(options.get("priority")),
        kept,
        links=_as_list(options.get("link")),
        errbacks=_as_list(options.get("link_error")),
        chain=list(options.get("chain") or ()),
    )
    if countdown:
        call.delay_seconds = float(countdown)
    elif eta:
        call.run_at = as_moment(app, headers["eta"])
    if isinstance(expires, int | float):
        call.start_within_seconds = float(expires)
    elif expires:
        call.start_by = as_moment(app, headers["expires"])
    return call


def signal_published(call: Call) -> None:
    """Send Celery's `after_task_publish`: the call is in the ledger."""
    if after_task_publish.receivers:
        after_task_publish.send(
            sender=call.name,
            exchange="jobs",
            routing_key=call.queue,
            headers={"task": call.name, "id": call.task_id, **call.headers},
            body=(call.args, call.kwargs, {}),
        )


def as_moment(app: Celery, value: Any) -> datetime:
    """Return an eta or expiry (text or datetime) as an aware datetime, by default in the app's time zone."""
    moment: datetime = maybe_make_aware(maybe_iso8601(value), tz=app.timezone)
    return moment


def _says_something(value: Any) -> bool:
    return value is False or value not in (None, "", [], {}, 0, [None, None])


def as_priority(value: Any) -> int:
    """Return a priority of the ledger; higher ones become the highest, as in RabbitMQ."""
    return DEFAULT_PRIORITY if value is None else min(MAX_PRIORITY, max(0, int(value)))


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _is_ordered_by_time(task_id: str) -> bool:
    try:
        return UUID(task_id).version == 7
    except ValueError:
        return False


def in_seconds(seconds: float | None, now: datetime) -> datetime | None:
    """Return the time this many seconds after `now`."""
    return None if seconds is None else now + timedelta(seconds=max(0.0, seconds))
