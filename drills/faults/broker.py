"""Faults of RabbitMQ: killed, wiped, purged, blocked, disconnected, and objects in it deleted by hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from drills.bad_messages import SHAPES, missing_job
from drills.faults.fault import Hits, Runs, fault, lasting
from drills.faults.messages import dead_messages, newest_dead_message, publish
from drills.world import DISPATCHERS, WORKERS, World, wait
from jobplatform.broker.connection import connected
from jobplatform.devstack import rabbitmq
from jobplatform.devstack.processes import wait_for

QUEUE = "drill"
#: the workers prefetch 12 messages, and the window lets 40 be in flight: 28 of these jobs wait in RabbitMQ
BACKLOG_JOBS, BACKLOG_SECONDS, LEAST_BACKLOG = 40, 0.5, 5
#: a job that was submitted under an alarm counts as delayed by it after this long ("waited over 2 s")
DELAYED_SECONDS = 2.2


@fault("broker kill -9")
def broker_killed(world: World, size: float) -> Hits:
    """RabbitMQ is killed with messages in it, and started again: classic queues lose them."""
    waiting = _await_backlog(world)["messages lost"]
    world.kill(world.broker())
    wait(5 * size)
    world.start_broker()
    return {"messages waiting": waiting}


@fault("broker wiped, back from its definitions alone", shows=("published again",))
def broker_wiped(world: World, size: float) -> Hits:
    """RabbitMQ is killed and its data deleted, with messages in it; the definitions loaded at boot must suffice."""
    hits = _await_backlog(world)
    world.kill(world.broker())
    world.wipe_broker()
    wait(5 * size)
    world.start_broker(apply=False)
    return hits


@fault("vhost deleted, then made again", shows=("published again",))
def vhost_wiped(world: World, size: float) -> Hits:
    """An administrator deletes the vhost, with queues, exchanges, permissions and connections."""
    hits = _await_backlog(world)
    rabbitmq.call_management(world.instance, "/api/vhosts/jobplatform", "DELETE")
    wait(5 * size)
    world.rabbitmqctl("import_definitions", world.definitions())
    return hits


@fault("queue deleted, then declared again", shows=("published again",))
def queue_deleted(world: World, size: float) -> Hits:
    """An administrator deletes the queue, with all its messages."""
    hits = _await_backlog(world)
    with _channel(world) as channel:
        channel.queue_delete(QUEUE)
    wait(5 * size)
    world.stack.run("broker", "apply")
    return hits


@fault("queue purged", shows=("published again",))
def queue_purged(world: World, size: float) -> Hits:
    """An administrator purges the queue several times: messages are lost, and the broker does not report it."""
    purged, rounds, least = 0, 0, max(2, int(10 * size))
    goes_on = lasting(0, lambda: rounds >= least and purged > 0)
    while goes_on():
        rounds += 1
        _await_backlog(world)
        with _channel(world) as channel:
            purged += channel.queue_purge(QUEUE)
        wait(1.0)
    return {"messages purged": purged}


@fault("dead-letter exchange and queue deleted")
def dead_letters_deleted(world: World, size: float) -> Hits:
    """RabbitMQ silently drops messages rejected meanwhile. After a new declaration they are recorded again."""
    refused = world.count_log_lines(WORKERS, "message_refused")
    with _channel(world) as channel:
        channel.exchange_delete("jobs.dead")
        channel.queue_delete("jobs.dead.records")
        publish(channel, QUEUE, [SHAPES["no id"].message(missing_job(number)) for number in range(10)])
    wait_for(
        "the rejected messages",
        lambda: world.count_log_lines(WORKERS, "message_refused") >= refused + 10,
        seconds=60,
    )
    wait(5 * size)
    world.stack.run("broker", "apply")
    before = newest_dead_message(world)
    with _channel(world) as channel:
        publish(channel, QUEUE, [SHAPES["no id"].message(missing_job(number)) for number in range(10)])
    wait_for("the dead messages", lambda: dead_messages(world, before)["malformed"] >= 10, seconds=60)
    rejected = world.count_log_lines(WORKERS, "message_refused") - refused
    return {"rejected meanwhile": rejected - 10, "recorded afterwards": dead_messages(world, before)["malformed"]}


#: clients reconnect in less than FLAP_MILLISECONDS; a worker that loses its connections for a minute without receiving
#: a message exits (`Watchdog`), so a busy machine gets fewer flaps, not longer ones
FLAP_MILLISECONDS, FLAPS_SECONDS = 300, 40
FLAPS = """
End = erlang:monotonic_time(second) + {seconds},
Flap = fun Flap(0, Closed) -> Closed;
           Flap(Left, Closed) ->
               case erlang:monotonic_time(second) < End of
                   false -> Closed;
                   true ->
                       Connections = rabbit_networking:connections(),
                       [rabbit_networking:close_connection(Pid, "a drill") || Pid <- Connections],
                       timer:sleep({milliseconds}),
                       Flap(Left - 1, Closed + length(Connections))
               end
       end,
