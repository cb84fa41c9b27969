"""Errors as RFC 9457 problem+json, with a stable `code`; `detail` says what was expected and received, and the fix."""

from __future__ import annotations

from typing import Any

import orjson
from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from api.floods import Floods
from api.responses import TROUBLE
from jobplatform.errors import (
    BodyTooLarge,
    DuplicateJob,
    FieldError,
    IdempotencyInProgress,
    InvalidRequest,
    JobPlatformError,
    QuotaExceeded,
    RateLimited,
    UnknownKind,
    all_errors,
)
from jobplatform.observe.logs import get_log
from jobplatform.usecases.admit import Rate

log = get_log(__name__)
floods = Floods()

RETRY_AFTER_SECONDS = 2

#: status, headers and body
Reply = tuple[int, list[tuple[str, str]], bytes]


def codes() -> list[tuple[str, int, str]]:
    """Return (code, status, meaning) of every error that the API can answer with."""
    answered = [error for error in all_errors() if error.status != JobPlatformError.status]
    return sorted((error.code, error.status, (error.__doc__ or "").strip().splitlines()[0]) for error in answered)


def problem(status: int, code: str, title: str, detail: str, **more: Any) -> Response:
    """Return a problem+json response."""
    body = {"type": f"/docs/errors#{code}", "title": title, "status": status, "code": code, "detail": detail, **more}
    headers = {}
    if status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="jobplatform"'
    if isinstance(retry_after := more.pop("retry_after", None), int):
        headers["Retry-After"] = str(retry_after)
    elif status == 503 or code == IdempotencyInProgress.code:
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return Response(orjson.dumps(body), status, headers, mimetype="application/problem+json")


def from_error(error: JobPlatformError) -> Response:
    """Return the problem of a `JobPlatformError`."""
    title = (type(error).__doc__ or "").strip().splitlines()[0]
    more: dict[str, Any] = {}
    if isinstance(error, InvalidRequest) and error.errors:
        more["errors"] = [item.as_dict() for item in error.errors]
    if isinstance(error, UnknownKind):
        more["errors"] = [{"field": "kind", "expected": _one_of(error), "got": error.name}]
    if isinstance(error, DuplicateJob):
        more["job_id"] = str(error.job_id)
    if isinstance(error, QuotaExceeded | RateLimited):
        more["retry_after"] = error.retry_after
    if error.status == 500:
        log.error("request_failed", code=error.code, error=str(error))
    elif error.status > 500:
        floods.note(error.code, str(error))
    response = problem(error.status, error.code, title, str(error), **more)
    if isinstance(error, RateLimited):
        response.headers.update(Rate(error.requests, 0, error.retry_after).headers())
    return response


def as_reply(response: Response) -> Reply:
    """Return a problem in granian's form, for answers without Flask."""
    headers = [(name.lower(), value) for name, value in response.headers.items() if name.lower() != "content-length"]
    return response.status_code, headers, response.get_data()


def _one_of(error: UnknownKind) -> str:
    return f"{error.suggestion!r}?" if error.suggestion else f"one of {', '.join(error.known)}"


def from_bug(error: Exception, path: str) -> Response:
    """Log an unexpected error, and return its problem. JSON nested too deeply is the caller's fault."""
    if isinstance(error, RecursionError):
        wrong = FieldError("body", "JSON of fewer levels", "more")
        return from_error(InvalidRequest("the request is nested too deeply", (wrong,)))
    log.exception("request_failed", path=path, error=repr(error))
    return problem(500, "internal_error", "Internal error", "a bug on our side; it was logged, and nothing is lost")


def register(app: Flask) -> None:
    """Answer every error of the application as problem+json."""

    @app.before_request
    def _raise_trouble() -> None:
        trouble = request.environ.get(TROUBLE)
        if trouble is not None:
            raise trouble

    @app.errorhandler(JobPlatformError)
    def _ours(error: JobPlatformError) -> Response:
        return from_error(error)

    @app.errorhandler(HTTPException)
    def _werkzeugs(error: HTTPException) -> Response:
        status = error.code or 500
        if status == 413:
            return from_error(BodyTooLarge())
        code = (error.name or "error").lower().replace(" ", "_")
        detail = error.description or error.name or ""
        if status == 404:
            detail = f"there is nothing at {request.path}: see /docs"
        if status == 405:
            detail = f"{request.method} is not possible at {request.path}: see /docs"
        answer = problem(status, code, error.name or "Error", detail)
        if allowed := getattr(error, "valid_methods", None):
            answer.headers["Allow"] = ", ".join(allowed)
        return answer

    @app.errorhandler(Exception)
    def _bugs(error: Exception) -> Response:
        return from_bug(error, request.path)
