"""The faults: each is done to a world under load, and gives it back as it was. `size` is 1.0 in full, less in tests."""

from __future__ import annotations

import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import amqp
import orjson

from drills.world import API, BEAT_SECONDS, DISPATCHERS, LEASE_SECONDS, WORKERS, World, wait
from jobplatform.broker.connection import connected
from jobplatform.devstack import rabbitmq
from jobplatform.devstack.processes import wait_for
from jobplatform.devstack.system import apt_install
from jobplatform.errors import ConfigurationError


class CanNotBeDone(Exception):
    """This fault can't be made on this machine; the message says what is missing."""


@dataclass(frozen=True)
class Fault:
    """A fault and its name in the table."""

    name: str
    do: Callable[[World, float], None]


FAULTS: dict[str, Fault] = {}


def fault(name: str) -> Callable[[Callable[[World, float], None]], Callable[[World, float], None]]:
    """Add a fault to the table, under the name of its function."""

    def add(do: Callable[[World, float], None]) -> Callable[[World, float], None]:
        FAULTS[do.__name__] = Fault(name, do)
        return do

    return add


@fault("none")
def none(world: World, size: float) -> None:
    """Nothing goes wrong."""
    wait(10 * size)


@fault("kill -9 at random: child, worker, dispatcher, API")
def kills(world: World, size: float) -> None:
    """A pool child, a worker, a dispatcher or the API is killed at random, about every second, for a minute."""
    dice, end = random.Random(1), time.monotonic() + 60 * size
    while time.monotonic() < end:
        name = dice.choice([*WORKERS, *WORKERS, *DISPATCHERS, API])
        children = world.pool_children(name) if name in WORKERS and dice.random() < 0.5 else []
        world.kill(dice.choice(children) if children else world.head(name))
        wait(dice.uniform(0.5, 1.5))


@fault("three rolling SIGKILLs of all workers")
def rolling(world: World, size: float) -> None:
    """All workers, one after the other, three times: healthy jobs must not be buried."""
    for _ in range(3):
        for name in WORKERS:
            world.kill(world.head(name))
            wait(max(0.5, 3 * size))


@fault("broker kill -9")
def broker_killed(world: World, size: float) -> None:
    """RabbitMQ is killed and started again."""
    world.kill(world.broker())
    wait(5 * size)
    world.start_broker()


@fault("broker wiped")
def broker_wiped(world: World, size: float) -> None:
    """RabbitMQ is killed and its data deleted, with messages in it."""
    with _backlog(world):
        world.wipe_broker()
    wait(5 * size)
    world.start_broker()


@fault("queue deleted, then declared again")
def queue_deleted(world: World, size: float) -> None:
    """Somebody deletes the queue by hand, with all its messages."""
    with _backlog(world), connected(rabbitmq.url(world.place), name="drill") as connection:
        connection.channel().queue_delete("drill")
    wait(5 * size)
    world.stack.run("broker", "apply")


@fault("queue purged")
def queue_purged(world: World, size: float) -> None:
    """Somebody purges the queue, some times: single messages are lost, and the broker says nothing."""
    for _ in range(max(2, int(10 * size))):
        with _backlog(world), connected(rabbitmq.url(world.place), name="drill") as connection:
            connection.channel().queue_purge("drill")
        wait(1.0)


@contextmanager
def _backlog(world: World) -> Iterator[None]:
    """Let messages pile up in RabbitMQ for a block: the workers rest, for less than a lease."""
    heads = [world.head(name) for name in WORKERS]
    for pid in heads:
        world.kill(pid, signal.SIGSTOP)
    try:
        wait(1.0)
        yield
    finally:
        for pid in heads:
            world.kill(pid, signal.SIGCONT)


@fault("100 flaps")
def flaps(world: World, size: float) -> None:
    """All connections to RabbitMQ are closed, a hundred times."""
    for _ in range(max(5, int(100 * size))):
        world.rabbitmqctl("close_all_connections", "a drill")


@fault("memory alarm")
def alarm(world: World, size: float) -> None:
    """RabbitMQ blocks everybody who publishes."""
    world.rabbitmqctl("set_vm_memory_high_watermark", "absolute", "1MB")
    wait(max(3.0, 10 * size))
    world.rabbitmqctl("set_vm_memory_high_watermark", "0.4")


@fault("Postgres kill -9")
def postgres_killed(world: World, size: float) -> None:
    """Postgres dies as in a power cut, and comes back."""
    world.kill_postgres()
    wait(2 * size)
    world.start_postgres()


@fault("Postgres away for two leases")
def postgres_away(world: World, size: float) -> None:
    """Postgres is stopped for longer than a lease: no run may be taken for lost because of it."""
    world.stop_postgres()
    wait(2 * LEASE_SECONDS)
    world.start_postgres()


