"""The Flask application on granian's RSGI interface, with long polls parked in the event loop.

WSGI needs a thread per request, and a long poll would hold it for up to 60 s. With RSGI requests run in a few
threads, as with WSGI, but a long poll returns its thread: 0.9 of the throughput of granian's own WSGI with a
transaction per request (docs/decisions/0006-rsgi-bridge.md). `a2wsgi` does not run under granian.
"""

from __future__ import annotations

import asyncio
import io
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any
from urllib.parse import unquote_to_bytes

from api.app import create_app
from api.auth import CALLER, PLAIN_BYTES
from api.fast_path import FastPath
from api.hub import MOST_EVENTS, Hub
from api.responses import TROUBLE
from api.services import Services
from api.streams import Streams
from api.threads import RequestThreads
from api.v1.artifacts import CAN_SEND_FILE, FILE
from api.wait_registry import CAN_PARK, PARKED, WAIT, WaitRegistry
from jobplatform.config import settings
from jobplatform.errors import BodyTooLarge, BodyTooSlow, HeaderNotAscii, IncompleteBody, JobPlatformError, Overloaded
from jobplatform.observe.logs import set_up_logs
from jobplatform.observe.metrics import make_shared_folder
from jobplatform.usecases import read_feed
from jobplatform.usecases.admit import admit, valid_keys
from jobplatform.usecases.read_jobs import find_settled

#: bodies up to this size stay in memory (bytes), of requests and answers
IN_MEMORY_BYTES = 1024 * 1024
#: a body may take `body_seconds` plus its size at this speed (bytes/s)
SLOWEST_BYTES_PER_SECOND = 50_000
HEALTH = "/healthz"
UPLOADS = "/v1/uploads"
BATCH = "/v1/jobs/batch"


