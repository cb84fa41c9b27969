"""The API under granian: bodies that end early, headers that are not ASCII, files that are sent by the server."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket

import orjson
import pytest

from tests.e2e.conftest import Platform
from tests.support.waiting import eventually


def raw(platform: Platform, head: str, body: bytes, *, close: bool = True) -> tuple[int, dict]:
    """Send bytes as they are; returns the status and the JSON."""
    with socket.create_connection(("127.0.0.1", platform.stack.instance.ports["api"]), timeout=20) as item:
        key = platform.api._key
        item.sendall(f"{head}\r\nHost: x\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n\r\n".encode() + body)
        if close:
            item.shutdown(socket.SHUT_WR)
        answer = b""
        while chunk := item.recv(65536):
            answer += chunk
    head_, _, content = answer.partition(b"\r\n\r\n")
    return int(head_.split()[1]), orjson.loads(content) if content else {}


def test_a_body_that_ends_early_is_refused_and_nothing_is_stored(platform: Platform) -> None:
    before = platform.sql("SELECT count(*)::int FROM artifacts")
    for announced, sent in ((3_000_000, 2_000_000), (500_000, 200_000)):
        head = f"POST /v1/uploads?filename=cut HTTP/1.1\r\nContent-Length: {announced}"
        status, problem = raw(platform, head, b"x" * sent)
        assert (status, problem["code"]) == (400, "incomplete_body")
    assert platform.sql("SELECT count(*)::int FROM artifacts") == before


def test_an_idempotency_key_that_is_not_ascii_is_refused_not_ignored(platform: Platform) -> None:
    body = orjson.dumps({"kind": "acme.resize", "payload": {"width": 1, "height": 1}})
    head = (
        f"POST /v1/jobs HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        f"Idempotency-Key: schlüssel"
    )
    status, problem = raw(platform, head, body, close=False)
    assert (status, problem["code"]) == (400, "invalid_header") and "idempotency-key" in problem["detail"]


def test_an_upload_without_a_valid_key_is_refused_before_it_is_read(platform: Platform) -> None:
    with socket.create_connection(("127.0.0.1", platform.stack.instance.ports["api"]), timeout=20) as item:
        item.sendall(
            b"POST /v1/uploads HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer jp_no\r\nContent-Length: 1000000000\r\n\r\n"
        )
        assert b" 401 " in item.recv(65536).split(b"\r\n")[0], "the server answers before it has any of the body"


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/jobs/batch", "/v1/workflows", "/v1/uploads"])
def test_bodies_without_a_key_are_refused_after_the_headers_and_the_connection_is_closed(
    platform: Platform, path: str
) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n"
    connections = []
    for _ in range(20):
        item = socket.create_connection(("127.0.0.1", platform.stack.instance.ports["api"]), timeout=20)
        item.sendall(head.encode())
        connections.append(item)
    for connection in connections:  # the clients stall: the server needs none of the body to answer
        with connection:
            assert connection.recv(65536).startswith(b"HTTP/1.1 401")
            with contextlib.suppress(ConnectionError):
                connection.sendall(b"a" * 950_000)
                while connection.recv(65536):
                    pass  # closed by the server, well before the time-out of 20 s


def test_a_body_that_stalls_is_refused_after_a_time_out(platform: Platform) -> None:
    head = "POST /v1/jobs HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 100000"
    status, problem = raw(platform, head, b"a" * 50_000, close=False)
    assert (status, problem["code"]) == (408, "body_too_slow")


def test_health_checks_are_answered_while_every_request_thread_is_busy(platform: Platform) -> None:
    port = platform.stack.instance.ports["api"]
    body = b"[" + b"{}," * 500_000 + b"{}]"
    head = f"POST /v1/jobs/batch HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    busy = []
    for _ in range(16):
        item = socket.create_connection(("127.0.0.1", port), timeout=60)
        item.sendall(f"{head}\r\nAuthorization: Bearer {platform.api._key}\r\n\r\n".encode() + body)
        busy.append(item)
    for _ in range(5):
        assert platform.api.call("GET", "/healthz") == {"status": "ok"}
    for item in busy:
        with item:
            assert item.recv(65536).startswith((b"HTTP/1.1 422", b"HTTP/1.1 503"))


def test_a_large_file_is_uploaded_in_chunks_and_sent_by_the_server(platform: Platform) -> None:
    content = os.urandom(3_000_000)
    chunked = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (content[:1_500_000], content[1_500_000:]))
    head = "POST /v1/uploads?filename=big.bin HTTP/1.1\r\nTransfer-Encoding: chunked"
    status, kept = raw(platform, head, chunked + b"0\r\n\r\n", close=False)
    assert (status, kept["size"]) == (201, len(content))
    assert kept["sha256"] == hashlib.sha256(content).hexdigest()
    target = platform.scratch / "down.bin"
    platform.api.download(kept["url"], target)
    assert target.read_bytes() == content
    with socket.create_connection(("127.0.0.1", platform.stack.instance.ports["api"]), timeout=20) as item:
        request = f"GET {kept['url']} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {platform.api._key}\r\n"
        item.sendall(f"{request}Range: bytes=2999990-\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while chunk := item.recv(65536):
            answer += chunk
    assert answer.startswith(b"HTTP/1.1 206") and answer.endswith(content[-10:])


def test_an_api_process_that_dies_is_replaced_and_the_other_continues(platform: Platform) -> None:
    head = platform.head("api")
    children = set(platform.pids("api")) - {head}
    victim = max(children)
    os.kill(victim, signal.SIGKILL)

    def replaced() -> bool:
        now = set(platform.pids("api")) - {head}
        return victim not in now and len(now) >= len(children)

    assert eventually(replaced, 30)
    assert platform.head("api") == head
    for _ in range(4):
        assert platform.api.call("GET", "/healthz") == {"status": "ok"}
