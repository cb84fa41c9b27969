"""Webhooks: signatures as receivers verify them, the addresses that may be called, and event types."""

from __future__ import annotations

import http.server
import ipaddress
import json
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from standardwebhooks import Webhook

from jobplatform.domain.feeds import FeedEvent, FeedPosition
from jobplatform.domain.retry import Steps
from jobplatform.domain.states import TRANSITIONS, Event
from jobplatform.domain.webhooks import (
    MAX_ATTEMPTS,
    TYPES,
    USUAL_TYPES,
    WAITS,
    may_call,
    new_secret,
    sign,
    type_of,
    wrong_with,
)
from jobplatform.ledger.ids import new_id
from tests.support.receiver import Receiver, say
from workers.providers import post
from workers.providers.post import AddressRefused, HttpPoster, NoAnswer

LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)


def test_signatures_follow_standard_webhooks() -> None:
    """Verified by the library of Standard Webhooks, with the old secret and the new one."""
    old, new, body = new_secret(), new_secret(), b'{"type":"job.succeeded"}'
    headers = sign((new, old), "msg_1", datetime.now(UTC), body)
    for secret in (old, new):
        assert Webhook(secret).verify(body, headers) == {"type": "job.succeeded"}
    with pytest.raises(Exception, match="No matching signature"):
        Webhook(new_secret()).verify(body, headers)
    with pytest.raises(Exception, match="No matching signature"):
        Webhook(new).verify(body + b" ", headers)


def test_attempts_last_for_three_days() -> None:
    seconds = sum(Steps(*WAITS).delay_seconds(n, lambda: 0.5) for n in range(1, MAX_ATTEMPTS))
    assert 3 * 86_400 <= seconds <= 3.5 * 86_400


def test_every_state_transition_has_one_event_type_or_none() -> None:
    result = set()
    for (_, event), states in TRANSITIONS.items():
        for state in states:
            line = FeedEvent(FeedPosition(1, 1), new_id(), datetime.now(UTC), event, state, 1, None)
            result.add(type_of(line))
    assert result == {None, *TYPES}
    assert set(USUAL_TYPES) <= set(TYPES)
    for event in (Event.LOG, Event.OUTPUT):
        assert type_of(FeedEvent(FeedPosition(1, 1), new_id(), datetime.now(UTC), event, "succeeded", 1, None)) is None


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1%eth0",
        "fd00:ec2::254",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::1",
        "2002:7f00:1::",
        "64:ff9b:1::7f00:1",
        "fec0::2",
        "192.0.0.192",
        "::7f00:1",
        "::ffff:0:7f00:1",
        "not an address",
    ],
)
def test_addresses_that_are_not_public_are_refused(address: str) -> None:
    assert not may_call(address, ())


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1", "64:ff9b::5db8:d822"])
def test_public_addresses_are_allowed(address: str) -> None:
    assert may_call(address, ())


def test_addresses_in_configured_networks_are_allowed() -> None:
    inside = (ipaddress.ip_network("10.0.0.0/8"),)
    assert may_call("10.1.2.3", inside) and may_call("::ffff:10.1.2.3", inside)
    assert not may_call("192.168.0.1", inside)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/",
        "ftp://example.com/",
        "https://",
        "https:///x",
        "example.com",
        "https://user:secret@example.com/",
        "https://example.com/#part",
        "https://example.com:99999/",
        "https://example.com:0/",
        "https://169.254.169.254/latest/meta-data",
        "https://[::1]/",
        "https://exa mple.com/",
        "https://exämple.com/",
        "https://example.com/\nHost: other",
        "https://[::1",
    ],
)
def test_urls_that_are_refused_at_once(url: str) -> None:
    assert wrong_with(url, ())


def test_valid_urls_are_accepted() -> None:
    assert wrong_with("https://example.com/hooks?a=1", ()) is None
    assert wrong_with("https://example.com:8443/hooks", ()) is None
    assert wrong_with("http://127.0.0.1:8000/", LOOPBACK) is None
    assert wrong_with("http://93.184.216.34/", LOOPBACK), "plain HTTP is for configured networks only"


# --- posting


@pytest.fixture
def receiving() -> Iterator[Callable[..., Receiver]]:
    opened: list[Receiver] = []

    def start(answer: Callable[[http.server.BaseHTTPRequestHandler], None]) -> Receiver:
        opened.append(Receiver(answer))
        return opened[-1]

    yield start
    for item in opened:
        item.close()