@dataclass
class Answer:
    """An answer of the application. `rest` yields the remainder of a large body."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    rest: Iterator[bytes]
    more: bool
    close: Any
    wait: Any
    file: tuple[str, int, int] | None


class InFlight:
    """Counts the bytes of all request bodies in memory. Used in the event loop only."""

    def __init__(self, limit: int) -> None:
        self._limit, self._bytes = limit, 0

    @contextmanager
    def take(self, size: int) -> Iterator[bool]:
        """Reserve capacity for a body of this many bytes; yield whether there was enough."""
        if size and self._bytes + size > self._limit:
            yield False
            return
        self._bytes += size
        try:
            yield True
        finally:
            self._bytes -= size


class Bridge:
    """An RSGI application that calls a WSGI one."""

    def __init__(
        self,
        wsgi: Any,
        waits: WaitRegistry,
        admit: Callable[[str | None], object],
        fast_path: FastPath,
        streams: Streams,
        *,
        threads: RequestThreads,
        max_body: int,
        max_batch: int,
        max_upload: int,
        max_in_flight: int,
        body_seconds: float,
    ) -> None:
        self._wsgi = wsgi
        self._admit = admit
        self._waits = waits
        self._fast_path = fast_path
        self._streams = streams
        self._threads = threads
        self._max_body, self._max_batch, self._max_upload = max_body, max_batch, max_upload
        self._in_flight, self._body_seconds = InFlight(max_in_flight), body_seconds

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """End the streams at SIGTERM, since granian waits for all open requests.

        The loop's own handler of the signal is called too (through its wake-up descriptor).
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(self._streams.end))

    async def __call__(self, scope: Any, protocol: Any) -> None:
        """Answer one request."""
        if scope.proto != "http":
            return
        # not in a request thread: all of these may be busy in a healthy process
        if scope.path == HEALTH and scope.method == "GET":
            protocol.response_bytes(200, [("content-type", "application/json")], b'{"status":"ok"}')
            return
        size, is_large = self._announced(scope)
        most = self._limit(scope) if size is None else size
        caller, refused = None, None
        if is_large:  # the key is checked before the body is read
            caller, refused = await self._threads.run(self._admission, scope.headers.get("authorization"))
        if refused is not None:
            await self._respond(scope, protocol, b"", refused, None)
            return
        # uploads are read into a file, everything else into memory
        held = 0 if not is_large else min(most, IN_MEMORY_BYTES) if _is_upload(scope) else most
        with self._in_flight.take(held) as has_capacity:
            if not has_capacity:
                await self._respond(scope, protocol, b"", Overloaded(), None)
                return
            try:
                async with asyncio.timeout(self._body_seconds + most / SLOWEST_BYTES_PER_SECOND if is_large else None):
                    body, trouble = await self._read(scope, protocol)
            except TimeoutError:
                body, trouble = b"", BodyTooSlow()
            if trouble is None and self._streams.takes(scope):
                await self._streams.answer(scope, protocol)
                return
            await self._respond(scope, protocol, body, trouble, caller)

    def _limit(self, scope: Any) -> int:
        """Return the maximum size of this request's body (bytes)."""
        return self._max_upload if _is_upload(scope) else self._max_batch if scope.path == BATCH else self._max_body

    def _announced(self, scope: Any) -> tuple[int | None, bool]:
        """Return the announced size of the body (bytes; None: unknown), and whether it exceeds a plain submission."""
        declared = scope.headers.get("content-length")
        size = int(declared) if declared and declared.isdigit() else None
        if size is None:
            return None, "transfer-encoding" in scope.headers
        return size, size > PLAIN_BYTES or (size > 0 and _is_upload(scope))

    async def _respond(
        self, scope: Any, protocol: Any, body: IO[bytes] | bytes, trouble: JobPlatformError | None, caller: object
    ) -> None:
        reply = await self._fast_path.answer(scope, body) if trouble is None else None
        if reply is not None:
            protocol.response_bytes(*reply)
            return
        answer = await self._threads.run(self._answer, scope, body, trouble, False, caller)
        if answer.wait is not None:
            if not await self._parked(answer.wait, protocol):
                return
            answer = await self._threads.run(self._answer, scope, body, trouble, True, None)
        if answer.file is not None:  # granian reads it as fast as the caller receives it
            path, start, end = answer.file
            protocol.response_file_range(answer.status, answer.headers, path, start, end)
            return
        if not answer.more:
            protocol.response_bytes(answer.status, answer.headers, answer.body)
            return
        await self._stream(protocol, answer)

    async def _parked(self, wait: Any, protocol: Any) -> bool:
        """Wait for the job; return False if the caller has disconnected."""
        waiting = asyncio.ensure_future(self._waits.wait(wait))
        leaving = asyncio.ensure_future(protocol.client_disconnect())
        await asyncio.wait({waiting, leaving}, return_when=asyncio.FIRST_COMPLETED)
        leaving.cancel()
        if waiting.done():
            return True
        waiting.cancel()
        return False

    async def _read(self, scope: Any, protocol: Any) -> tuple[IO[bytes] | bytes, JobPlatformError | None]:
        """Read the body, large ones into a file; the application answers errors in it.

        Nothing is read of a body over the limit.
        """
        size, _ = self._announced(scope)
        uploading, limit = _is_upload(scope), self._limit(scope)
        if size == 0 or (size is None and "transfer-encoding" not in scope.headers):
            return b"", None
        if size is not None and size > limit:
            return b"", BodyTooLarge(f"the body may have at most {limit} bytes, got {size}")
        if not uploading and size is not None and size <= IN_MEMORY_BYTES:
            try:
                whole = await protocol()
            except RuntimeError:  # granian's RSGIProtocolClosed: the caller has disconnected
                whole = b""
            return (whole, None) if len(whole) >= size else (b"", _incomplete(size, len(whole)))
        spool: IO[bytes] = tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES)  # noqa: SIM115 - closed with the request
        came = 0
        try:
            async for chunk in protocol:
                came += len(chunk)
                if came > limit:
                    return b"", BodyTooLarge(f"the body may have at most {limit} bytes, got more")
                if came > IN_MEMORY_BYTES:
                    await self._threads.run(spool.write, chunk)
                else:
                    spool.write(chunk)
        except RuntimeError:
            came = -1
        if came < 0 or (size is not None and came < size):
            return b"", _incomplete(size, max(came, 0))
        spool.seek(0)
        return spool, None

    def _admission(self, authorization: str | None) -> tuple[object, JobPlatformError | None]:
        """Return the caller, or the error of its key. A valid key is neither checked nor counted again."""
        try:
            return self._admit(authorization), None
        except JobPlatformError as error:
            return None, error

    def _answer(
        self, scope: Any, body: IO[bytes] | bytes, trouble: JobPlatformError | None, parked: bool, caller: object
    ) -> Answer:
        environ = build_environ(scope, body, trouble)
        environ[CALLER] = caller
        if parked:
            environ[PARKED] = True
        said: dict[str, Any] = {}

        def start_response(status: str, headers: list[tuple[str, str]], _error: Any = None) -> None:
            said["status"], said["headers"] = int(status[:3]), headers

        chunks: Iterable[bytes] = self._wsgi(environ, start_response)
        close = getattr(chunks, "close", None)
        source = iter(chunks)
        parts: list[bytes] = []
        size, more = 0, False
        for chunk in source:
            parts.append(chunk)
            size += len(chunk)
            if size > IN_MEMORY_BYTES:
                more = True
                break
        if not more and close is not None:
            close()
        head = [(name.lower(), value) for name, value in said["headers"]]
        return Answer(said["status"], head, b"".join(parts), source, more, close, environ.get(WAIT), environ.get(FILE))

    async def _stream(self, protocol: Any, answer: Answer) -> None:
        transport = protocol.response_stream(answer.status, answer.headers)
        try:
            chunk: bytes | None = answer.body
            while chunk is not None:
                await transport.send_bytes(chunk)
                chunk = await self._threads.run(next, answer.rest, None)
        finally:
            if answer.close is not None:
                await self._threads.run(answer.close)


