"""Webhooks: events, the signature (Standard Webhooks 1.0), and which addresses may be called.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import secrets
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from jobplatform.domain.feeds import FeedEvent
from jobplatform.domain.kinds import Kind
from jobplatform.domain.limits import key as limit_key
from jobplatform.domain.retry import Steps
from jobplatform.domain.states import Event, State

#: the kind of job that delivers; its own events are not delivered
DELIVER = "webhook.deliver"
#: the event type of a test message
TEST_TYPE = "webhook.test"
#: types of events: type → description
TYPES = {
    "job.submitted": "it was accepted",
    "job.started": "a run has begun",
    "job.retrying": "a run has failed, and there will be another",
    "job.succeeded": "it has succeeded",
    "job.dead": "its attempts are used up, or it can't succeed: it waits for an operator",
    "job.held": "it is not known whether an effect has taken place: it waits for an operator",
    "job.cancelled": "it was cancelled",
    "job.expired": "its start_by has passed before a run began",
    "job.discarded": "a person has thrown it away",
    "job.replayed": "a person lets it run again",
}
USUAL_TYPES = ("job.succeeded", "job.dead", "job.cancelled", "job.expired")

_BY_STATE = {
    State.SUCCEEDED: "job.succeeded",
    State.DEAD: "job.dead",
    State.CANCELLED: "job.cancelled",
    State.EXPIRED: "job.expired",
    State.DISCARDED: "job.discarded",
}
_BY_EVENT = {
    Event.SUBMITTED: "job.submitted",
    Event.STARTED: "job.started",
    Event.HELD: "job.held",
    Event.REPLAYED: "job.replayed",
}
_ENDS_OF_RUNS = frozenset({Event.FAILED, Event.TIMED_OUT, Event.CRASHED, Event.LOST})

#: delays between attempts (s), those of the specification: ten attempts in a little over three days
WAITS = (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
MAX_ATTEMPTS = len(WAITS) + 1
#: no attempt starts later than this, however often the receiver has asked to retry later (s)
MAX_AGE_SECONDS = 5 * 86_400.0

SECRET_MARK = "whsec_"
SECRET_BYTES = 32


class Delivery(BaseModel):
    """The payload of the delivery job: endpoint, message and content."""

    model_config = ConfigDict(extra="forbid")

    endpoint: UUID
    message: UUID
    body: dict[str, Any]


class Delivered(BaseModel):
    """The receiver's response; `skipped` says why no request was sent."""

    status: int | None = None
    seconds: float | None = None
    skipped: str | None = None


def type_of(event: FeedEvent) -> str | None:
    """Return the webhook type of an event; None: it is not delivered."""
    if event.event == Event.LOG or event.event == Event.OUTPUT:
        return None
    if event.event in _ENDS_OF_RUNS and event.state in (State.SCHEDULED, State.AVAILABLE):
        return "job.retrying"
    return _BY_STATE.get(event.state) or _BY_EVENT.get(Event(event.event))


def body_of(event: FeedEvent, event_type: str) -> dict[str, Any]:
    """Return the message for an event: its type, its time, and the event as in `GET /v1/events`."""
    return {"type": event_type, "timestamp": event.at, "data": event.as_dict()}


def new_secret() -> str:
    """Return a new signing secret."""
    return SECRET_MARK + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def sign(secrets_: Sequence[str], message_id: str, moment: datetime, body: bytes) -> dict[str, str]:
    """Return the three headers of a message, signed with each of the secrets (two during a rotation)."""
    seconds = str(int(moment.timestamp()))
    signed = f"{message_id}.{seconds}.".encode() + body
    signatures = (
        base64.b64encode(hmac.new(_key_of(secret), signed, hashlib.sha256).digest()).decode() for secret in secrets_
    )
    return {
        "webhook-id": message_id,
        "webhook-timestamp": seconds,
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }


def _key_of(secret: str) -> bytes:
    return base64.b64decode(secret.removeprefix(SECRET_MARK))


Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")
#: networks that `is_global` accepts in some versions of Python: local NAT64, site-local, IETF protocol assignments (one
#: is a cloud's metadata address), deprecated IPv4 embeddings
_NOBODYS = tuple(
    ipaddress.ip_network(network)
    for network in (
        "64:ff9b:1::/48",
        "fec0::/10",
        "192.0.0.0/24",
        "::/96",
        "::ffff:0:0:0/96",
        "100::/64",
        "2001:db8::/32",
    )
)


def may_call(address: str, allowed: Collection[Network]) -> bool:
    """Return whether webhooks may be sent to an IP address: a public one, or one of the allowed networks.

    An IPv4 address inside an IPv6 one counts: `::ffff:169.254.169.254` is the metadata address of a cloud.
    """
    try:
        result = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if _within(result, _NOBODYS):
        return _within(result, allowed)
    inner = result
    if isinstance(result, ipaddress.IPv6Address):
        inner = result.ipv4_mapped or result.sixtofour or (result.teredo or (None, None))[1] or result
        if result in _TRANSLATED:
            inner = ipaddress.IPv4Address(int(result) & 0xFFFFFFFF)
    if _within(result, allowed) or _within(inner, allowed):
        return True
    return all(item.is_global and not item.is_multicast for item in (result, inner))


def wrong_with(url: str, allowed: Collection[Network]) -> str | None:
    """Return what was expected of an endpoint's URL, as far as it can be checked without DNS; None if it is valid.

    Plain http is restricted to the allowed networks: elsewhere messages could be read in transit.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "a URL like https://example.com/hooks"
    host = parts.hostname or ""
    if parts.scheme not in ("https", "http") or not host or port == 0 or not url.isascii() or not url.isprintable():
        return "a URL like https://example.com/hooks"
    if " " in url or parts.username is not None or parts.password is not None or parts.fragment:
        return "a URL without spaces, user, password and fragment: the signature authenticates the caller"
    literal = _is_address(host)
    if literal and not may_call(host, allowed):
        return "a public address (others: JOBPLATFORM_WEBHOOK_NETWORKS)"
    if parts.scheme == "http" and not allowed:
        return "https:// (plain http within JOBPLATFORM_WEBHOOK_NETWORKS only)"
    if parts.scheme == "http" and literal and not is_within(host, allowed):
        return "https:// (plain http within JOBPLATFORM_WEBHOOK_NETWORKS only)"
    return None


def is_within(address: str, networks: Collection[Network]) -> bool:
    """Return whether an IP address is in one of the networks."""
    return _within(ipaddress.ip_address(address), networks)


def _within(address: ipaddress.IPv4Address | ipaddress.IPv6Address, networks: Collection[Network]) -> bool:
    return any(network.version == address.version and address in network for network in networks)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def endpoint_key(endpoint_id: UUID) -> str:
    """Return the limit key of an endpoint, by which it is paused and limited."""
    return limit_key("webhook", endpoint_id)


def deliver_kind(queue: str, handler: Callable[[Any, Any], Any]) -> Kind:
    """Return the kind of job that delivers, on the queue that is to run it."""
    return Kind(
        name=DELIVER,
        queue=queue,
        payload=Delivery,
        handler=handler,
        description=(handler.__doc__ or "").strip(),
        retry=Steps(*WAITS, jitter=0.1),
        max_attempts=MAX_ATTEMPTS,
        max_age_seconds=MAX_AGE_SECONDS,
        limit_keys=lambda payload: [endpoint_key(payload.endpoint)],
        returns=Delivered,
    )
