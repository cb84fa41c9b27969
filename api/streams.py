"""Server-Sent Events: `GET /v1/jobs/{id}/events` and `GET /v1/events` with `Accept: text/event-stream`.

A stream holds no thread: it runs on the event loop, and the hub publishes events to it. It first reads past events
after `Last-Event-ID`, then, without a gap, those of the hub (docs/howto/follow-jobs.md).
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qsl
from uuid import UUID

from api import problems
from api.hub import Follower, Hub, Reread
from api.metrics import count_request, ignore_metric_errors
from api.responses import EVENTS, as_json
from api.services import Services
from api.threads import RequestThreads
from api.v1.schemas.events import FeedQuery
from api.v1.schemas.jobs import EventsQuery
from jobplatform.domain.access import Scope
from jobplatform.domain.feeds import FeedEvent, FeedPosition, Wanted, read_position
from jobplatform.domain.jobs import JobView
from jobplatform.domain.states import SETTLED
from jobplatform.domain.submissions import check
from jobplatform.errors import FieldError, InvalidRequest, JobPlatformError, TooManyStreams
from jobplatform.observe.metrics import api_metrics
from jobplatform.usecases import read_feed, read_jobs
from jobplatform.usecases.admit import Caller, admit

_JOB = re.compile(r"/v1/jobs/([0-9a-fA-F-]{36})/events/?\Z")
_FEED = re.compile(r"/v1/events/?\Z")
HEAD = [
    ("content-type", f"{EVENTS}; charset=utf-8"),
    ("cache-control", "no-store"),
    ("x-accel-buffering", "no"),  # nginx would buffer the stream
]
#: interval of comments (s), which keep proxies from closing a quiet stream and detect disconnected callers
PING_SECONDS = 15.0
#: maximum duration of a stream (s); the caller reconnects, so no process is bound to a stream forever
LONGEST_SECONDS = 3600.0
RETRY_MS = 2000
PAGE = 1000


class Streams:
    """The streams of one process."""

    def __init__(self, services: Services, threads: RequestThreads, hub: Hub, most: int) -> None:
        self._services, self._threads, self._hub, self._most = services, threads, hub, most
        self._ending = False
        #: open streams, and those being set up
        self._open = 0

    def end(self) -> None:
        """End all streams and refuse new ones: the process ends, and callers reconnect elsewhere."""
        self._ending = True
        self._hub.end_all()

    def takes(self, scope: Any) -> bool:
        """Return whether this request asks for a stream."""
        return (
            scope.method == "GET"
            and EVENTS in (scope.headers.get("accept") or "")
            and bool(_JOB.match(scope.path) or _FEED.match(scope.path))
        )

    async def answer(self, scope: Any, protocol: Any) -> None:
        """Answer a request for a stream; return when the stream has ended."""
        began = time.perf_counter()
        of_job = _JOB.match(scope.path)
        endpoint = "list_events" if of_job else "list_feed"
        try:
            caller = await self._threads.run(admit, self._services.ledger, scope.headers.get("authorization"))
            caller.check_scope(Scope.READ)
            if self._ending or self._open >= self._most:
                raise TooManyStreams(self._most)
        except JobPlatformError as error:
            self._refuse(protocol, endpoint, problems.from_error(error), began)
            return
        self._open += 1  # immediately: other requests may be counted while this one is set up
        try:
            await self._begin(caller, scope, protocol, of_job[1] if of_job else None, began)
        finally:
            self._open -= 1

    async def _begin(self, caller: Caller, scope: Any, protocol: Any, job_id: str | None, began: float) -> None:
        endpoint = "list_events" if job_id else "list_feed"
        try:
            parts = await self._of_job(caller, scope, job_id) if job_id else await self._of_feed(caller, scope)
        except JobPlatformError as error:
            self._refuse(protocol, endpoint, problems.from_error(error), began)
            return
        except Exception as error:
            self._refuse(protocol, endpoint, problems.from_bug(error, scope.path), began)
            return
        if parts is None:
            count_request(endpoint, "GET", 204, time.perf_counter() - began)
            protocol.response_empty(204, [])
            return
        count_request(endpoint, "GET", 200, time.perf_counter() - began)
        with ignore_metric_errors():
            api_metrics().streams.inc()
        try:
            await self._send(protocol, parts)
        finally:
            with ignore_metric_errors():
                api_metrics().streams.dec()

    def _refuse(self, protocol: Any, endpoint: str, problem: Any, began: float) -> None:
        count_request(endpoint, "GET", problem.status_code, time.perf_counter() - began)
        protocol.response_bytes(*problems.as_reply(problem))

    async def _send(self, protocol: Any, parts: AsyncIterator[bytes]) -> None:
        """Send a stream until it ends or the caller disconnects."""
        transport = protocol.response_stream(200, HEAD)

        async def send() -> None:
            async for part in parts:
                await transport.send_bytes(part)

        sending = asyncio.ensure_future(send())
        leaving = asyncio.ensure_future(protocol.client_disconnect())
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            sending.cancel()
            try:
                await sending
            except (asyncio.CancelledError, RuntimeError, JobPlatformError):
                pass  # the caller or the ledger has disconnected: the caller reconnects with its last event id
            await parts.aclose()  # type: ignore[attr-defined]

    # --- a job

    async def _of_job(self, caller: Caller, scope: Any, job_text: str) -> AsyncIterator[bytes] | None:
        try:
            job_id = UUID(job_text)
        except ValueError:
            raise InvalidRequest("not as expected: job_id", (FieldError("job_id", "a UUID", job_text),)) from None
        last = _last_id(scope)
        if last is not None and not (last.isascii() and last.isdigit()):
            raise InvalidRequest(
                "not as expected: Last-Event-ID", (FieldError("Last-Event-ID", "the id of an event", last[:100]),)
            )
        query = check(EventsQuery, _query(scope))
        after = min(int(last), 2**62) if last is not None else query.after
        ledger, tenant = self._services.ledger, caller.tenant_id
        job = await self._threads.run(read_jobs.get_job, ledger, tenant, job_id)
        if last is not None and job.state in SETTLED:
            rest = await self._threads.run(read_jobs.list_events, ledger, tenant, job_id, after, 1)
            if not rest:
                return None
        return self._job_stream(_follower(caller, job_id), after)

    async def _job_stream(self, follower: Follower, after: int) -> AsyncIterator[bytes]:
        ledger, tenant, job_id = self._services.ledger, follower.tenant_id, follower.job_id
        assert job_id is not None
        now = await self._threads.run(read_feed.now_in, ledger, tenant)
        follower.behind = FeedPosition(0, after)
        # from here on the hub publishes: its events wait in the queue while the past is read
        self._hub.add(follower, now)
        try:
            yield f"retry: {RETRY_MS}\n\n".encode()
            sent = after
            async for entry in self._past(tenant, job_id, sent):
                sent = entry["id"]
                yield _event(entry["event"], entry, sent)
            job = await self._ended(tenant, job_id)
            ends_at = time.monotonic() + LONGEST_SECONDS
            while job is None and time.monotonic() < ends_at and not self._ending:
                try:
                    item = await asyncio.wait_for(follower.unread.get(), PING_SECONDS)
                except TimeoutError:
                    yield b": still here\n\n"
                    continue
                if item is None:
                    return
                if item is Reread.HISTORY:
                    async for entry in self._past(tenant, job_id, sent):
                        sent = entry["id"]
                        yield _event(entry["event"], entry, sent)
                    job = await self._ended(tenant, job_id)
                elif isinstance(item, FeedEvent):
                    if item.position.id > sent:
                        sent = item.position.id
                        yield _event(item.event, item.of_job(), sent)
                        if item.state in SETTLED:
                            job = await self._ended(tenant, job_id)
                else:
                    yield _event("progress", item)
            if job is None:
                return
            # events between the last read and the end
            async for entry in self._past(tenant, job_id, sent):
                yield _event(entry["event"], entry, entry["id"])
            yield _event("end", job.as_dict())
        finally:
            self._hub.remove(follower)

    async def _past(self, tenant: UUID, job_id: UUID, after: int) -> AsyncIterator[dict[str, Any]]:
        """Yield the events of a job's history after an event."""
        while True:
            page = await self._threads.run(read_jobs.list_events, self._services.ledger, tenant, job_id, after, PAGE)
            for item in page:
                yield item
            if len(page) < PAGE or self._ending:
                return
            after = page[-1]["id"]

    async def _ended(self, tenant: UUID, job_id: UUID) -> JobView | None:
        job = await self._threads.run(read_jobs.get_job, self._services.ledger, tenant, job_id)
        return job if job.state in SETTLED else None

    # --- a tenant's feed

    async def _of_feed(self, caller: Caller, scope: Any) -> AsyncIterator[bytes]:
        query = check(FeedQuery, _query(scope))
        last = _last_id(scope)
        position = (
            read_position(last) if last is not None else query.position() if "after" in query.model_fields_set else None
        )
        if last is not None and position is None:
            raise InvalidRequest(
                "not as expected: Last-Event-ID",
                (FieldError("Last-Event-ID", "the id of an event, like 123-456", last[:100]),),
            )
        if position is None:
            position = await self._threads.run(read_feed.now_in, self._services.ledger, caller.tenant_id)
        return self._feed_stream(_follower(caller), position, query.wanted())

    async def _feed_stream(self, follower: Follower, behind: FeedPosition, wanted: Wanted) -> AsyncIterator[bytes]:
        ledger, tenant = self._services.ledger, follower.tenant_id
        yield f"retry: {RETRY_MS}\n\n".encode()
        added = False
        try:
            while not self._ending:
                if not added:
                    now = await self._threads.run(read_feed.now_in, ledger, tenant)
                events, behind, more = await self._threads.run(
                    read_feed.read_page, ledger, tenant, behind, wanted, PAGE
                )
                yield _feed_events(events) + _mark(behind)
                if not more:
                    if added:
                        break
                    # almost caught up: events of the hub from `now` on overlap with those read once more
                    follower.behind = behind
                    self._hub.add(follower, now)
                    added = True
            follower.behind = max(follower.behind, behind)
            ends_at = time.monotonic() + LONGEST_SECONDS
            while time.monotonic() < ends_at and not (self._ending and follower.unread.empty()):
                try:
                    item = await asyncio.wait_for(follower.unread.get(), PING_SECONDS)
                except TimeoutError:
                    yield _mark(behind)
                    continue
                if item is None:
                    return
                if isinstance(item, FeedEvent) and item.position > behind:
                    behind = item.position
                    if wanted.fits(item):
                        yield _feed_events([item])
        finally:
            self._hub.remove(follower)


def _feed_events(events: list[FeedEvent]) -> bytes:
    return b"".join(_event(item.event, item.as_dict(), item.position) for item in events)


def _mark(behind: FeedPosition) -> bytes:
    """Send a position without an event, so that a reconnecting caller skips filtered events."""
    return f"id: {behind}\n: still here\n\n".encode()


def _event(name: str, data: Any, event_id: object = None) -> bytes:
    """Return an event in the form of the HTML standard, 9.2."""
    head = f"event: {name}\n" if event_id is None else f"id: {event_id}\nevent: {name}\n"
    return head.encode() + b"data: " + as_json(data) + b"\n\n"


def _follower(caller: Caller, job_id: UUID | None = None) -> Follower:
    assert caller.key_id is not None
    return Follower(caller.tenant_id, caller.key_id, job_id)


def _last_id(scope: Any) -> str | None:
    return (scope.headers.get("last-event-id") or "").strip() or None


def _query(scope: Any) -> dict[str, str]:
    return dict(parse_qsl(scope.query_string, keep_blank_values=True))
