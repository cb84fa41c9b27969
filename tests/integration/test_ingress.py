"""Submissions over AMQP: each creates one job despite failures; invalid ones are recorded with the reason."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable
from typing import Any

import amqp
import orjson
import pytest

from jobplatform.broker.connection import connected
from jobplatform.broker.declare import count_ready
from jobplatform.broker.submissions import SubmissionReader
from jobplatform.broker.topology import SUBMISSIONS
from jobplatform.config import Settings
from jobplatform.devstack import rabbitmq
from jobplatform.dispatch import ingress
from jobplatform.dispatch.ingress import Ingress
from jobplatform.domain.kinds import Kind
from jobplatform.errors import BrokerUnavailable, ConfigurationError, LedgerBusy, LedgerUnavailable
from jobplatform.ledger import keys
from tests.support.ledger_harness import Anything, LedgerHarness, registry
from tests.support.waiting import eventually

SUBMISSION = {"kind": "test.echo", "payload": {"n": 1}, "priority": 7}


class Producer:
    """A tenant's process that publishes submissions, and reads the answers."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.answers = f"{rabbitmq.USER}.answers-{uuid.uuid4().hex[:6]}"
        with connected(url, name="producer") as connection:
            connection.channel().queue_declare(self.answers, durable=True, auto_delete=False)

    def publish(self, body: Any = SUBMISSION, **properties: Any) -> str:
        message_id = str(uuid.uuid4())
        given = {"user_id": rabbitmq.USER, "message_id": message_id, "reply_to": self.answers, **properties}
        with connected(self.url, name="producer") as connection:
            channel = connection.channel()
            channel.confirm_select()
            content = body if isinstance(body, bytes) else orjson.dumps(body)
            known = {name: value for name, value in given.items() if value is not None}
            channel.basic_publish_confirm(amqp.Message(content, **known), exchange=SUBMISSIONS, routing_key="any")
        return message_id

    def read(self) -> tuple[str, Any]:
        """Return content type and body of the next answer."""
        with connected(self.url, name="producer") as connection:
            channel = connection.channel()
            result = eventually(lambda: channel.basic_get(self.answers, no_ack=True), what="an answer")
            body = result.body if isinstance(result.body, bytes) else result.body.encode()
            return result.properties["content_type"], orjson.loads(body)

    def left(self) -> int | None:
        with connected(self.url, name="producer") as connection:
            return count_ready(connection, SUBMISSIONS)


@pytest.fixture
def producer(broker_url: str, harness: LedgerHarness) -> Producer:
    with harness.ledger.transaction() as connection:
        keys.create_tenant(connection, rabbitmq.USER)
    return Producer(broker_url)


def taker(harness: LedgerHarness, url: str, clock: Callable[[], float] = lambda: 0.0) -> Ingress:
    """Return an ingress whose rounds end by number of submissions, not by time, unless `clock` advances."""
    config = Settings(database_url=harness.url, broker_url=url, max_body_bytes=2000)
    return Ingress(config, harness.ledger, SubmissionReader(url), clock=clock)


def test_a_submission_becomes_a_job_and_the_answer_contains_it(
    harness: LedgerHarness, producer: Producer, broker_url: str
) -> None:
    producer.publish()
    taking = taker(harness, broker_url)
    assert not taking.poll(registry())
    content_type, job = producer.read()
    taking.close()
    assert content_type == "application/json"
    (row,) = harness.all("SELECT id::text, kind, priority, payload FROM jobs")
    assert tuple(row) == (job["id"], "test.echo", 7, {"n": 1})
    assert harness.all("SELECT name FROM tenants t JOIN jobs j ON j.tenant_id = t.id") == [rabbitmq.USER]
    assert producer.left() == 0 and harness.all("SELECT count(*) FROM dead_messages") == [0]


@pytest.mark.parametrize(
    ("body", "properties", "reason", "code"),
    [
        (b"{", {}, "malformed", "not_json"),
        (b"[]", {}, "malformed", "not_json"),
        (SUBMISSION, {"message_id": None}, "malformed", "unnamed_submission"),
        (SUBMISSION, {"message_id": "x" * 251}, "malformed", "unnamed_submission"),
        (SUBMISSION, {"message_id": "a\x00b"}, "malformed", "unnamed_submission"),
        ({**SUBMISSION, "kind": "test.bug"}, {}, "refused", "internal_error"),
        ({**SUBMISSION, "kind": "test.ecko"}, {}, "refused", "unknown_kind"),
        ({**SUBMISSION, "priority": 10}, {}, "refused", "invalid_request"),
        ({**SUBMISSION, "run_at": "2020-01-01T00:00:00Z"}, {}, "refused", "invalid_request"),
        ({**SUBMISSION, "payload": {"text": "x" * 2000}}, {}, "refused", "invalid_request"),
        (b'{"kind": "test.echo", "payload": {"a": "\\u0000"}}', {}, "refused", "invalid_request"),
    ],
)
def test_a_refused_submission_is_answered_and_recorded(
    harness: LedgerHarness, producer: Producer, broker_url: str, body: Any, properties: Any, reason: str, code: str
) -> None:
    producer.publish(body, **properties)
    taking = taker(harness, broker_url)
    kinds = registry()
    kinds.add(Kind("test.bug", "email", Anything, lambda p, c: None, limit_keys=lambda p: [1 / 0]))
    taking.poll(kinds)
    content_type, problem = producer.read()
    taking.close()
    assert (content_type, problem["code"]) == ("application/problem+json", code)
    ((kept, detail, queue),) = harness.all("SELECT reason, detail, queue FROM dead_messages")
    assert (kept, queue) == (reason, SUBMISSIONS) and code in detail
    assert harness.all("SELECT count(*) FROM jobs") == [0] and producer.left() == 0


