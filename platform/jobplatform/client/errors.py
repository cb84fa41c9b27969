"""What a call can end in besides an answer: the API's problems (RFC 9457) by kind, no answer, a job that failed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class ClientError(Exception):
    """The root of all errors of the client."""


class NoAnswer(ClientError):
    """No answer came: the API can't be reached, or the connection broke. The request may have been carried out."""


class WaitTimeout(ClientError):
    """The job has not ended in time; it goes on."""


class JobFailed(ClientError):
    """The job has ended without success; `job` says how."""

    def __init__(self, job: Any) -> None:
        error = job.error or {}
        super().__init__(f"job {job.id} ({job.kind}) is {job.state}: {error.get('message', 'no reason is told')}")
        self.job = job


class Problem(ClientError):
    """The API has refused, and says why: `status`, `code`, `title`, `detail`, and `errors` (field, expected, got)."""

    def __init__(self, status: int, body: Mapping[str, Any], retry_after: float | None = None) -> None:
        self.status = status
        self.code = str(body.get("code", "unknown"))
        self.title = str(body.get("title", ""))
        self.detail = str(body.get("detail", ""))
        self.errors: list[dict[str, str]] = list(body.get("errors") or ())
        self.body = body
        #: seconds after which the API asks to be tried again
        self.retry_after = retry_after
        fields = "".join(
            f"\n  {error.get('field')}: expected {error.get('expected')}; got {error.get('got')}"
            for error in self.errors
        )
        super().__init__(f"{self.detail or self.title or 'the API has refused'} [{self.code}, {status}]{fields}")


class Unauthorized(Problem):
    """401: no API key, or one that is not valid."""


class Forbidden(Problem):
    """403: this key may not do that."""


class NotFound(Problem):
    """404: there is no such thing for this tenant."""


class Conflict(Problem):
    """409: not in this state, or another request with the key is being worked on."""


class Invalid(Problem):
    """400, 413, 415, 422: the request is not as expected; `errors` names the fields."""


class TooManyRequests(Problem):
    """429: too many requests with this key, or too many jobs of the tenant wait."""


class Unavailable(Problem):
    """502, 503, 504: the platform can't answer now."""


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
    """Return the error for an answer that is none; `body` is its JSON, or anything a proxy has put in its place."""
    known = body if isinstance(body, Mapping) else {"detail": f"an answer that is no problem+json: {str(body)[:200]}"}
    seconds = float(retry_after) if retry_after is not None and retry_after.isdigit() else None
    return _KINDS.get(status, Problem)(status, known, seconds)
