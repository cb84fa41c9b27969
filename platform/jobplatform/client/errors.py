"""Errors of the client: the API's problems (RFC 9457) by status, no answer, a failed job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class ClientError(Exception):
    """The base class of all errors of the client."""


class NoAnswer(ClientError):
    """No answer came: the API can't be reached, or the connection broke. The request may have been carried out."""


class WaitTimeout(ClientError):
    """The job has not ended in time; it continues."""


class JobFailed(ClientError):
    """The job has ended without success; `job` has its state and error."""

    def __init__(self, job: Any) -> None:
        error = job.error or {}
        super().__init__(f"job {job.id} ({job.kind}) is {job.state}: {error.get('message', 'no reason given')}")
        self.job = job


class Problem(ClientError):
    """The API has refused the request: `status`, `code`, `title`, `detail`, and `errors` (field, expected, got)."""

    def __init__(self, status: int, body: Mapping[str, Any], retry_after: float | None = None) -> None:
        self.status = status
        self.code = str(body.get("code", "unknown"))
        self.title = str(body.get("title", ""))
        self.detail = str(body.get("detail", ""))
        self.errors: list[dict[str, str]] = list(body.get("errors") or ())
        self.body = body
        #: seconds after which the API asks for a retry
        self.retry_after = retry_after
        fields = "".join(
            f"\n  {error.get('field')}: expected {error.get('expected')}; got {error.get('got')}"
            for error in self.errors
        )
        super().__init__(f"{self.detail or self.title or 'the API has refused'} [{self.code}, {status}]{fields}")


class Unauthorized(Problem):
    """401: no API key, or one that is not valid."""


class Forbidden(Problem):
    """403: the key lacks the scope or kind."""


class NotFound(Problem):
    """404: this tenant has no such resource."""


class Conflict(Problem):
    """409: not possible in this state, or a request with the same key is in progress."""


class Invalid(Problem):
    """400, 413, 415, 422: the request is invalid; `errors` names the fields."""


class TooManyRequests(Problem):
    """429: the key's rate or the tenant's quota is used up."""


class Unavailable(Problem):
    """502, 503, 504: the platform is temporarily unavailable."""


_KINDS: dict[int, type[Problem]] = {
    400: Invalid,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    413: Invalid,
    415: Invalid,
    422: Invalid,
    429: TooManyRequests,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
}


def problem_of(status: int, body: Any, retry_after: str | None) -> Problem:
    """Return the error for an error response; `body` is its JSON, or the body that a proxy has sent instead."""
    known = body if isinstance(body, Mapping) else {"detail": f"an answer that is no problem+json: {str(body)[:200]}"}
    seconds = float(retry_after) if retry_after is not None and retry_after.isdigit() else None
    return _KINDS.get(status, Problem)(status, known, seconds)