def test_a_submission_without_user_id_gets_no_answer_in_a_named_queue(
    harness: LedgerHarness, producer: Producer, broker_url: str
) -> None:
    producer.publish(user_id=None)
    taking = taker(harness, broker_url)
    taking.poll(registry())
    taking.close()
    with connected(broker_url, name="test") as connection:
        assert count_ready(connection, producer.answers) == 0
    ((reason, detail),) = harness.all("SELECT reason, detail FROM dead_messages")
    assert reason == "malformed" and "unnamed_submission" in detail


def test_a_crash_between_the_commit_and_the_acknowledgement_creates_no_second_job(
    harness: LedgerHarness, producer: Producer, broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    producer.publish()
    taking = taker(harness, broker_url)
    with monkeypatch.context() as broken:
        broken.setattr(SubmissionReader, "done", lambda *_, **__: (_ for _ in ()).throw(BrokerUnavailable("gone")))
        with pytest.raises(BrokerUnavailable):
            taking.poll(registry())
    eventually(lambda: producer.left() == 1, what="it came again")
    taking.poll(registry())
    taking.close()
    _, job = producer.read()
    assert harness.all("SELECT id::text FROM jobs") == [job["id"]]


def test_while_the_ledger_is_unavailable_submissions_stay_in_the_queue(
    harness: LedgerHarness, producer: Producer, broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        producer.publish()
    taking = taker(harness, broker_url)
    real, tries = ingress.accept_message, []

    def away(*arguments: Any, **named: Any) -> Any:
        tries.append(1)
        if len(tries) == 2:
            raise LedgerUnavailable()
        return real(*arguments, **named)

    monkeypatch.setattr(ingress, "accept_message", away)
    with pytest.raises(LedgerUnavailable):
        taking.poll(registry())
    eventually(lambda: producer.left() == 2, what="the others are back")
    taking.poll(registry())
    taking.close()
    assert harness.all("SELECT count(*) FROM jobs") == [3] and producer.left() == 0


def test_a_submission_whose_key_is_locked_does_not_delay_others(
    harness: LedgerHarness, producer: Producer, broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ingress.accept_message

    def held(*arguments: Any, **named: Any) -> Any:
        if b"held" in named["body"]:
            raise LedgerBusy()
        return real(*arguments, **named)

    producer.publish({**SUBMISSION, "payload": {"n": "held"}})
    producer.publish()
    taking = taker(harness, broker_url)
    with monkeypatch.context() as waiting:
        waiting.setattr(ingress, "accept_message", held)
        with pytest.raises(LedgerBusy):
            taking.poll(registry())
    assert harness.all("SELECT payload FROM jobs") == [{"n": 1}]
    eventually(lambda: producer.left() == 1, what="it is back")
    taking.poll(registry())
    taking.close()
    assert harness.all("SELECT count(*) FROM jobs") == [2]


def test_no_answer_goes_to_a_queue_of_another_user(harness: LedgerHarness, producer: Producer, broker_url: str) -> None:
    """Answers are published with the dispatcher's rights: a sender must not be able to send one to another user."""
    with connected(broker_url, name="test") as connection:
        connection.channel().queue_declare("payments.answers", durable=True, auto_delete=False)
    producer.publish(reply_to="payments.answers")
    producer.publish(reply_to="email")
    taking = taker(harness, broker_url)
    taking.poll(registry())
    taking.close()
    with connected(broker_url, name="test") as connection:
        assert [count_ready(connection, name) for name in ("payments.answers", "email")] == [0, 0]
    assert harness.all("SELECT count(*) FROM jobs") == [2]


def test_many_submissions_are_accepted_in_batches(harness: LedgerHarness, producer: Producer, broker_url: str) -> None:
    with connected(broker_url, name="producer") as connection:
        channel = connection.channel()
        channel.confirm_select()
        for number in range(ingress.BATCH + 5):
            message = amqp.Message(orjson.dumps(SUBMISSION), user_id=rabbitmq.USER, message_id=str(number))
            channel.basic_publish_confirm(message, exchange=SUBMISSIONS)
    taking = taker(harness, broker_url)
    assert taking.poll(registry()) and not taking.poll(registry())
    taking.close()
    assert harness.all("SELECT count(*) FROM jobs") == [ingress.BATCH + 5]


def test_a_round_ends_when_its_time_is_up_and_the_next_one_continues(
    harness: LedgerHarness, producer: Producer, broker_url: str
) -> None:
    for _ in range(5):
        producer.publish()
    tenths = itertools.count()
    taking = taker(harness, broker_url, clock=lambda: next(tenths) / 10)
    assert taking.poll(registry()), "more submissions wait"
    assert harness.all("SELECT count(*) FROM jobs") == [2] and producer.left() == 3
    while taking.poll(registry()):
        pass
    taking.close()
    assert harness.all("SELECT count(*) FROM jobs") == [5]


def test_the_error_for_a_missing_or_forbidden_queue_names_the_remedy(
    harness: LedgerHarness, broker_url: str, instance: Any
) -> None:
    with connected(broker_url, name="test") as connection:
        connection.channel().queue_delete(SUBMISSIONS)
    with pytest.raises(ConfigurationError, match="jobplatform broker apply"):
        taker(harness, broker_url).poll(registry())
    with pytest.raises(ConfigurationError, match="set the rights of the user `dispatcher`"):
        SubmissionReader(rabbitmq.url(instance, role="worker")).take(1)