@fault("SIGSTOP zombie")
def zombie(world: World, size: float) -> None:
    """A worker and its children are frozen for longer than a lease, lose their runs, and go on."""
    for _ in range(max(1, int(5 * size))):
        pids = [world.head(WORKERS[0]), *world.pool_children(WORKERS[0])]
        for pid in pids:
            world.kill(pid, signal.SIGSTOP)
        wait(2 * LEASE_SECONDS)
        for pid in pids:
            world.kill(pid, signal.SIGCONT)
        wait(4 * BEAT_SECONDS)


@fault("clock of a worker one hour off, both ways")
def clock(world: World, size: float) -> None:
    """A worker's clock is an hour late, then an hour early: the database's clock decides."""
    library = _libfaketime()
    for shift in ("-1h", "+1h"):
        more = {"LD_PRELOAD": str(library), "FAKETIME": shift, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        back = world.restart_with(WORKERS[0], more)
        wait(max(3.0, 10 * size))
        back()


def _libfaketime() -> Path:
    def found() -> Path | None:
        return next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)

    try:
        if found() is None and os.geteuid() == 0 and shutil.which("apt-get"):
            apt_install(["libfaketime"])
    except ConfigurationError as error:
        raise CanNotBeDone(str(error)) from None
    library = found()
    if library is None:
        raise CanNotBeDone("libfaketime is not installed: apt-get install libfaketime")
    return library


@fault("poison job")
def poisoned(world: World, size: float) -> None:
    """Jobs that take their process down each time are buried at their limit; the others go on."""
    for number in range(3):
        body = {"kind": "drill.poison", "payload": {"sink": world.sink.url, "key": f"poison-{number}"}}
        world.wait_state(world.caller.call("POST", "/v1/jobs", body)["id"], "dead", seconds=60)


@fault("10,000 bad messages")
def rubbish(world: World, size: float) -> None:
    """Messages that are stale, forged or malformed stop nobody, run nothing, and are kept."""
    before = world.sql("SELECT coalesce(max(id), 0) FROM dead_messages")[0][0]
    count = int(10_000 * size)
    with connected(rabbitmq.url(world.place), name="drill") as connection:
        channel = connection.channel()
        for number in range(count):
            channel.basic_publish(_bad_message(number), exchange="jobs", routing_key="drill")
    kept = "SELECT count(*) FROM dead_messages WHERE id > :before"
    wait_for("the dead messages", lambda: world.sql(kept, before=before)[0][0] >= count, seconds=300)


def _bad_message(number: int) -> amqp.Message:
    job_id = f"01890000-0000-7000-8000-{number:012x}"
    headers, body = [
        ({"task": "drill.plain", "id": job_id, "dispatch_no": 1}, b"[[], {}, {}]"),
        ({"task": "drill.plain", "dispatch_no": 1}, b"[[], {}, {}]"),
        ({"task": "drill.plain", "id": job_id, "dispatch_no": 1, "eta": "2099-01-01T00:00:00"}, b"not json"),
        ({}, b"\xff" * 100),
        ({"task": "drill.poison", "id": job_id, "dispatch_no": 1, "timelimit": [1, 1]}, orjson.dumps(
            [[], {}, {"callbacks": [{"task": "drill.poison"}], "chain": [{"task": "drill.poison"}]}])),
    ][number % 5]  # fmt: skip
    return amqp.Message(body, content_type="application/json", content_encoding="utf-8", application_headers=headers)


@fault("dispatcher killed between publish and commit")
def before_commit(world: World, size: float) -> None:
    """A dispatcher dies when its messages are confirmed and its marks are not committed, several times."""
    for _ in range(max(2, int(10 * size))):
        killed = threading.Event()

        def stop(data: bytes, before: bytes, killed: threading.Event = killed) -> bool:
            # a round begins with BEGIN and EXECUTE in one request; the next is its commit
            if killed.is_set() or b"COMMIT" not in data or b"BEGIN" not in before or b"EXECUTE" not in before:
                return False
            killed.set()
            world.kill(world.head(DISPATCHERS[0]))
            return True

        # the other one rests, so that there are rounds to be caught in
        world.kill(world.head(DISPATCHERS[1]), signal.SIGSTOP)
        world.dispatcher_proxy.stops = stop
        try:
            if not killed.wait(30):
                raise AssertionError("no round came to be caught in")
        finally:
            world.dispatcher_proxy.stops = None
            world.kill(world.head(DISPATCHERS[1]), signal.SIGCONT)
        wait(1.0)


@fault("commit answers lost")
def answers_lost(world: World, size: float) -> None:
    """What Postgres answers to the API is lost, for moments: callers repeat with their Idempotency-Key."""
    for _ in range(max(3, int(20 * size))):
        world.api_proxy.losing_answers.set()
        wait(0.3)
        world.api_proxy.losing_answers.clear()
        wait(0.3)
