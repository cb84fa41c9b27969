"""The client for code that waits: one thread, one call at a time; may be shared by threads."""

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
from jobplatform.client.calls import Call, Trouble, given
from jobplatform.client.errors import ClientError, NoAnswer, Problem, WaitTimeout, problem_of
from jobplatform.client.files import CHUNK, Download, Progress, open_upload
from jobplatform.client.models import (
    Artifact,
    Job,
    JobEvent,
    Order,
    TenantEvent,
    read_artifact,
    read_event,
    read_job,
)


class Client:
    """Calls the API of a platform at `url` with an API key.

    What may be repeated is, for up to `retry_seconds`: when no answer came, or the platform asks for it. `timeout` is
    how long one answer is waited for. `transport` is httpx2's, for tests.

    All methods raise `Problem` (by kind: `NotFound`, `Invalid`, `TooManyRequests`, …) when the API refuses, and
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
        self, kind: str, payload: Mapping[str, Any] | None = None, *, idempotency_key: str | None = None, **order: Any
    ) -> Job:
        """Submit a job; `order` is `priority`, `run_at`, `start_by`, `max_attempts`, `tags`, `unique` (see `Order`).

        It is accepted once, however often the request has to be repeated; a key of your own makes it once for all of
        your process's lives, too.
        """
        return read_job(self._ask(calls.submit(Order(kind, payload or {}, **order), idempotency_key)).json())

    def submit_many(self, orders: Iterable[Order], *, batch_size: int = 1000) -> Iterator[UUID]:
        """Submit orders as they come, in batches, each accepted as a whole; yields the ids of their jobs in order.

        Nothing is submitted before the first id is asked for. An error ends it at the batch that was refused.
        """
        source = iter(orders)
        while batch := list(islice(source, batch_size)):
            answer = self._ask(calls.submit_batch(batch)).json()
            yield from (UUID(item["id"]) for item in answer["jobs"])

    def get(self, job_id: UUID | str) -> Job:
        """Read a job."""
        return read_job(self._ask(calls.get(job_id)).json())

    def wait(self, job_id: UUID | str, timeout: float | None = None) -> Job:
        """Wait until a job has ended or died, and return it. Raises `WaitTimeout`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            asked_at = time.monotonic()
            left = calls.WAIT_SECONDS if deadline is None else min(calls.WAIT_SECONDS, deadline - time.monotonic())
            job = read_job(self._ask(calls.get(job_id, max(left, 0.0))).json())
            if job.ended:
                return job
            if deadline is not None and time.monotonic() >= deadline:
                raise WaitTimeout(f"job {job_id} is {job.state} after {timeout} s")
            if time.monotonic() - asked_at < min(left, calls.FIRST_PAUSE):  # a server that can't wait answers at once
                time.sleep(calls.FIRST_PAUSE)

    def cancel(self, job_id: UUID | str, reason: str | None = None) -> Job:
        """Call a job off. A running one is told, and killed after a grace. Raises `Conflict` when it has ended."""
        return read_job(self._ask(calls.control(job_id, "cancel", given(reason=reason), safe=True)).json())

    def replay(self, job_id: UUID | str, reason: str | None = None) -> Job:
        """Run a dead, cancelled or expired job again: same id, its history kept."""
        return read_job(self._ask(calls.control(job_id, "replay", given(reason=reason), safe=False)).json())

    def explain(self, job_id: UUID | str) -> dict[str, Any]:
        """Tell why a job is where it is, as the API does."""
        result: dict[str, Any] = self._ask(Call("GET", calls.job_path(job_id, "/explain"))).json()
        return result

    def events(self, job_id: UUID | str) -> list[dict[str, Any]]:
        """Read a job's history so far, as the API tells it."""
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
            page = self._ask(Call("GET", "/v1/jobs", given(limit=page_size, cursor=cursor, **wanted))).json()
            yield from map(read_job, page["jobs"])
            cursor = page["next_cursor"]
            if cursor is None:
                return

    # --- streams

    def stream(self, job_id: UUID | str, *, last_id: str | None = None) -> Iterator[JobEvent]:
        """Yield what happens to a job, from its beginning (or behind `last_id`) to its end, which is the last event.

        A connection that breaks is made again, and goes on where it was.
        """
        for name, event_id, data in self._follow(calls.job_path(job_id, "/events"), {}, last_id):
            yield JobEvent(name, data, event_id)
            if name == "end":
                return
        # it was followed to its end before, and that is all that the API has to say
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
        """Yield the events of all the tenant's jobs, without an end: behind `after`, an event's id, or from now on.

        `state` is that of the job after the event: `["succeeded", "dead"]` are the ends that callers care for.
        Keep the id of the last one that you have handled, and nothing is missed however long you are away.
        """
        for _, _, data in self._follow("/v1/events", given(event=event, state=state, kind=kind, queue=queue), after):
            yield read_event(data)

    def _follow(
        self, path: str, params: Mapping[str, Any], last_id: str | None
    ) -> Iterator[tuple[str, str | None, dict[str, Any]]]:
        call, last, trouble = Call("GET", path, params), last_id, Trouble(self._retry_seconds)
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
                    trouble.over()
                    for item in source:
                        known, last = last, item.id or last
                        if item.data:
                            yield item.event, item.id if item.id != known else None, item.json()  # type: ignore[misc]
                continue  # the server ends a stream now and then, and expects us again
            except httpx2.TransportError as error:
                failure: ClientError = NoAnswer(f"the stream at {path} broke: {error!r}")
            except Problem as error:
                failure = error
            time.sleep(trouble.pause(call, failure))

    # --- files

    def upload(
        self, source: Path | bytes, *, filename: str | None = None, on_progress: Progress | None = None
    ) -> Artifact:
        """Put up a file to be used by jobs, as `{"artifact": id}` in a payload. `on_progress` gets (sent, of)."""
        upload = open_upload(source, filename)

        def parts() -> Iterator[bytes]:
            with upload.open() as file:
                while part := file.read(CHUNK):
                    yield part
                    upload.sent(file.tell(), on_progress)

        call = Call("POST", "/v1/uploads", {"filename": upload.name}, extra_seconds=upload.patience)
        return read_artifact(self._ask(call, parts, {"Content-Length": str(upload.size)}).json())

    def artifacts(self, job_id: UUID | str) -> list[Artifact]:
        """List the files that a job has put out."""
        return [
            read_artifact(item)
            for item in self._ask(Call("GET", calls.job_path(job_id, "/artifacts"))).json()["artifacts"]
        ]

    def download(self, artifact: Artifact, target: Path, *, on_progress: Progress | None = None) -> Path:
        """Bring a file down to `target`; goes on where it was when the connection breaks, and checks the SHA-256."""
        download, trouble = Download(artifact, target), Trouble(self._retry_seconds)
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
                            trouble.over()
                            download.came(file.tell(), on_progress)
                continue
            except httpx2.TransportError as error:
                failure: ClientError = NoAnswer(f"the download broke: {error!r}")
            except Problem as error:
                failure = error
            time.sleep(trouble.pause(call, failure))
        return download.finish()

    # --- whatever else there is

    def call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> Any:
        """Call any operation of the API (`/docs` has them all) and return its JSON; None when it has none.

        Repeated like the others: GET, PUT, DELETE and what has a key whatever went wrong, the rest when nothing was
        done.
        """
        response = self._ask(calls.other(method, path, given(**(params or {})), body, idempotency_key))
        return response.json() if response.content else None

    # --- a call

    def _ask(
        self,
        call: Call,
        parts: Callable[[], Iterator[bytes]] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx2.Response:
        """Carry a call out, again where that may help; returns an answer that is no error."""
        trouble = Trouble(self._retry_seconds)
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
            time.sleep(trouble.pause(call, failure))


def problem_in(response: httpx2.Response) -> Problem:
    """Return the problem of an answer that has been read."""
    try:
        body: Any = response.json()
    except ValueError:
        body = response.text
    return problem_of(response.status_code, body, response.headers.get("Retry-After"))
