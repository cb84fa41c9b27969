"""An endpoint as data: the route, the function, and what /openapi.json says of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from pydantic import BaseModel

from jobplatform.domain.access import Scope


@dataclass(frozen=True)
class Operation:
    """One endpoint of the API. `path` is Flask's form, like `/jobs/<uuid:job_id>`."""

    method: Literal["GET", "POST", "PATCH", "PUT", "DELETE"]
    path: str
    endpoint: Callable[..., Any]
    summary: str
    tag: str
    #: what the API key must be good for; None: an operator's key
    scope: Scope | None
    status: int = 200
    answer: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    headers: tuple[tuple[str, str], ...] = ()
    problems: tuple[int, ...] = ()
    binary_body: bool = False
    binary_answer: bool = False
    body_required: bool = True
    #: takes a JSON value per line, too
    ndjson: bool = False
    #: answers a stream of Server-Sent Events where that is asked for (api.streams)
    streams: bool = False
    #: whether the audit log tells of it; what makes jobs is in their own history
    logged: bool = True
    #: further statuses that are no problems, with what they mean
    also: tuple[tuple[int, str], ...] = ()
    #: what these answer, where it is something else
    also_answers: Mapping[int, type[BaseModel]] = field(default_factory=dict)


F = TypeVar("F", bound=Callable[..., Any])
_DECLARED: list[Operation] = []


def operation(
    method: Literal["GET", "POST", "PATCH", "PUT", "DELETE"],
    path: str,
    summary: str,
    tag: str,
    scope: Scope | None,
    **more: Any,
) -> Callable[[F], F]:
    """Declare the decorated function as an endpoint; the options are the fields of `Operation`."""

    def declare(endpoint: F) -> F:
        _DECLARED.append(Operation(method, path, endpoint, summary, tag, scope, **more))
        return endpoint

    return declare


def declared(module: str) -> list[Operation]:
    """Return the operations that a module declares, in their order there."""
    return [operation for operation in _DECLARED if operation.endpoint.__module__ == module]
