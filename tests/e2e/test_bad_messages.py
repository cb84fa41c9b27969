"""Bad messages, one for each field, for live jobs: no process obeys them or stops, and each job runs once (I3).

Each job's own message is replaced by a bad one. If the worker accepts it, the job runs. Otherwise it is recorded as a
dead message, and the job's missing message is published again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from drills.bad_messages import BIG, SHAPES, Target
from jobplatform.broker.connection import connected
from jobplatform.devstack import rabbitmq
from jobplatform.devstack.processes import end_named
from tests.e2e.conftest import Platform
from tests.support.waiting import eventually

QUEUE, KIND, WORKER = "limbo", "acme.forged", "worker-limbo"
ALL = {**SHAPES, BIG.name: BIG}
#: messages that are rejected: those that are malformed, and those that name a live job but contradict the ledger
NO_HINT = ("no headers", "no id", "an invalid id", "an id that is a list", "no dispatch number",
           "a dispatch number that is text", "a dispatch number of 0", "no kind", "a kind with NUL",
           "properties that can't be decoded")  # fmt: skip
ANOTHER = {"another dispatch number": "stale", "an unknown kind": "refused",
           "a task of Celery's own": "refused"}  # fmt: skip


@dataclass
class Forged:
    """The jobs by shape, and the parent processes and dead messages before."""

    jobs: dict[str, str]
    heads: dict[str, int]
    dead_before: int


@pytest.fixture(scope="module")
def forged(platform: Platform) -> Iterator[Forged]:
    """Dispatch a job for each shape to a queue without a worker, replace their messages, then start a worker."""
    before = platform.sql("SELECT coalesce(max(id), 0)::int FROM dead_messages")[0]
    heads = {name: platform.head(name) for name in ("worker-gpu", "worker-email", "dispatcher", "api")}
    jobs = {name: platform.submit(KIND, {"path": platform.file(f"bad {number}")})
            for number, name in enumerate(ALL)}  # fmt: skip
    out = "SELECT id::text, dispatch_no FROM jobs WHERE queue = :q AND state = 'dispatched'"
    numbers = eventually(
        lambda: result if len(result := dict(map(tuple, platform.sql(out, q=QUEUE)))) == len(ALL) else None
    )
    with connected(rabbitmq.url(platform.stack.instance), name="test") as connection:
        channel = connection.channel()
        assert channel.queue_purge(QUEUE) >= len(ALL)
        for name, shape in ALL.items():
            message = shape.message(Target(jobs[name], KIND, numbers[jobs[name]]))
            channel.basic_publish(message, exchange="jobs", routing_key=QUEUE)
        channel.close()
    platform.stack.start_celery(WORKER, QUEUE, "-c", "2")
    eventually(lambda: platform.head(WORKER), 30, "the worker")
    heads[WORKER] = platform.head(WORKER)
    yield Forged(jobs, heads, before)
    end_named(platform.stack.instance, WORKER)


@pytest.mark.parametrize("name", list(ALL))
def test_the_job_runs_once_as_the_ledger_has_it(platform: Platform, forged: Forged, name: str) -> None:
    job_id = forged.jobs[name]
    job = platform.wait(job_id)
    path = platform.file(f"bad {list(ALL).index(name)}")
    assert (job["state"], job["result"]["calls"], len(platform.calls(path))) == ("succeeded", 1, 1)
    assert platform.outcomes(job_id) == ["succeeded"]
    assert (job["kind"], job["attempt"]) == (KIND, 1)


def reasons(platform: Platform, forged: Forged, job_id: str | None) -> list[str]:
    kept = (
        "SELECT reason FROM dead_messages WHERE id > :b AND queue = :q AND job_id IS NOT DISTINCT FROM CAST(:j AS uuid)"
    )
    return platform.sql(
        kept, b=forged.dead_before, q=QUEUE, j=job_id,
    )  # fmt: skip


@pytest.mark.parametrize("name", list(ANOTHER))
def test_a_message_that_contradicts_the_ledger_is_recorded(platform: Platform, forged: Forged, name: str) -> None:
    result = eventually(lambda: reasons(platform, forged, forged.jobs[name]), 20, "the dead message")
    assert ANOTHER[name] in result


def test_messages_that_name_no_job_are_recorded(platform: Platform, forged: Forged) -> None:
    result = eventually(
        lambda: len(item) >= len(NO_HINT) and item if (item := reasons(platform, forged, None)) else None
    )
    assert set(result) == {"malformed"}


def test_no_process_has_exited(platform: Platform, forged: Forged) -> None:
    for job_id in forged.jobs.values():
        platform.wait(job_id)
    assert {name: platform.head(name) for name in forged.heads} == forged.heads
    job = platform.wait(platform.submit("acme.resize", {"width": 4, "height": 2}))
    assert job["status"] == "completed"
    assert not platform.sql("SELECT id FROM jobs WHERE queue = :q", q=QUEUE)
