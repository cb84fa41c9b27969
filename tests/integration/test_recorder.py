"""The recorder and the markers, with the real broker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from uuid import UUID

import amqp
import pytest

from jobplatform.broker.connection import connect, connected, server_version
from jobplatform.broker.dead_letters import DeadLetterReader
from jobplatform.broker.envelope import MARKER_KIND, Envelope, read_headers
from jobplatform.broker.publisher import Publisher
from jobplatform.broker.topology import DEAD_EXCHANGE, DEAD_RECORDS
from jobplatform.dispatch.markers import detect_lost_messages
from jobplatform.dispatch.recorder import Recorder
from jobplatform.errors import ConfigurationError
from jobplatform.ledger.ids import new_id
from jobplatform.usecases import track_workers
from tests.support.ledger_harness import LedgerHarness, card
from tests.support.waiting import eventually

DeadLetter = Callable[..., None]


@pytest.fixture
def recorder(harness: LedgerHarness, broker_url: str) -> Iterator[Recorder]:
    with connected(broker_url, name="test") as connection:
        connection.channel().queue_purge(DEAD_RECORDS)
    result = Recorder(harness.ledger, DeadLetterReader(broker_url))
    yield result
    result.close()


@pytest.fixture
def dead_letter(broker_url: str) -> DeadLetter:
    """Publish a message to `jobs.dead`, as a queue that dead-letters it does."""

    def publish(headers: dict | None = None, body: bytes = b"[]", reason: str = "rejected", **properties) -> None:
        death = {"x-death": [{"queue": "email", "reason": reason, "count": 1}]}
        with connected(broker_url, name="test") as connection:
            message = amqp.Message(body, application_headers={**(headers or {}), **death}, **properties)
            connection.channel().basic_publish(message, DEAD_EXCHANGE, "email")

    return publish


def headers_of(job_id: UUID, number: int, kind: str = "test.echo") -> dict:
    return {"id": str(job_id), "dispatch_no": number, "task": kind}


def recorded(harness: LedgerHarness) -> list[tuple]:
    return harness.all("SELECT reason, job_id, dispatch_no, body_bytes::int FROM dead_messages ORDER BY id")


def test_a_live_job_whose_message_was_dead_lettered_is_dispatched_again(
    harness: LedgerHarness, recorder, dead_letter: DeadLetter
) -> None:
    job_id = harness.submit()
    harness.dispatch(job_id)
    dead_letter(headers_of(job_id, 1), reason="delivery_limit")
    assert recorder.poll() is False
    assert (harness.row(job_id).state, harness.row(job_id).lost_count, recorded(harness)) == ("available", 1, [])
    assert harness.events(job_id) == ["submitted", "dispatched", "lost"]


def test_a_job_whose_message_is_always_dead_lettered_is_dead_lettered_at_the_limit(
    harness: LedgerHarness, recorder, dead_letter: DeadLetter
) -> None:
    job_id = harness.submit()
    for number in (1, 2, 3):
        harness.dispatch(job_id)
        dead_letter(headers_of(job_id, number), reason="delivery_limit")
        recorder.poll()
    assert (harness.row(job_id).state, harness.row(job_id).error["code"]) == ("dead", "lost_limit")


def test_a_healthy_job_whose_message_exceeds_the_delivery_limit_is_dispatched_again(
    harness: LedgerHarness, recorder, broker_url: str
) -> None:
    """A quorum queue dead-letters a message at its 21st lost connection; nothing is wrong with the job."""
    with connected(broker_url, name="test") as connection:
        if server_version(connection) < "4.3":
            pytest.skip("the queues of jobs are classic before RabbitMQ 4.3, and have no delivery limit")
    job_id = harness.submit()
    harness.dispatch(job_id)
    publisher = Publisher(broker_url)
    publisher.publish([Envelope(str(job_id), 1, "test.echo", "email", 4)])
    publisher.close()
    lost = 0

    def given_up() -> bool:
        nonlocal lost
        connection = connect(broker_url, name="test")
        if connection.channel().basic_get("email") is not None:
            lost += 1
        connection.transport.sock.close()  # as when a worker is killed, or a cable is pulled
        recorder.poll()
        return harness.row(job_id).state != "dispatched"

    eventually(given_up, seconds=60)
    assert (harness.row(job_id).state, harness.row(job_id).lost_count, recorded(harness)) == ("available", 1, [])
    assert lost == 21


def test_a_dead_lettered_copy_of_a_running_jobs_message_changes_nothing(
    harness: LedgerHarness, recorder, dead_letter: DeadLetter
) -> None:
    job_id, _ = harness.running()
    dead_letter(headers_of(job_id, 1))
    recorder.poll()
    assert harness.row(job_id).state == "running"
    assert recorded(harness) == [("stale", job_id, 1, 2)]


def test_the_message_of_a_dead_letter_is_not_recorded_as_a_dead_message(
    harness: LedgerHarness, recorder, dead_letter: DeadLetter
) -> None:
    job_id, lease_id = harness.running()
    harness.settle(job_id, lease_id, "failed", "dead", error={"code": "x", "message": "x", "retryable": False})
    dead_letter(headers_of(job_id, 1))
    recorder.poll()
    assert recorded(harness) == []


def test_a_message_without_a_matching_job_is_recorded_with_the_reason(
    harness: LedgerHarness, recorder, dead_letter: DeadLetter
) -> None:
    job_id, nobody = harness.submit(), new_id()
    harness.dispatch(job_id)
    dead_letter(None, b"\x00\xff" * 50_000)
    dead_letter({"id": "x", "task": "a\x00b"})
    dead_letter(headers_of(nobody, 1))
    dead_letter(headers_of(job_id, 7))
    dead_letter(headers_of(job_id, 1, "test.video"))
    recorder.poll()
    assert recorded(harness) == [
        ("malformed", None, None, 100_000),
        ("malformed", None, None, 2),
        ("no_job", nobody, 1, 2),
        ("stale", job_id, 7, 2),
        ("refused", job_id, 1, 2),
    ]
    assert harness.row(job_id).state == "dispatched"
    assert harness.all("SELECT length(body) FROM dead_messages ORDER BY id LIMIT 1") == [65_536]


def test_a_malformed_message_is_recorded_and_blocks_no_other_message(
    harness: LedgerHarness, recorder, dead_letter: DeadLetter
) -> None:
    deep: dict = {}
    for _ in range(100):
        deep = {"a": deep}
    dead_letter({"id": [1], "deep": deep, "many": list(range(5_000)), "text": "x" * 60_000, "bytes": b"\xff\x00"})
    dead_letter({"x": 2**62, "t": True, "n": None}, b"{", content_type="text/\x00", priority=200, expiration="1000000")
    dead_letter({})
    assert recorder.poll() is False
    assert len(recorded(harness)) == 3
    assert max(harness.all("SELECT length(message::text) FROM dead_messages")) < 20_000


def test_a_message_of_a_recorder_that_died_before_its_commit_is_recorded_later(
    harness: LedgerHarness, recorder, dead_letter: DeadLetter, broker_url
) -> None:
    dead_letter({})
    reader = DeadLetterReader(broker_url)
    assert len(reader.take(10)) == 1
    reader.close()
    recorder.poll()
    assert len(recorded(harness)) == 1


def test_without_its_queue_the_recorder_names_the_remedy(harness: LedgerHarness, recorder, broker_url: str) -> None:
    with connected(broker_url, name="test") as connection:
        connection.channel().queue_delete(DEAD_RECORDS)
    with pytest.raises(ConfigurationError, match="jobplatform broker apply"):
        recorder.poll()


# --- markers


@pytest.fixture
def detect(harness: LedgerHarness, broker_url: str) -> Iterator[Callable[..., int]]:
    publisher = Publisher(broker_url)
    yield lambda quiet=0.0: detect_lost_messages(harness.ledger, publisher, quiet, 60.0)
    publisher.close()


def take(broker_url: str, queue: str = "email") -> list[tuple]:
    with connected(broker_url, name="test") as connection:
        channel = connection.channel()
        result = []
        while message := channel.basic_get(queue, no_ack=True):
            result.append(read_headers(message.headers))
    return result


def beat(harness: LedgerHarness, *, waiting=(), markers=()) -> None:
    track_workers.beat(harness.ledger, harness.worker, [], waiting, markers)


def test_a_marker_detects_a_lost_message(harness: LedgerHarness, detect, broker_url: str) -> None:
    lost = harness.submit(priority=3)
    harness.dispatch(lost)
    assert detect() == 0
    ((marker, _, kind),) = take(broker_url)
    assert kind == MARKER_KIND
    assert detect() == 0, "no worker has received the marker"
    beat(harness, markers=[marker])
    assert detect() == 0, "a heartbeat that was already under way proves nothing"
    beat(harness)
    beat(harness)
    assert detect() == 1
    assert harness.row(lost).state == "available"
    assert harness.events(lost) == ["submitted", "dispatched", "returned"]
    assert harness.all("SELECT count(*)::int FROM queue_markers") == [0], "a detected loss resets the back-off"


def test_a_message_that_waits_in_a_worker_is_not_lost(harness: LedgerHarness, detect, broker_url: str) -> None:
    job_id = harness.submit()
    harness.dispatch(job_id)
    detect()
    ((marker, _, _),) = take(broker_url)
    for _ in range(3):
        beat(harness, waiting=[job_id], markers=[marker])
    assert detect() == 0
    assert harness.row(job_id).state == "dispatched"


def test_a_worker_without_a_heartbeat_since_then_may_have_the_message(
    harness: LedgerHarness, detect, broker_url: str
) -> None:
    job_id = harness.submit()
    harness.dispatch(job_id)
    other = card()
    track_workers.register(harness.ledger, other)
    detect()
    ((marker, _, _),) = take(broker_url)
    for _ in range(3):
        beat(harness, markers=[marker])
    assert detect() == 0, "the other worker has not reported"
    for _ in range(2):
        track_workers.beat(harness.ledger, other, [])
    assert detect() == 1


def test_a_marker_covers_only_jobs_dispatched_before_it_with_its_priority(
    harness: LedgerHarness, detect, broker_url: str
) -> None:
    first = harness.submit()
    harness.dispatch(first)
    detect()
    ((marker, _, _),) = take(broker_url)
    second, other_class = harness.submit(), harness.submit(priority=9)
    harness.dispatch(second, other_class)
    for _ in range(3):
        beat(harness, markers=[marker])
    assert detect() == 1
    assert [harness.row(job_id).state for job_id in (first, second, other_class)] == ["available"] + ["dispatched"] * 2


def test_a_marker_is_sent_once_and_again_after_a_back_off(harness: LedgerHarness, detect, broker_url: str) -> None:
    job_id = harness.submit()
    harness.dispatch(job_id)
    harness.do("UPDATE jobs SET dispatched_at = dispatched_at - interval '1 hour'")
    detect(30.0)
    detect(30.0)
    assert len(take(broker_url)) == 1
    harness.do("UPDATE queue_markers SET sent_at = sent_at - interval '31 s'")
    detect(30.0)
    assert len(take(broker_url)) == 1, "the marker itself was lost"
    harness.do("UPDATE queue_markers SET sent_at = sent_at - interval '31 s'")
    detect(30.0)
    assert take(broker_url) == [], "the wait doubles after a second marker without a result"


def test_no_marker_is_sent_to_a_queue_without_consumers_or_with_recent_dispatches_only(
    harness: LedgerHarness, detect, broker_url: str
) -> None:
    job_id = harness.submit("test.llm")
    harness.dispatch(job_id)
    detect()
    assert take(broker_url, "llm") == [], "no worker consumes llm"
    fresh = harness.submit()
    harness.dispatch(fresh)
    detect(30.0)
    assert take(broker_url) == []


def test_an_unroutable_marker_is_not_recorded(harness: LedgerHarness, detect, broker_url: str) -> None:
    job_id = harness.submit()
    harness.dispatch(job_id)
    with connected(broker_url, name="test") as connection:
        connection.channel().queue_delete("email")
    detect()
    assert harness.all("SELECT count(*)::int FROM queue_markers") == [0]
