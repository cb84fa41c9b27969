"""Kinds of jobs, with payload schema, queue, limits and retry policy; and their registry."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, TypeVar, get_type_hints

from pydantic import BaseModel

from jobplatform.domain.context import Context, UnknownEffect
from jobplatform.domain.limits import KeysOf, UnitsOf, check_keys, keys_of, units_of
from jobplatform.domain.retry import Exponential, RetryPolicy
from jobplatform.domain.validation import Mismatch, validate
from jobplatform.errors import ConfigurationError, InvalidPayload, UnknownKind

P = TypeVar("P", bound=BaseModel)
Handler = Callable[[Any, Context], Any]

_NAME = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+\Z")
#: names that a message can carry (broker/envelope.py); `marker` is reserved for messages that are not jobs
_FREE_NAME = re.compile(r"(?!marker\Z)[A-Za-z0-9_.\-:/@+]{1,200}\Z")
#: description of valid names
FREE_NAME_LOOKS = "1 to 200 letters, digits and _ . - : / @ +, but not 'marker'"


def is_free_name(name: str) -> bool:
    """Return whether a kind can have this name of a Celery task."""
    return bool(_FREE_NAME.match(name))


@dataclass(frozen=True)
class Kind:
    """One kind of job.

    | field | unit | meaning |
    |---|---|---|
    | soft_limit_seconds | s | the handler gets SoftTimeLimitExceeded and may clean up (prefork queues only) |
    | hard_limit_seconds | s | the run's process is killed, the run ends as timed_out (prefork queues only) |
    | crash_limit | runs | dead-lettered when this many runs have crashed their process |
    | lost_limit | runs | dead-lettered when this many of its workers were lost; high, see docs/concepts/delivery.md |
    """

    name: str
    queue: str
    payload: type[BaseModel]
    handler: Handler
    description: str = ""
    retry: RetryPolicy = field(default_factory=Exponential)
    max_attempts: int = 5
    soft_limit_seconds: float | None = None
    hard_limit_seconds: float | None = None
    crash_limit: int = 3
    lost_limit: int = 50
    retry_timeouts: bool = True
    #: error code → its own retry policy, for instance for "timed_out"
    retry_codes: Mapping[str, RetryPolicy] = field(default_factory=dict)
    #: no attempt starts later than this after the job was accepted; it is then dead-lettered (s)
    max_age_seconds: float | None = None
    #: policy for an effect whose outcome an earlier run left unknown (`ctx.effect`)
    unknown_effects: UnknownEffect = "hold"
    #: the handler's return annotation: references of workflow steps are checked against it
    returns: Any = None
    #: limit keys: texts in which {field} is a field of the payload, or a function of the typed payload
    limit_keys: KeysOf = ()
    #: units that a job takes of each of its keys, for rate limits
    limit_units: UnitsOf = 1
    #: its name is that of a Celery task, which need not follow our format
    free_name: bool = False

    def delay_seconds(self, code: str, attempt: int, random: Callable[[], float]) -> float:
        """Return the delay (s) after attempt number `attempt` failed with this error code."""
        return self.retry_codes.get(code, self.retry).delay_seconds(attempt, random)

    def limits_of(self, payload: BaseModel | None) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """Return the limit keys of a job and their units. `payload` None: not known yet."""
        if not self.limit_keys:
            return (), ()
        keys = keys_of(self.limit_keys, payload)
        return keys, units_of(self.limit_units, payload, keys)

    def parse(self, payload: object) -> BaseModel:
        """Return the typed payload. Raises `InvalidPayload` naming the wrong fields, 100 at most."""
        try:
            return validate(self.payload, payload, "payload")
        except Mismatch as mismatch:
            more = f"; {mismatch.total:,} errors in all" if mismatch.total > len(mismatch.errors) else ""
            raise InvalidPayload(
                f"the payload does not fit the schema of {self.name} (see GET /v1/kinds){more}", mismatch.errors
            ) from None


_LOOKS = "lower-case words joined by dots, like 'email.send'"

#: below RabbitMQ's delivery acknowledgement time-out (broker/topology.py)
LONGEST_RUN_SECONDS = 23 * 3600


# Handler of the platform's own kinds in processes that only submit them. A docstring would be the kind's description.
def runs_in_workers(_payload: Any, _ctx: Any) -> None:  # noqa: D103
    raise NotImplementedError("this kind is run by workers")


class KindRegistry:
    """The kinds this process knows, by name."""

    def __init__(self) -> None:
        self._kinds: dict[str, Kind] = {}

    def add(self, kind: Kind) -> None:
        """Register a kind. Raises `ConfigurationError` for an invalid name, a clash, or invalid numbers."""
        if not (_FREE_NAME if kind.free_name else _NAME).match(kind.name):
            looks = FREE_NAME_LOOKS if kind.free_name else _LOOKS
            raise ConfigurationError(f"kind {kind.name!r}: expected {looks}")
        known = self._kinds.get(kind.name)
        if known and known.handler.__qualname__ != kind.handler.__qualname__:
            raise ConfigurationError(f"kind {kind.name!r} is registered twice: by {_origin(known)} and {_origin(kind)}")
        if kind.max_attempts < 1 or kind.crash_limit < 1 or kind.lost_limit < 1:
            raise ConfigurationError(f"kind {kind.name!r}: max_attempts, crash_limit, lost_limit must be at least 1")
        if kind.max_age_seconds is not None and kind.max_age_seconds <= 0:
            raise ConfigurationError(f"kind {kind.name!r}: expected max_age_seconds > 0, got {kind.max_age_seconds}")
        soft, hard = kind.soft_limit_seconds, kind.hard_limit_seconds
        if soft is not None and hard is not None and soft >= hard:
            raise ConfigurationError(
                f"kind {kind.name!r}: expected soft_limit_seconds < hard_limit_seconds, got {soft} and {hard}"
            )
        if hard is not None and hard > LONGEST_RUN_SECONDS:
            raise ConfigurationError(
                f"kind {kind.name!r}: expected hard_limit_seconds of at most {LONGEST_RUN_SECONDS} (23 h), got {hard}: "
                f"RabbitMQ takes a message back from a worker that does not acknowledge it within a day. Split the job"
            )
        check_keys(kind.name, kind.limit_keys, kind.limit_units, kind.payload.model_fields)
        self._kinds[kind.name] = kind

    def remove(self, name: str) -> None:
        """Remove a kind, if it is registered."""
        self._kinds.pop(name, None)

    def get(self, name: str) -> Kind:
        """Return the kind. Raises `UnknownKind`, with a similar known name."""
        result = self._kinds.get(name)
        if result is None:
            near = get_close_matches(name, self._kinds, n=1, cutoff=0.5)
            raise UnknownKind(name, sorted(self._kinds), near[0] if near else None)
        return result

    def __iter__(self) -> Iterator[Kind]:
        return iter(sorted(self._kinds.values(), key=lambda kind: kind.name))

    def __len__(self) -> int:
        return len(self._kinds)

    def __contains__(self, name: object) -> bool:
        return name in self._kinds

    def check_queues(self, pools: Mapping[str, str]) -> None:
        """Refuse kinds whose queue does not exist, or whose pool can't enforce their limits.

        `pools` maps a queue's name to its pool, "prefork" or "threads".
        """
        for kind in self._kinds.values():
            if kind.queue not in pools:
                raise ConfigurationError(
                    f"kind {kind.name!r} names queue {kind.queue!r}; configured queues: {', '.join(sorted(pools))}. "
                    f"Add it to JOBPLATFORM_QUEUES."
                )
            limited = kind.soft_limit_seconds is not None or kind.hard_limit_seconds is not None
            if limited and pools[kind.queue] == "threads":
                raise ConfigurationError(
                    f"kind {kind.name!r} has a time limit, but queue {kind.queue!r} runs on threads, where nothing "
                    f"can be killed: give the queue the prefork pool or take the limit away"
                )


def _origin(kind: Kind) -> str:
    return f"{kind.handler.__module__}.{kind.handler.__qualname__}"


#: the registry that `@kind` fills
REGISTRY = KindRegistry()


def kind(
    name: str,
    *,
    queue: str,
    retry: RetryPolicy | None = None,
    max_attempts: int = 5,
    soft_limit_seconds: float | None = None,
    hard_limit_seconds: float | None = None,
    crash_limit: int = 3,
    lost_limit: int = 50,
    retry_timeouts: bool = True,
    retry_codes: Mapping[str, RetryPolicy] | None = None,
    max_age_seconds: float | None = None,
    unknown_effects: UnknownEffect = "hold",
    limit_keys: KeysOf = (),
    limit_units: UnitsOf = 1,
) -> Callable[[Callable[[P, Context], Any]], Callable[[P, Context], Any]]:
    """Register the decorated handler as a kind of job.

    The handler takes a pydantic payload and a `Context` and returns a JSON value, a pydantic model, or nothing. The
    payload's type is read from its annotation. See docs/howto/add-a-kind.md.
    """

    def register(handler: Callable[[P, Context], Any]) -> Callable[[P, Context], Any]:
        parameters = list(inspect.signature(handler).parameters)
        hints = get_type_hints(handler)
        payload = hints.get(parameters[0]) if parameters else None
        if len(parameters) != 2 or not (isinstance(payload, type) and issubclass(payload, BaseModel)):
            raise ConfigurationError(
                f"kind {name!r}: expected a handler (payload: YourPydanticModel, ctx: Context), "
                f"got {handler.__qualname__}{inspect.signature(handler)}"
            )
        REGISTRY.add(
            Kind(
                name=name,
                queue=queue,
                payload=payload,
                handler=handler,
                returns=hints.get("return"),
                description=inspect.getdoc(handler) or "",
                retry=retry or Exponential(),
                max_attempts=max_attempts,
                soft_limit_seconds=soft_limit_seconds,
                hard_limit_seconds=hard_limit_seconds,
                crash_limit=crash_limit,
                lost_limit=lost_limit,
                retry_timeouts=retry_timeouts,
                retry_codes=dict(retry_codes or {}),
                max_age_seconds=max_age_seconds,
                unknown_effects=unknown_effects,
                limit_keys=limit_keys,
                limit_units=limit_units,
            )
        )
        return handler

    return register


def load_kinds(modules: Iterable[str], pools: Mapping[str, str]) -> KindRegistry:
    """Import the modules that register kinds and check the result against the queues.

    `shop.celery:app` names a Celery app in a module: its tasks register themselves when the app is finalized.

    Raises `ConfigurationError` when a module can't be imported or a kind is invalid.
    """
    for module in modules:
        name, _, attribute = module.partition(":")
        try:
            result = importlib.import_module(name)
            if attribute:
                _finalize(module, getattr(result, attribute, None))
        except ImportError as error:
            raise ConfigurationError(
                f"JOBPLATFORM_KIND_MODULES names {module!r}, which can't be imported: {error}. "
                f"Is its package installed in this environment?"
            ) from error
    REGISTRY.check_queues(pools)
    return REGISTRY


def _finalize(named: str, app: Any) -> None:
    """Import and bind the tasks of a Celery app, as its worker does at start."""
    if not callable(getattr(app, "finalize", None)):
        raise ConfigurationError(f"JOBPLATFORM_KIND_MODULES names {named!r}: expected a Celery app, got {app!r}")
    app.loader.import_default_modules()
    app.finalize()
