"""Topology, definitions, envelopes, and the rebuilding of requests."""

from __future__ import annotations

import base64
import hashlib
from types import SimpleNamespace
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobplatform.broker.definitions import build_definitions, hash_password
from jobplatform.broker.envelope import BODY, Envelope, MalformedMessage, read_headers
from jobplatform.broker.topology import DEAD_EXCHANGE, build_topology, choose_queue_type
from jobplatform.devstack.instance import CHECKOUT
from jobplatform.devstack.rabbitmq import CONSUMER_TIMEOUT_MS
from jobplatform.domain.kinds import LONGEST_RUN_SECONDS

JOB = UUID("01890000-0000-7000-8000-000000000000")


@pytest.mark.parametrize(
    ("wanted", "version", "chosen"),
    [
        ("auto", "3.10.8", "classic"),
        ("auto", "4.0.5", "classic"),
        ("auto", "4.2.9", "classic"),
        ("auto", "4.3.6", "quorum"),
        ("auto", "4.10.0", "quorum"),
        ("auto", "5.0.0-rc.1", "quorum"),
        ("quorum", "3.10.8", "quorum"),
        ("classic", "4.3.6", "classic"),
    ],
)
def test_the_queue_type_follows_the_broker(wanted: str, version: str, chosen: str) -> None:
    assert choose_queue_type(wanted, version) == chosen


def test_every_queue_dead_letters_and_only_classic_ones_have_a_max_priority() -> None:
    for kind in ("classic", "quorum"):
        queues = {queue.name: queue.arguments for queue in build_topology(("email", "gpu"), kind).queues}
        for name in ("email", "gpu"):
            assert queues[name]["x-dead-letter-exchange"] == DEAD_EXCHANGE
            assert ("x-max-priority" in queues[name]) == (kind == "classic")
        assert "x-max-length" in queues["jobs.dead.copies"], "bounded, as it has no consumer"


def test_rabbitmq_waits_longer_for_an_acknowledgement_than_a_run_may_last() -> None:
    longest = LONGEST_RUN_SECONDS * 1000
    quorum = {queue.name: queue.arguments for queue in build_topology(("email",), "quorum").queues}["email"]
    assert quorum["x-consumer-timeout"] > longest and quorum["x-delivery-limit"] == 20
    assert quorum["x-overflow"] == "reject-publish" and quorum["x-dead-letter-strategy"] == "at-least-once"
    assert longest < CONSUMER_TIMEOUT_MS, "classic queues have the timeout of the node"
    compose = (CHECKOUT / "deploy" / "rabbitmq" / "rabbitmq.conf").read_text()
    (value,) = (line.partition("=")[2] for line in compose.splitlines() if line.startswith("consumer_timeout"))
    assert int(value) > longest


def test_definitions_contain_everything_that_a_blank_node_needs() -> None:
    definitions = build_definitions(build_topology(("email",), "classic"), vhost="v", passwords={"worker": "p"})
    assert {"vhosts", "users", "permissions", "exchanges", "queues", "bindings"} <= set(definitions)
    raw = base64.b64decode(definitions["users"][0]["password_hash"])
    assert raw[4:] == hashlib.sha256(raw[:4] + b"p").digest()
    assert hash_password("p", raw[:4]) == definitions["users"][0]["password_hash"]


def test_an_envelope_survives_a_round_trip() -> None:
    envelope = Envelope(str(JOB), 3, "email.send", "email", 4)
    assert read_headers(envelope.headers()) == (JOB, 3, "email.send")


GOOD = {"task": "email.send", "id": str(JOB), "dispatch_no": 1}


@pytest.mark.parametrize(
    "headers",
    [
        None,
        [],
        {},
        {**GOOD, "id": None},
        {**GOOD, "id": 17},
        {**GOOD, "id": "x" * 1000},
        {**GOOD, "dispatch_no": None},
        {**GOOD, "dispatch_no": "1"},
        {**GOOD, "dispatch_no": 0},
        {**GOOD, "dispatch_no": -1},
        {**GOOD, "dispatch_no": 2**31},
        {**GOOD, "dispatch_no": True},
        {**GOOD, "dispatch_no": 1.0},
        {**GOOD, "task": None},
        {**GOOD, "task": 5},
    ],
)
def test_headers_that_are_not_ours_are_malformed(headers) -> None:
    with pytest.raises(MalformedMessage):
        read_headers(headers)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
)


@given(st.dictionaries(st.sampled_from(["id", "task", "dispatch_no", "eta", "timelimit"]) | st.text(), JUNK))
def test_arbitrary_headers_raise_no_other_error(headers) -> None:
    try:
        job_id, dispatch_no, kind = read_headers(headers)
    except MalformedMessage:
        return
    assert isinstance(job_id, UUID) and dispatch_no > 0 and isinstance(kind, str)


OBEYED_BY_CELERY = {
    "eta": "2099-01-01T00:00:00",
    "expires": "2001-01-01T00:00:00",
    "timelimit": [1, 1],
    "shadow": "another name",
    "root_id": "x",
    "parent_id": "x",
    "group": "x",
    "chord": {"task": "evil"},
    "retries": 99,
    "ignore_result": True,
    "replaced_task_nesting": 5,
    "stamped_headers": ["a"],
    "stamps": {"a": "b"},
    "lease_id": "00000000-0000-0000-0000-000000000000",
    "worker_id": "00000000-0000-0000-0000-000000000000",
}


@pytest.mark.parametrize("name", OBEYED_BY_CELERY)
def test_instructions_in_a_message_are_ignored(name: str) -> None:
    from workers.runtime.consumer import rebuild

    message = SimpleNamespace(
        headers={**GOOD, name: OBEYED_BY_CELERY[name]},
        properties={"reply_to": "evil", "correlation_id": "evil", "priority": 5},
        body=b'[[1], {"a": 2}, {"callbacks": [{"task": "evil"}], "errbacks": [1], "chain": [1], "chord": 1}]',
        content_type="application/x-python-serialize",
        content_encoding="binary",
    )
    rebuild(message)
    ours = {"dispatch_no", "lease_id", "worker_id", "can_defer"}
    assert set(message.headers) == {"task", "id", "argsrepr", "kwargsrepr"} | ours
    assert message.headers[name] != OBEYED_BY_CELERY[name] if name in message.headers else True
    assert message.body == BODY
    assert message.content_type == "application/json"
    assert "reply_to" not in message.properties


def test_two_deliveries_of_one_message_get_two_leases() -> None:
    from workers.runtime.consumer import rebuild

    leases = set()
    for _ in range(2):
        message = SimpleNamespace(headers=dict(GOOD), properties={}, body=b"", content_type="", content_encoding="")
        rebuild(message)
        leases.add(message.headers["lease_id"])
    assert len(leases) == 2
