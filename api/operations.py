"""An endpoint as data: route, function, and description in /openapi.json."""

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
    #: required scope of the API key; None: an operator's key
    scope: Scope | None
    status: int = 200
    answer: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    headers: tuple[tuple[str, str], ...] = ()
    #: statuses of its own problems; `problem_statuses` adds those that follow from the other fields
    problems: tuple[int, ...] = ()
    binary_body: bool = False
    binary_answer: bool = False
    body_required: bool = True
    #: also accepts NDJSON (one value per line)
    ndjson: bool = False
    #: answers Server-Sent Events on request (api.streams)
    streams: bool = False
    #: whether the audit log records it; submissions are in the jobs' history instead
    logged: bool = True
    #: further successful statuses and their meaning
    also: tuple[tuple[int, str], ...] = ()
    #: bodies of these statuses, if different
    also_answers: Mapping[int, type[BaseModel]] = field(default_factory=dict)

    @property
    def problem_statuses(self) -> set[int]:
        """All statuses of problems that it can answer with: keys, rates and the ledger, its body, its query."""
        of_body = (400, 413, 415, 422) if self.body is not None else ()
        of_query = (422,) if self.query is not None else ()
        return {401, 403, 429, 503, *of_body, *of_query, *self.problems}


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
    """Return the operations that a module declares, in order of declaration."""
    return [operation for operation in _DECLARED if operation.endpoint.__module__ == module]