def _is_upload(scope: Any) -> bool:
    return bool(scope.path.rstrip("/") == UPLOADS)


def _incomplete(size: int | None, came: int) -> IncompleteBody:
    return IncompleteBody(f"Content-Length announced {size} bytes, {came} came")


def build_environ(scope: Any, body: IO[bytes] | bytes, trouble: JobPlatformError | None) -> dict[str, Any]:
    """Return the WSGI environ of a request (PEP 3333)."""
    host, _, port = scope.server.rpartition(":")
    environ: dict[str, Any] = {
        "REQUEST_METHOD": scope.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(scope.path).decode("latin-1"),
        "QUERY_STRING": scope.query_string,
        "SERVER_NAME": host,
        "SERVER_PORT": port,
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": scope.client.rpartition(":")[0],
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope.scheme,
        "wsgi.input": io.BytesIO(body) if isinstance(body, bytes) else body,
        "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        CAN_PARK: True,
        CAN_SEND_FILE: True,
        TROUBLE: trouble,
    }
    readable = set()
    for name, value in scope.headers.items():
        readable.add(name)
        if name == "content-type":
            environ["CONTENT_TYPE"] = value
        elif name == "content-length":
            environ["CONTENT_LENGTH"] = value
        else:
            key = "HTTP_" + name.upper().replace("-", "_")
            environ[key] = f"{environ[key]},{value}" if key in environ else value
    hidden = set(scope.headers.keys()) - readable
    if hidden and trouble is None:  # granian drops headers that are not ASCII: a key would silently be missing
        environ[TROUBLE] = HeaderNotAscii(f"header {', '.join(sorted(hidden))}: expected ASCII characters")
    return environ


def build() -> Bridge:
    """Return the application that granian serves."""
    config = settings()
    set_up_logs(config.log_level, config.log_format)
    make_shared_folder()
    flask = create_app(config)
    has: Services = flask.extensions["services"]
    ledger, threads = has.ledger, RequestThreads(config.api_threads)
    hub = Hub(
        lambda behind, named: read_feed.follow(ledger, behind, MOST_EVENTS, named),
        lambda job_ids: read_feed.progress_of(ledger, job_ids),
        lambda key_ids: valid_keys(ledger, key_ids),
    )
    return Bridge(
        flask.wsgi_app,
        WaitRegistry(lambda ids: find_settled(ledger, ids)),
        lambda authorization: admit(ledger, authorization),
        FastPath(has),
        Streams(has, threads, hub, config.api_streams),
        threads=threads,
        max_body=config.max_body_bytes,
        max_batch=config.max_batch_bytes,
        max_upload=config.max_upload_bytes,
        max_in_flight=config.max_bytes_in_flight,
        body_seconds=config.body_seconds,
    )


app = build()