def test_a_message_is_posted_unchanged(receiving: Any) -> None:
    receiver = receiving(say(200, b"thanks\x00"))
    answer = HttpPoster(LOOPBACK, 5).post(f"{receiver.url}/hook?a=1", {"webhook-id": "msg_1"}, b'{"a":1}')
    assert (answer.status, answer.text, answer.retry_after) == (200, "thanks", None) and answer.seconds >= 0
    ((path, headers, body),) = receiver.requests
    assert (path, body) == ("/hook?a=1", b'{"a":1}')
    assert headers["content-type"] == "application/json" and headers["webhook-id"] == "msg_1"
    assert headers["host"] == receiver.url.removeprefix("http://") and headers["user-agent"].startswith("jobplatform/")


def test_redirects_are_not_followed(receiving: Any) -> None:
    inside = receiving(say(200))
    receiver = receiving(say(302, Location=f"{inside.url}/secret"))
    assert HttpPoster(LOOPBACK, 5).post(receiver.url, {}, b"{}").status == 302
    assert inside.requests == []


def test_an_answer_has_its_retry_after_and_truncated_text(receiving: Any) -> None:
    receiver = receiving(say(429, b"x" * 100_000, Retry_After="17"))
    answer = HttpPoster(LOOPBACK, 5).post(receiver.url, {}, b"{}")
    assert (answer.status, answer.retry_after) == (429, "17") and len(answer.text) == 300


def test_a_receiver_that_trickles_bytes_times_out(receiving: Any) -> None:
    def drip(request: http.server.BaseHTTPRequestHandler) -> None:
        try:
            for _ in range(100):
                request.wfile.write(b"H")
                request.wfile.flush()
                time.sleep(0.05)
        except OSError:
            pass

    receiver = receiving(drip)
    began = time.monotonic()
    with pytest.raises(NoAnswer):
        HttpPoster(LOOPBACK, 0.4).post(receiver.url, {}, b"{}")
    assert time.monotonic() - began < 3


def test_an_incomplete_body_leaves_the_status_known(receiving: Any) -> None:
    def hang(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "100")
        request.end_headers()
        request.wfile.write(b"so far")
        request.wfile.flush()
        time.sleep(1)

    answer = HttpPoster(LOOPBACK, 0.4).post(receiving(hang).url, {}, b"{}")
    assert (answer.status, answer.text) == (200, "so far")


def test_a_receiver_that_cannot_be_reached_gives_no_answer() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/"
    with pytest.raises(NoAnswer, match=r"no answer from 127\.0\.0\.1"):
        HttpPoster(LOOPBACK, 2).post(url, {}, b"{}")
    with pytest.raises(NoAnswer, match="can't be resolved"):
        HttpPoster((), 2).post("https://nobody.invalid/", {}, b"{}")


def test_a_name_server_that_does_not_answer_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(post.socket, "getaddrinfo", lambda *_, **__: time.sleep(2))
    began = time.monotonic()
    with pytest.raises(NoAnswer, match="was not resolved in time"):
        HttpPoster((), 0.3).post("https://hook.test/", {}, b"{}")
    assert time.monotonic() - began < 1.5


def test_an_answer_that_is_not_http_is_no_answer(receiving: Any) -> None:
    receiver = receiving(lambda request: request.wfile.write(b"SSH-2.0-OpenSSH\r\n\r\n"))
    with pytest.raises(NoAnswer):
        HttpPoster(LOOPBACK, 2).post(receiver.url, {}, b"{}")


def test_a_name_is_checked_by_its_addresses_and_only_those_are_called(
    receiving: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding has no effect: the request goes to the address that was checked, whatever the name becomes."""
    receiver = receiving(say(200))
    port = receiver.server.server_address[1]
    asked: list[str] = []

    def resolve(host: str, *_: Any, **__: Any) -> list[Any]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(post.socket, "getaddrinfo", resolve)
    with pytest.raises(AddressRefused, match=r"hook\.test can't be called: expected a name with a public") as refused:
        HttpPoster((), 2).post(f"https://hook.test:{port}/", {}, b"{}")
    assert "127.0.0.1" not in str(refused.value), "internal addresses are not disclosed"
    inside = (ipaddress.ip_network("10.0.0.0/8"),)
    with pytest.raises(AddressRefused):
        HttpPoster(inside, 2).post(f"http://hook.test:{port}/", {}, b"{}")
    assert receiver.requests == []
    asked.clear()
    assert HttpPoster(LOOPBACK, 2).post(f"http://hook.test:{port}/", {}, b"{}").status == 200
    assert asked.count("hook.test") == 1, "the address that was checked is the one that is called"
    assert receiver.requests[0][1]["host"] == f"hook.test:{port}"
    json.loads(receiver.requests[0][2])
