"""Posting to addresses that tenants choose: the interface, HTTP, and a null poster.

A tenant's URL must not reach internal networks (SSRF): names are resolved here, the address is checked, and the
connection goes to that very address, so that DNS rebinding gains nothing.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol
from urllib.parse import urlsplit

import httpcore2

from jobplatform import __version__
from jobplatform.config import settings
from jobplatform.domain.webhooks import Network, is_within, may_call, wrong_with
from jobplatform.errors import JobPlatformError
from jobplatform.observe.logs import get_log

log = get_log(__name__)

#: characters of a response's text, for the log of deliveries
MOST_TEXT = 300
MOST_ANSWER_BYTES = 4096
CONNECT_SECONDS = 5.0


@dataclass(frozen=True)
class Answer:
    """A receiver's response; `text` is its beginning, `seconds` the time until it was there."""

    status: int
    seconds: float
    text: str = ""
    retry_after: str | None = None


class NoAnswer(JobPlatformError):
    """There was no answer in time, or no connection at all."""

    code = "no_answer"


class AddressRefused(JobPlatformError):
    """Nothing is posted to this address."""

    code = "address_refused"


class Poster(Protocol):
    """Posts JSON. Raises `NoAnswer` or `AddressRefused`, never an exception of its library."""

    def post(self, url: str, headers: dict[str, str], body: bytes) -> Answer:
        """Post a body, and return the response, whatever its status."""
        ...


class _Stream(httpcore2.NetworkStream):
    """A connection with one deadline for all reads and writes: a receiver that sends a byte now and then can't occupy
    a worker."""

    def __init__(self, inner: httpcore2.NetworkStream, deadline: float) -> None:
        self._inner, self._deadline = inner, deadline

    def _left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise httpcore2.ReadTimeout("the time is up")
        return left

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, self._left())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, self._left())

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, self._left()), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class _Backend(httpcore2.NetworkBackend):
    """Connects to the first address of a name to which calls are allowed."""

    def __init__(self, allowed: Collection[Network], plain: bool, deadline: float) -> None:
        self._allowed, self._plain, self._deadline = allowed, plain, deadline
        self._inner = httpcore2.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        addresses = _resolve(host, port, self._deadline - time.monotonic())
        good = [address for address in addresses if may_call(address, self._allowed)]
        if self._plain:  # within the allowed networks only
            good = [item for item in good if is_within(item, self._allowed)]
        if not good:
            # only the log has the addresses: the endpoint's owner must not learn what names resolve to here
            log.warning("webhook_address_refused", host=host, addresses=addresses)
            raise AddressRefused(
                f"{host} can't be called: expected a name with a public address, or with plain http one of "
                f"JOBPLATFORM_WEBHOOK_NETWORKS"
            )
        for position, address in enumerate(good):
            left = min(CONNECT_SECONDS, self._deadline - time.monotonic())
            try:
                return _Stream(self._inner.connect_tcp(address, port, max(left, 0.01)), self._deadline)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                if position == len(good) - 1 or time.monotonic() >= self._deadline:
                    raise
        raise AssertionError("unreachable")


def _resolve(host: str, port: int, seconds: float) -> list[str]:
    """Return the addresses of a name, with a time-out: that of the system's resolver is long."""
    result: list[Any] = []

    def ask() -> None:
        try:
            result.append(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            result.append(error)

    thread = threading.Thread(target=ask, daemon=True, name=f"resolve {host}")
    thread.start()
    thread.join(min(max(seconds, 0.01), CONNECT_SECONDS))
    if not result:
        raise httpcore2.ConnectTimeout(f"the name {host} was not resolved in time")
    if isinstance(result[0], Exception):
        raise httpcore2.ConnectError(f"the name {host} can't be resolved: {result[0]}")
    return list(dict.fromkeys(str(item[4][0]) for item in result[0]))


class HttpPoster:
    """One connection per message, no redirects, no proxies, and a total time-out of `timeout_seconds`."""

    def __init__(self, allowed: Collection[Network], timeout_seconds: float) -> None:
        self._allowed, self._timeout = allowed, timeout_seconds
        self._tls = ssl.create_default_context()

    def post(self, url: str, headers: dict[str, str], body: bytes) -> Answer:
        """See `Poster`."""
        expected = wrong_with(url, self._allowed)
        if expected is not None:  # the settings have changed since the URL was set
            raise AddressRefused(f"expected {expected}, got {url}")
        began = time.monotonic()
        backend = _Backend(self._allowed, urlsplit(url).scheme == "http", began + self._timeout)
        sent = {
            "Host": urlsplit(url).netloc,
            "User-Agent": f"jobplatform/{__version__}",
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "Connection": "close",
            **headers,
        }
        try:
            with (
                httpcore2.ConnectionPool(ssl_context=self._tls, network_backend=backend, retries=0) as pool,
                pool.stream("POST", url, headers=[*sent.items()], content=body) as response,
            ):
                text = _beginning(response)
                received = dict(response.headers)
                seconds = time.monotonic() - began
        except (httpcore2.TimeoutException, httpcore2.NetworkError, httpcore2.ProtocolError) as error:
            raise NoAnswer(f"no answer from {urlsplit(url).hostname}: {error or type(error).__name__}") from None
        retry_after = next((value for name, value in received.items() if name.lower() == b"retry-after"), None)
        return Answer(response.status, seconds, text, retry_after.decode("latin-1") if retry_after else None)


def _beginning(response: httpcore2.Response) -> str:
    """Return the beginning of the response. Its status counts even when the body is incomplete."""
    read = b""
    try:
        for piece in response.iter_stream():
            read += piece
            if len(read) >= MOST_ANSWER_BYTES:
                break
    except (httpcore2.TimeoutException, httpcore2.NetworkError, httpcore2.ProtocolError):
        pass
    words = read[:MOST_ANSWER_BYTES].decode("utf-8", "replace")
    return "".join(word if word.isprintable() else " " for word in words).strip()[:MOST_TEXT]


class NullPoster:
    """Posts nothing, and reports success."""

    def post(self, url: str, headers: dict[str, str], body: bytes) -> Answer:
        """See `Poster`."""
        return Answer(204, 0.0)


@lru_cache(maxsize=1)
def poster() -> Poster:
    """Return the configured poster."""
    config = settings()
    if config.webhook_timeout_seconds == 0:
        return NullPoster()
    return HttpPoster(config.webhook_networks, config.webhook_timeout_seconds)
