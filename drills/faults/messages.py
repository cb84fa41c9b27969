"""Messages that are stale, forged or malformed, in front of the workers."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from drills.bad_messages import BIG, SHAPES, Target, missing_job
from drills.faults.fault import Hits, fault
from drills.world import World
from jobplatform.broker.connection import connected
from jobplatform.devstack import rabbitmq
from jobplatform.devstack.processes import wait_for

#: messages between two queries for live jobs
BATCH = 100


@fault("10,000 bad messages of every shape, half of them naming real jobs")
def bad_messages(world: World, size: float) -> Hits:
    """Bad messages stop no process, run nothing, and are recorded. Some are duplicate or stale ones of live jobs."""
    dice, before = random.Random(2), newest_dead_message(world)
    shapes, count = list(SHAPES.values()), int(10_000 * size)
    live = 0
    with connected(rabbitmq.url(world.instance), name="drill") as connection:
        channel = connection.channel()
        for start in range(0, count, BATCH):
            real = _await_real_jobs(world)
            messages = []
            for number in range(start, min(start + BATCH, count)):
                target = dice.choice(real) if real and dice.random() < 0.5 else missing_job(number)
                live += target in real
                target = dice.choice((target, replace(target, dispatch_no=target.dispatch_no + 1)))
                shape = BIG if number % 1000 == 0 else shapes[number % len(shapes)]
                messages.append(shape.message(target))
            publish(channel, "drill", messages)
    wait_for("the dead messages", lambda: sum(dead_messages(world, before).values()) >= count, seconds=300)
    result = dead_messages(world, before)
    return {name: result[name] for name in ("malformed", "no_job", "refused", "stale")} | {"named real jobs": live}


def _await_real_jobs(world: World) -> list[Target]:
    """Wait for jobs that messages can name; returns their dispatches."""
    targets: list[Target] = []

    def have_come() -> bool:
        targets[:] = _real_jobs(world)
        return bool(targets)

    wait_for("jobs that messages can name", have_come, seconds=60)
    return targets


def _real_jobs(world: World) -> list[Target]:
    """Return the dispatches of live jobs, and of some that have ended."""
    rows = world.sql(
        # not of dead letters: their own message, rejected, is no news to the recorder
        "(SELECT id::text, kind, dispatch_no FROM jobs WHERE queue = 'drill' AND kind <> 'drill.long' "
        "AND state <> 'dead' LIMIT 40) "
        "UNION ALL (SELECT id::text, kind, dispatch_no FROM job_history WHERE queue = 'drill' "
        "ORDER BY finished_at DESC LIMIT 10)"
    )
    return [Target(*row) for row in rows if row[2] > 0]


def publish(channel: Any, queue: str, messages: Iterable[Any]) -> None:
    """Publish to a job queue as the dispatcher does."""
    for message in messages:
        channel.basic_publish(message, exchange="jobs", routing_key=queue)


def newest_dead_message(world: World) -> int:
    """Return the id of the newest dead message, 0 when there is none."""
    return int(world.sql("SELECT coalesce(max(id), 0) FROM dead_messages")[0][0])


def dead_messages(world: World, after: int) -> Counter[str]:
    """Return reason → how many dead messages were recorded since then."""
    rows = world.sql("SELECT reason, count(*) FROM dead_messages WHERE id > :after GROUP BY reason", after=after)
    return Counter(dict(map(tuple, rows)))
