"""Requests as data, and the rules of retries, for both clients; without any I/O."""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid4

from jobplatform.client.errors import ClientError, Conflict, NoAnswer, Problem, TooManyRequests, Unavailable
from jobplatform.client.models import JobRequest

log = logging.getLogger("jobplatform.client")

#: length of one long poll (s): short enough for every proxy
WAIT_SECONDS = 30.0
#: pauses between attempts (s): the first, doubled each time up to the longest
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0
#: read time-out of streams (s): the server sends a comment every 15 s
STREAM_TIMEOUT = 45.0
JSON = {"Content-Type": "application/json"}
NDJSON = {"Content-Type": "application/x-ndjson"}


@dataclass(frozen=True)
class Call:
    """A request. `safe`: idempotent, so it may be retried when no answer came."""

    method: str
    path: str
    params: Mapping[str, Any] = field(default_factory=dict)
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    safe: bool = True
    #: seconds to wait for the answer in addition to the client's time-out
    extra_seconds: float = 0.0


def next_pause(call: Call, failure: ClientError, tries: int, seconds_left: float) -> float | None:
    """Return how long to wait before a request is retried (s); None: it is not retried.

    Transient failures (no answer, 429, 502 to 504) are retried while there is time; an unsafe request only when the
    API says that nothing was done. The API's Retry-After takes precedence, else the pauses double, each with random
    jitter, so that callers that were cut off together do not return together.
    """
    in_progress = (
        isinstance(failure, Conflict) and failure.code == "idempotency_in_progress"
    )  # an earlier request with this key
    if isinstance(failure, TooManyRequests | Unavailable) or in_progress:
        assert isinstance(failure, Problem)
        nothing_done = failure.status == 429 or (
            failure.status == 503 and failure.code not in ("outcome_unknown", "unknown")
        )
        if not (call.safe or nothing_done):
            return None
    elif not (isinstance(failure, NoAnswer) and call.safe):
        return None
    pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2**tries) * (0.5 + random.random() / 2)
    asked = getattr(failure, "retry_after", None)
    pause = max(pause, asked) if asked is not None else pause
    return pause if pause < seconds_left else None


class RetryState:
    """The failures of an operation since its last success."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since: float | None = None
        self._tries = 0

    def reset(self) -> None:
        """Note a success."""
        self._since, self._tries = None, 0

    def pause(self, call: Call, failure: ClientError) -> float:
        """Return how long to wait before the next attempt (s). Raises `failure` when there is none."""
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        pause = next_pause(call, failure, self._tries, self._seconds - (now - self._since))
        if pause is None:
            raise failure
        if self._tries == 0 and isinstance(failure, NoAnswer | Unavailable):
            log.warning("%s: asking again for up to %.0f s", failure, self._seconds)
        self._tries += 1
        return pause


def query_params(**values: Any) -> dict[str, Any]:
    """Return query parameters without those that are None; times and lists in the API's format."""
    params = {}
    for name, value in values.items():
        if value is None:
            continue
        if isinstance(value, datetime):
            value = value.isoformat()
        elif not isinstance(value, str) and isinstance(value, Iterable):
            value = ",".join(map(str, value))
        params[name] = value
    return params


def encode(value: Any) -> bytes:
    """Return the JSON of a value."""
    return json.dumps(value, separators=(",", ":"), default=_encode_more).encode()


def _encode_more(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"expected JSON values, got {type(value).__name__}: {value!r}")


def submit(request: JobRequest, idempotency_key: str | None) -> Call:
    """`POST /v1/jobs`. The key is made once, so that a retry submits the same job."""
    key = {"Idempotency-Key": idempotency_key or str(uuid4())}
    return Call("POST", "/v1/jobs", content=encode(request.as_json()), headers=JSON | key)


def submit_batch(requests: Iterable[JobRequest], idempotency_key: str | None = None) -> Call:
    """`POST /v1/jobs/batch`: all of them, or none."""
    lines = b"\n".join(encode(request.as_json()) for request in requests)
    key = {"Idempotency-Key": idempotency_key or str(uuid4())}
    return Call("POST", "/v1/jobs/batch", content=lines, headers=NDJSON | key, extra_seconds=60)


def get(job_id: UUID | str, wait: float = 0.0) -> Call:
    """`GET /v1/jobs/{id}`."""
    params = {"wait": f"{wait:.3f}"} if wait else {}
    return Call("GET", job_path(job_id), params, extra_seconds=wait)


def control(job_id: UUID | str, action: str, body: Mapping[str, Any], *, safe: bool) -> Call:
    """`POST /v1/jobs/{id}/{action}`."""
    return Call("POST", f"{job_path(job_id)}/{action}", content=encode(body), headers=JSON, safe=safe)


def other(
    method: str,
    path: str,
    params: Mapping[str, Any],
    body: Mapping[str, Any] | None,
    idempotency_key: str | None,
) -> Call:
    """Any operation."""
    content = encode(body) if body is not None else None
    headers = (JSON if body is not None else {}) | ({"Idempotency-Key": idempotency_key} if idempotency_key else {})
    safe = method in ("GET", "PUT", "DELETE") or idempotency_key is not None
    return Call(method, path, params, content=content, headers=headers, safe=safe)


def job_path(job_id: UUID | str, more: str = "") -> str:
    """Return the path of a job, or of a resource below it."""
    return f"/v1/jobs/{quote(str(job_id), safe='')}{more}"


def artifact_path(artifact_id: UUID | str) -> str:
    """Return the path of a file's content."""
    return f"/v1/artifacts/{quote(str(artifact_id), safe='')}"
