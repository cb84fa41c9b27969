"""Faults of Postgres: killed, down, frozen, full, locked, and responses that are lost."""

from __future__ import annotations

import threading
from typing import Any

import psycopg2

from drills.faults.fault import Hits, fault, lasting
from drills.faults.messages import dead_messages, newest_dead_message
from drills.world import DISPATCHERS, LEASE_SECONDS, World, wait
from jobplatform.devstack import postgres
from jobplatform.devstack.processes import wait_for


@fault("Postgres kill -9", shows=("refused or unknown",))
def postgres_killed(world: World, size: float) -> Hits:
    """Postgres is killed as in a power cut, and restarted."""
    failed = world.failed_answers()
    world.kill_postgres()
    _await_failures(world, failed, 2 * size)
    world.start_postgres()
    return {"killed": 1}


def _await_failures(world: World, before: int, seconds: float) -> None:
    """Let a fault last: for this long, and until a submission has failed because of it."""
    goes_on = lasting(seconds, lambda: world.failed_answers() > before)
    while goes_on():
        wait(0.1)


@fault("Postgres away for two leases", shows=("refused or unknown",))
def postgres_away(world: World, size: float) -> Hits:
    """Postgres is stopped for longer than a lease: no run may be declared lost because of it."""
    failed = world.failed_answers()
    world.stop_postgres()
    _await_failures(world, failed, 2 * LEASE_SECONDS)
    world.start_postgres()
    return {"stopped": 1}


@fault("Postgres frozen for two leases", shows=("slow answers",))
def postgres_frozen(world: World, size: float) -> Hits:
    """Postgres receives requests and never responds: it neither reports an error nor closes the connection."""
    assert world.load is not None, "no drill is running"
    load, slow, frozen = world.load, world.load.slow, 0
    goes_on = lasting(0, lambda: load.slow > slow)
    while goes_on():
        pids = world.postgres()
        with world.frozen(pids):
            wait(2 * LEASE_SECONDS)
        frozen += len(pids)
        world.wait_for_flow()
    return {"frozen": frozen}


@fault("all connections to Postgres killed, again and again")
def connections_killed(world: World, size: float) -> Hits:
    """An administrator, or a proxy in between, closes the platform's connections."""
    killed, connection = 0, _connect(world)
    for _ in range(max(5, int(50 * size))):
        killed += _run(connection, KILL_OTHERS)
        wait(0.3)
    connection.close()
    return {"killed": killed}


#: connections of the platform: its name is the prefix of every application_name
KILL_OTHERS = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE 'jobplatform %'"
)


@fault("no connection left in Postgres", shows=("refused or unknown",))
def connections_used_up(world: World, size: float) -> Hits:
    """Another client takes every connection slot, and the platform's connections are killed."""
    taken, killed, failed = [_connect(world)], 0, world.failed_answers()
    try:
        for _ in range(8):
            killed += _run(taken[0], KILL_OTHERS)
            try:
                while True:
                    taken.append(_connect(world))
            except psycopg2.OperationalError:
                wait(0.1)
        _await_failures(world, failed, 10 * size)
    finally:
        for item in taken:
            item.close()
    return {"killed": killed, "taken": len(taken)}


@fault("table of jobs locked", shows=("refused or unknown",))
def jobs_locked(world: World, size: float) -> Hits:
    """Another session locks the table of live jobs for longer than any process waits for a lock."""
    connection, failed = _connect(world), world.failed_answers()
    connection.autocommit = False
    _run(connection, "LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")
    _await_failures(world, failed, max(4.0, 20 * size))
    connection.rollback()
    connection.close()
    return {"locked": 1}


@fault("disk full at commit", shows=("refused or unknown",))
def disk_full(world: World, size: float) -> Hits:
    """Every commit that changes a job fails as on a full disk (53100), after all its statements have succeeded."""
    connection, refused = _connect(world), world.failed_answers()
    _run(connection, FILL)
    try:
        _await_failures(world, refused, 10 * size)
        failed = _run(connection, "SELECT last_value FROM drill_full")
    finally:
        _run(connection, "DROP TRIGGER drill_full ON jobs; DROP FUNCTION drill_full(); DROP SEQUENCE drill_full")
        connection.close()
    return {"commits failed": failed}


#: a deferred constraint trigger fires at commit; a sequence counts the failures, because it is not rolled back
FILL = """
CREATE SEQUENCE drill_full MINVALUE 0;
-- with its owner's rights: a worker's login may not use the sequence, and would get an error other than 53100
CREATE FUNCTION drill_full() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    PERFORM nextval('drill_full');
    RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100';
END $$;
CREATE CONSTRAINT TRIGGER drill_full AFTER INSERT OR UPDATE OR DELETE ON jobs DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION drill_full();
"""


@fault("answers of the ledger lost, to the API and to a worker", shows=("unknown",))
def answers_lost(world: World, size: float) -> Hits:
    """Responses of Postgres are lost for moments. Callers retry with their Idempotency-Key, a worker with its lease."""
    proxies = {"to the API": world.api_proxy, "to a worker": world.worker_proxy}
    before = {name: proxy.lost_answers for name, proxy in proxies.items()}
    assert world.load is not None, "no drill is running"
    load, unknown, rounds, least = world.load, world.load.unknown, 0, max(3, int(20 * size))

    def has_hit() -> bool:
        return all(proxy.lost_answers > before[name] for name, proxy in proxies.items()) and load.unknown > unknown

    goes_on = lasting(0, lambda: rounds >= least and has_hit())
    while goes_on():
        rounds += 1
        for proxy in proxies.values():
            proxy.losing_answers.set()
        wait(0.3)
        for proxy in proxies.values():
            proxy.losing_answers.clear()
        wait(0.3)
    return {name: proxy.lost_answers - before[name] for name, proxy in proxies.items()}


@fault("dispatcher killed between publish and commit")
def before_commit(world: World, size: float) -> Hits:
    """Several times, a dispatcher is killed after its messages are confirmed and before its marks are committed."""
    rounds, before = max(2, int(10 * size)), newest_dead_message(world)
    for _ in range(rounds):
        killed = threading.Event()

        def stop(data: bytes, before: bytes, killed: threading.Event = killed) -> bool:
            # the commit follows the statement that marks the jobs
            if killed.is_set() or b"COMMIT" not in data or b"dispatch_flows" not in before:
                return False
            killed.set()
            world.kill(world.head(DISPATCHERS[0]))
            return True

        # the other dispatcher is frozen, so that this one has rounds in which to be killed
        with world.frozen([world.head(DISPATCHERS[1])]):
            world.dispatcher_proxy.stops = stop
            try:
                if not killed.wait(30):
                    raise AssertionError("the dispatcher started no round in which to be killed")
            finally:
                world.dispatcher_proxy.stops = None
        wait(1.0)
    # a message without a mark is stale at its claim; the job's next message has the same number, and runs
    wait_for("stale messages", lambda: dead_messages(world, before)["stale"] > 0, seconds=30)
    return {"killed": rounds, "messages without a mark": dead_messages(world, before)["stale"]}


def _connect(world: World) -> Any:
    connection = psycopg2.connect(
        postgres.url(world.instance).replace("+psycopg2", ""), connect_timeout=5, application_name="drill"
    )
    connection.autocommit = True
    return connection


def _run(connection: Any, statement: str) -> int:
    """Run a statement; returns the number that it selects, 0 when it returns no rows."""
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return int(cursor.fetchone()[0]) if cursor.description else 0