Flap({times}, 0).
"""


@fault("100 flaps")
def flaps(world: World, size: float) -> Hits:
    """All connections to RabbitMQ are closed, a hundred times."""
    values = {"seconds": FLAPS_SECONDS, "milliseconds": FLAP_MILLISECONDS, "times": max(5, int(100 * size))}
    closed = world.rabbitmqctl("eval", FLAPS.format(**values))
    return {"connections closed": int(closed)}


@fault("memory alarm", shows=("waited over 2 s",))
def alarm(world: World, size: float) -> Hits:
    """RabbitMQ blocks all publishers."""
    with memory_alarm(world):
        _await_delay(world, 10 * size)
    return {}


@fault("disk alarm", shows=("waited over 2 s",))
def disk_alarm(world: World, size: float) -> Hits:
    """RabbitMQ blocks all publishers because its disk is nearly full."""
    world.rabbitmqctl("set_disk_free_limit", "1000000GB")
    try:
        _await_delay(world, 10 * size)
    finally:
        world.rabbitmqctl("set_disk_free_limit", "50MB")
    return {}


@fault("workers and dispatchers started under an alarm", Runs.FINISH, shows=("waited over 2 s",))
def started_under_alarm(world: World, size: float) -> Hits:
    """Processes that start while RabbitMQ blocks publishers work when the alarm ends."""
    with memory_alarm(world):
        world.restart(*WORKERS, *DISPATCHERS)
        _await_delay(world, 5 * size)
    return {"started": 4}


def _await_delay(world: World, seconds: float) -> None:
    """Let an alarm last: for this long, and until it has delayed a job."""
    goes_on = lasting(seconds, lambda: world.longest_wait_seconds() > DELAYED_SECONDS)
    while goes_on():
        wait(0.2)


@contextmanager
def memory_alarm(world: World) -> Iterator[None]:
    """Raise a memory alarm in RabbitMQ for a block."""
    world.rabbitmqctl("set_vm_memory_high_watermark", "absolute", "1MB")
    try:
        yield
    finally:
        world.rabbitmqctl("set_vm_memory_high_watermark", "0.4")


def _await_backlog(world: World) -> Hits:
    """Make messages pile up in RabbitMQ: more jobs than the workers have slots for. Returns the number of messages.

    No process is frozen meanwhile, so this may take any time. The jobs are long enough for the fault to come before the
    workers have caught up.
    """
    waiting = 0

    def has_backlog() -> bool:
        nonlocal waiting
        with _channel(world) as channel:
            waiting = int(channel.queue_declare(QUEUE, passive=True).message_count)
        return waiting >= LEAST_BACKLOG

    world.submit_backlog(BACKLOG_JOBS, BACKLOG_SECONDS)
    wait_for("messages waiting in RabbitMQ", has_backlog, seconds=60)
    return {"messages lost": waiting}


@contextmanager
def _channel(world: World) -> Iterator[Any]:
    with connected(rabbitmq.url(world.instance), name="drill") as connection:
        yield connection.channel()
