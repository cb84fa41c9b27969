"""Notifications: "a job of this priority is due in this queue". They may be lost; correctness relies on polling.

A NOTIFY inside a transaction takes a database-wide lock at commit, so they are sent outside the submit transaction,
coalesced: one per queue for all jobs of a few milliseconds.
"""

from __future__ import annotations

import os
import select
import threading
from contextlib import suppress
from typing import Any

import psycopg2
from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError

from jobplatform.errors import JobPlatformError
from jobplatform.ledger.session import Prepared

CHANNEL = "jobplatform_due"
#: in place of a queue, which can't have this name: slots of limit keys were returned
FREED = "!limits"
#: a running job was cancelled; the payload is the id of its worker (sql/50_cancel_job.sql)
CANCEL_CHANNEL = "jobplatform_cancel"


def read_woken(woken: str | None) -> dict[str, int]:
    """Parse the "queue priority,…" that a function of the ledger returns: queue → its highest priority."""
    due: dict[str, int] = {}
    for item in filter(None, (woken or "").split(",")):
        queue, _, priority = item.rpartition(" ")
        due[queue] = max(int(priority), due.get(queue, 0))
    return due


class HintSender:
    """Sends notifications from its own thread, at most one per `gap_seconds`.

    `engine` is the ledger's autocommit engine: a notification is not part of any transaction.
    """

    def __init__(self, engine: Engine, gap_seconds: float = 0.005) -> None:
        self._engine = engine
        self._gap_seconds = gap_seconds
        self._wanted = threading.Event()
        self._due: dict[str, int] = {}
        self._due_lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._pid = 0
        self._lock = threading.Lock()

    def send(self, queue: str, priority: int) -> None:
        """Queue a notification; never blocks and never fails."""
        if self._pid != os.getpid():  # first use in this process: threads do not survive a fork
            with self._lock:
                if self._pid != os.getpid():
                    self._wanted, self._due = threading.Event(), {}
                    self._thread = threading.Thread(target=self._run, name="hints", daemon=True)
                    self._pid = os.getpid()
                    self._thread.start()
        with self._due_lock:
            self._due[queue] = max(priority, self._due.get(queue, 0))
        self._wanted.set()

    def send_all(self, woken: str | None) -> None:
        """Queue the notifications that a function of the ledger returned: "queue priority,…"."""
        for queue, priority in read_woken(woken).items():
            self.send(queue, priority)

    def _run(self) -> None:
        pause, connection = threading.Event(), Prepared(self._engine)
        while True:
            self._wanted.wait()
            self._wanted.clear()
            with self._due_lock:
                due, self._due = self._due, {}
            # a lost notification costs one poll interval of the dispatcher: an outage of the ledger needs no handling
            # here
            with suppress(JobPlatformError):
                for queue, priority in due.items():
                    connection.call("pg_notify", [CHANNEL, f"{queue} {priority}"])
            pause.wait(self._gap_seconds)


class Listener:
    """Waits for notifications of one channel on its own connection."""

    def __init__(self, engine: Engine, channel: str) -> None:
        self._engine, self._channel = engine, channel
        self._connection: Any = None
        #: a byte written to it interrupts a wait from another thread
        self._wake_reader, self._wake_writer = os.pipe()
        os.set_blocking(self._wake_reader, False)

    def wake(self) -> None:
        """Interrupt the wait of another thread, or the next wait."""
        os.write(self._wake_writer, b"!")

    def payloads(self, seconds: float) -> list[str]:
        """Wait for a notification or `wake`, at most `seconds`; returns the received payloads.

        A lost connection is reopened at the next call; until then this only waits.
        """
        seconds = max(seconds, 0.0)
        try:
            connection = self._listen()
            if not connection.notifies:
                self._wait_for_input(seconds, connection)
                connection.poll()
            came, connection.notifies[:] = list(connection.notifies), []
        except (psycopg2.Error, SQLAlchemyError, OSError):
            self.close()
            self._wait_for_input(seconds)
            return []
        return [notice.payload for notice in came]

    def _wait_for_input(self, seconds: float, *connections: Any) -> None:
        waiting = select.poll()  # select ends at file descriptor 1023
        for source in (self._wake_reader, *connections):
            waiting.register(source, select.POLLIN)
        waiting.poll(seconds * 1000)
        with suppress(BlockingIOError):
            os.read(self._wake_reader, 1024)

    def _listen(self) -> Any:
        """Return psycopg2's connection, listening; taken out of the pool, which would reset it."""
        if self._connection is None:
            pooled = self._engine.raw_connection()
            pooled.detach()
            self._connection = pooled.dbapi_connection
            self._connection.autocommit = True
            with self._connection.cursor() as cursor:
                cursor.execute(f"LISTEN {self._channel}")
        return self._connection

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            with suppress(psycopg2.Error):
                self._connection.close()
            self._connection = None


class HintListener(Listener):
    """Waits for hints."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine, CHANNEL)

    def wait(self, seconds: float) -> dict[str, int]:
        """Wait until a hint comes, at most `seconds`; returns queue → the highest priority that is due there."""
        due: dict[str, int] = {}
        for payload in self.payloads(seconds):
            queue, _, priority = payload.rpartition(" ")
            if priority.isdigit():
                due[queue] = max(int(priority), due.get(queue, 0))
        return due
