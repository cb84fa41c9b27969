"""The synchronous client; it may be shared by threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any
from uuid import UUID

import httpx2

from jobplatform.client import calls
from jobplatform.client.calls import Call, RetryState, query_params
from jobplatform.client.errors import ClientError, NoAnswer, Problem, WaitTimeout, problem_of
from jobplatform.client.files import CHUNK, Download, Progress, open_upload
from jobplatform.client.models import (
    Artifact,
    Job,
    JobEvent,
    JobRequest,
    TenantEvent,
    read_artifact,
    read_event,
    read_job,
)


class Client:
    """Calls the API of a platform at `url` with an API key.

    Requests are retried for up to `retry_seconds` when no answer came, or when the platform asks for it. `timeout` is
    the time to wait for one answer (s). `transport` is httpx2's, for tests.

    All methods raise a subclass of `Problem` (`NotFound`, `Invalid`, `TooManyRequests`, …) when the API refuses, and
    `NoAnswer` when none came.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        timeout: float = 10.0,
        retry_seconds: float = 30.0,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        self._timeout, self._retry_seconds = timeout, retry_seconds
        self._http = httpx2.Client(
            base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=timeout, transport=transport
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    # --- jobs

    def submit(
        self, kind: str, payload: Mapping[str, Any] | None = None, *, idempotency_key: str | None = None, **options: Any
    ) -> Job:
        """Submit a job; `options` are `priority`, `run_at`, `start_by`, `max_attempts`, `tags`, `unique` (see
        `JobRequest`).

        It is accepted once, however often the request is retried. An `idempotency_key` of your own also holds across
        restarts of your process.
        """
        return read_job(self._ask(calls.submit(JobRequest(kind, payload or {}, **options), idempotency_key)).json())

    def submit_many(self, requests: Iterable[JobRequest], *, batch_size: int = 1000) -> Iterator[UUID]:
        """Submit jobs in batches, each accepted as a whole; yield the ids of the jobs in order.

        Nothing is submitted before the first id is requested. An error ends it at the batch that was refused.
        """
        source = iter(requests)
        while batch := list(islice(source, batch_size)):
            answer = self._ask(calls.submit_batch(batch)).json()
            yield from (UUID(item["id"]) for item in answer["jobs"])

    def get(self, job_id: UUID | str) -> Job:
        """Read a job."""
        return read_job(self._ask(calls.get(job_id)).json())

    def wait(self, job_id: UUID | str, timeout: float | None = None) -> Job:
        """Wait until a job has ended or is dead-lettered, and return it. Raises `WaitTimeout`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            asked_at = time.monotonic()
            left = calls.WAIT_SECONDS if deadline is None else min(calls.WAIT_SECONDS, deadline - time.monotonic())
            job = read_job(self._ask(calls.get(job_id, max(left, 0.0))).json())
            if job.ended:
                return job
            if deadline is not None and time.monotonic() >= deadline:
                raise WaitTimeout(f"job {job_id} is {job.state} after {timeout} s")
            # a server without long polls answers at once
            if time.monotonic() - asked_at < min(left, calls.FIRST_PAUSE):
                time.sleep(calls.FIRST_PAUSE)

    def cancel(self, job_id: UUID | str, reason: str | None = None) -> Job:
        """Cancel a job; a running one is killed after a grace period. Raises `Conflict` when it has ended."""
        return read_job(self._ask(calls.control(job_id, "cancel", query_params(reason=reason), safe=True)).json())

    def replay(self, job_id: UUID | str, reason: str | None = None) -> Job:
        """Run a dead, cancelled or expired job again, under the same id and with its history."""
        return read_job(self._ask(calls.control(job_id, "replay", query_params(reason=reason), safe=False)).json())

    def explain(self, job_id: UUID | str) -> dict[str, Any]:
        """Return the API's explanation of a job's state."""
        result: dict[str, Any] = self._ask(Call("GET", calls.job_path(job_id, "/explain"))).json()
        return result

    def events(self, job_id: UUID | str) -> list[dict[str, Any]]:
        """Return a job's events so far, oldest first."""
        result: list[dict[str, Any]] = []
        while True:
            params = {"after": result[-1]["id"] if result else 0, "limit": 1000}
            page = self._ask(Call("GET", calls.job_path(job_id, "/events"), params)).json()["events"]
            result += page
            if len(page) < 1000:
                return result

    def iter_jobs(self, *, page_size: int = 100, **wanted: Any) -> Iterator[Job]:
        """Yield jobs, newest first, as `GET /v1/jobs` filters them: by `state`, `kind`, `created_after`, …"""
        cursor = None
        while True:
            page = self._ask(Call("GET", "/v1/jobs", query_params(limit=page_size, cursor=cursor, **wanted))).json()
            yield from map(read_job, page["jobs"])
            cursor = page["next_cursor"]
            if cursor is None:
                return

    # --- streams

    def stream(self, job_id: UUID | str, *, last_id: str | None = None) -> Iterator[JobEvent]:
        """Yield the events of a job, from its beginning (or after `last_id`) to its end, which is the last event.

        A broken connection is opened again and continues after the last event.
        """
        for name, event_id, data in self._follow(calls.job_path(job_id, "/events"), {}, last_id):
            yield JobEvent(name, data, event_id)
            if name == "end":
                return
        # the stream had already been read to its end
        yield JobEvent("end", self.get(job_id).raw)

    def follow(
        self,
        *,
        after: str | None = None,
        event: Sequence[str] | None = None,
        state: Sequence[str] | None = None,
        kind: Sequence[str] | None = None,
        queue: Sequence[str] | None = None,
    ) -> Iterator[TenantEvent]:
        """Yield the events of all the tenant's jobs, without an end: after `after`, an event's id, or from now on.

        `state` filters by the job's state after the event: `["succeeded", "dead"]` is usually enough.
        Keep the id of the last event that you have handled: with it nothing is missed, however long the interruption.
        """
        for _, _, data in self._follow(
            "/v1/events", query_params(event=event, state=state, kind=kind, queue=queue), after
        ):
            yield read_event(data)

    def _follow(
        self, path: str, params: Mapping[str, Any], last_id: str | None
    ) -> Iterator[tuple[str, str | None, dict[str, Any]]]:
        call, last, retry_state = Call("GET", path, params), last_id, RetryState(self._retry_seconds)
        while True:
            headers = {"Last-Event-ID": last} if last else {}
            try:
                with self._http.sse(
                    path, params=params, headers=headers, timeout=calls.STREAM_TIMEOUT, max_event_size=None
                ) as source:
                    if source.response.status_code == 204:
                        return
                    if source.response.status_code >= 400:
                        source.response.read()
                        raise problem_in(source.response)
                    retry_state.reset()
                    for item in source:
                        known, last = last, item.id or last
                        if item.data:
                            yield item.event, item.id if item.id != known else None, item.json()  # type: ignore[misc]
                continue  # the server ends streams from time to time, and expects a new request
            except httpx2.TransportError as error:
                failure: ClientError = NoAnswer(f"the stream at {path} broke: {error!r}")
            except Problem as error:
                failure = error
            time.sleep(retry_state.pause(call, failure))

    # --- files

    def upload(
        self, source: Path | bytes, *, filename: str | None = None, on_progress: Progress | None = None
    ) -> Artifact:
        """Upload a file for payloads of jobs (`{"artifact": id}`). `on_progress` gets bytes (sent, total)."""
        upload = open_upload(source, filename)

        def parts() -> Iterator[bytes]:
            with upload.open() as file:
                while part := file.read(CHUNK):
                    yield part
                    upload.sent(file.tell(), on_progress)

        call = Call("POST", "/v1/uploads", {"filename": upload.name}, extra_seconds=upload.patience)
        return read_artifact(self._ask(call, parts, {"Content-Length": str(upload.size)}).json())

    def artifacts(self, job_id: UUID | str) -> list[Artifact]:
        """Return the output files of a job."""
        return [
            read_artifact(item)
            for item in self._ask(Call("GET", calls.job_path(job_id, "/artifacts"))).json()["artifacts"]
        ]

    def download(self, artifact: Artifact, target: Path, *, on_progress: Progress | None = None) -> Path:
        """Download a file to `target`; a broken connection is resumed, and the SHA-256 is checked."""
        download, retry_state = Download(artifact, target), RetryState(self._retry_seconds)
        call = Call("GET", calls.artifact_path(artifact.id))
        while not download.done:
            try:
                with self._http.stream("GET", call.path, headers=download.headers()) as response:
                    if response.status_code >= 400:
                        response.read()
                        raise problem_in(response)
                    with download.open(response.status_code) as file:
                        for part in response.iter_bytes(CHUNK):
                            file.write(part)
                            retry_state.reset()
                            download.came(file.tell(), on_progress)
                continue
            except httpx2.TransportError as error:
                failure: ClientError = NoAnswer(f"the download broke: {error!r}")
            except Problem as error:
                failure = error
            time.sleep(retry_state.pause(call, failure))
        return download.finish()

    # --- any other operation

    def call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> Any:
        """Call any operation of the API (`/docs` lists them) and return its JSON; None without a body.

        Retried like the other methods: GET, PUT, DELETE and requests with a key after any failure, others only when
        nothing was done.
        """
        response = self._ask(calls.other(method, path, query_params(**(params or {})), body, idempotency_key))
        return response.json() if response.content else None

    # --- sending

    def _ask(
        self,
        call: Call,
        parts: Callable[[], Iterator[bytes]] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx2.Response:
        """Send a call, with retries, and return its successful answer."""
        retry_state = RetryState(self._retry_seconds)
        while True:
            try:
                response = self._http.request(
                    call.method,
                    call.path,
                    params=dict(call.params),
                    content=parts() if parts is not None else call.content,
                    headers={**call.headers, **(headers or {})},
                    timeout=self._timeout + call.extra_seconds,
                )
                if response.status_code < 400:
                    return response
                failure: ClientError = problem_in(response)
            except httpx2.TransportError as error:
                failure = NoAnswer(f"{call.method} {str(self._http.base_url).rstrip('/')}{call.path}: {error!r}")
            time.sleep(retry_state.pause(call, failure))


def problem_in(response: httpx2.Response) -> Problem:
    """Return the problem of an error answer whose body has been read."""
    try:
        body: Any = response.json()
    except ValueError:
        body = response.text
    return problem_of(response.status_code, body, response.headers.get("Retry-After"))
