"""Registry of the deliveries that this parent has handed to its pool: the leases that heartbeats name (rule "Crash
after a heartbeat").

It is separate from Celery's own because it must survive a lost broker connection: the unacknowledged messages are gone
then, but the children continue.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

#: the outcome of a report on a delivery whose kind this worker does not know
UNKNOWN_KIND = "unknown_kind"


@dataclass
class Held:
    """One delivery in the pool. `pid` is known once a child took it (0 before); on threads it is this process's."""

    job_id: UUID
    dispatch_no: int
    lease_id: UUID
    kind: str
    pid: int = 0
    #: the committer has claimed it
    is_claimed: bool = False
    #: it is in a child's pipe since the connection to RabbitMQ was lost: the child will run it
    is_written: bool = False
    #: as last read; None on threads, which share the memory of the process
    peak_memory_bytes: int | None = None


@dataclass(frozen=True)
class Report:
    """A delivery that the parent has to end in the ledger: its child died, or its kind is not known here.

    `ack` acknowledges its message, in the event loop.
    """

    held: Held
    outcome: str
    reason: str
    ack: Callable[[], None]
    #: the signal that ended the child, by name
    signal: str | None = None

    def facts(self) -> dict[str, Any]:
        """Return the known facts about the end of the process, for the run's error."""
        result = {"signal": self.signal, "peak_memory_bytes": self.held.peak_memory_bytes}
        return {name: value for name, value in result.items() if value is not None}


class Deliveries:
    """Thread-safe: the event loop adds and removes, the liveness thread reads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._lock = threading.Lock()
        self._clock = clock
        self._held: dict[UUID, Held] = {}
        #: claimed, or about to be, ahead of a free slot; and since when (time.monotonic)
        self._ahead: dict[UUID, tuple[float, Held]] = {}
        #: withdrawn, and not yet given back in the ledger
        self._withdrawn: set[UUID] = set()
        #: a slot has finished them, the committer has not settled them yet
        self._finished: dict[UUID, Held] = {}
        #: deliveries that the pool gave up, and since when (time.monotonic)
        self._orphans: dict[UUID, tuple[float, Held]] = {}
        self._reports: list[Report] = []
        #: lease → job of received messages whose run has not begun: more than the pool has
        self._waiting: dict[UUID, UUID] = {}
        self._markers: list[UUID] = []
        #: when broker connections were lost since the last message (time.monotonic), and when that began
        self._losses: list[float] = []
        self._first_loss_at = 0.0
        #: set by a report that need not wait for the next heartbeat
        self.prompt = threading.Event()
        #: called for such a report; the heartbeat thread sets it
        self.wake: Callable[[], None] = lambda: None
        #: when the last message was received, or else this registry was created (time.monotonic)
        self.received_at = self._clock()

    def receive(self, lease_id: UUID, job_id: UUID) -> None:
        """Note a message that was received from RabbitMQ."""
        with self._lock:
            self._waiting[lease_id] = job_id
            self.received_at = self._clock()
            self._losses.clear()

    def waiting(self) -> list[UUID]:
        """Return the jobs whose message was received and whose run has not begun."""
        with self._lock:
            return list(self._waiting.values())

    def receive_marker(self, marker_id: UUID) -> None:
        """Note a marker (rule "Marker"): the liveness thread records it in the ledger."""
        with self._lock:
            self._markers.append(marker_id)
            self.received_at = self._clock()
            self._losses.clear()

    def note_lost_connection(self) -> None:
        """Note that an established connection to RabbitMQ was lost."""
        with self._lock:
            now = self._clock()
            if not self._losses:
                self._first_loss_at = now
            self._losses = [*self._losses[-99:], now]

    def lost_connections(self, within_seconds: float) -> tuple[int, float]:
        """Return how many connections were lost in this time without a message in between, and for how long (s) such
        losses have been going on. A period without a loss resets both."""
        with self._lock:
            now = self._clock()
            recent = sum(lost_at >= now - within_seconds for lost_at in self._losses)
            if not recent:
                self._losses.clear()
            return recent, now - self._first_loss_at if recent else 0.0

    def markers(self) -> list[UUID]:
        """Return the markers that are not recorded yet."""
        with self._lock:
            return list(self._markers)

    def forget_markers(self, recorded: Iterable[UUID]) -> None:
        """Remove markers that the ledger has recorded."""
        with self._lock:
            self._markers = [marker for marker in self._markers if marker not in set(recorded)]

    def claim_ahead(self, held: Held) -> None:
        """Note a delivery that the committer claims before a slot is free."""
        with self._lock:
            self._ahead[held.lease_id] = (self._clock(), held)

    def withdraw(self, lease_id: UUID) -> Held | None:
        """Withdraw a delivery that was claimed ahead, before the pool gets it; None if the pool has it."""
        with self._lock:
            _, held = self._ahead.pop(lease_id, (0.0, None))
            return held

    def withdraw_all(self, older_than_seconds: float = 0.0) -> list[Held]:
        """Withdraw the deliveries that were claimed ahead this long ago, to give their claims back.

        Heartbeats name them until `given_back`.
        """
        with self._lock:
            limit = self._clock() - older_than_seconds
            old = [held for since, held in self._ahead.values() if since <= limit]
            for held in old:
                del self._ahead[held.lease_id]
                self._withdrawn.add(held.lease_id)
            return old

    def given_back(self, lease_id: UUID) -> None:
        """Note that a withdrawn claim was given back in the ledger."""
        with self._lock:
            self._withdrawn.discard(lease_id)

    def renew(self, old: UUID, new: UUID) -> None:
        """Note that a received message claims with another lease than it was received with."""
        with self._lock:
            if (job_id := self._waiting.pop(old, None)) is not None:
                self._waiting[new] = job_id

    def withdraw_unstarted(self) -> list[Held]:
        """Withdraw every claimed delivery that no slot has begun: the pool has ended."""
        with self._lock:
            given = [*self._held.values(), *(held for _, held in self._orphans.values())]
            unstarted = [held for held in given if held.is_claimed and not held.pid]
            for held in unstarted:
                self._held.pop(held.lease_id, None)
                self._orphans.pop(held.lease_id, None)
        return [*self.withdraw_all(), *unstarted]

    def add(self, held: Held) -> None:
        """Note a delivery as handed to the pool."""
        with self._lock:
            self._ahead.pop(held.lease_id, None)
            self._held[held.lease_id] = held

    def add_claimed(self, held: Held) -> bool:
        """Note a claimed delivery as handed to the pool; False if it was withdrawn, and must not run."""
        with self._lock:
            if self._ahead.pop(held.lease_id, None) is None:
                return False
            held.is_claimed = True
            self._held[held.lease_id] = held
            return True

    def finish(self, lease_id: UUID) -> None:
        """Note that a slot has finished a delivery, which is still to be settled: its process is free for another."""
        with self._lock:
            self._waiting.pop(lease_id, None)
            _, given_up = self._orphans.pop(lease_id, (0.0, None))
            held = self._held.pop(lease_id, given_up)
            if held is not None:
                self._finished[lease_id] = held

    def started(self, held: Held, pid: int) -> None:
        """Note which process runs a delivery, even one given up and forgotten: heartbeats must name it, as it runs."""
        lease_id = held.lease_id
        with self._lock:
            self._waiting.pop(lease_id, None)
            _, given_up = self._orphans.pop(lease_id, (0.0, held))
            self._held.setdefault(lease_id, given_up).pid = pid

    def remove(self, lease_id: UUID) -> Held | None:
        """Remove a delivery that is over; None when it was removed before."""
        with self._lock:
            self._waiting.pop(lease_id, None)
            self._ahead.pop(lease_id, None)
            finished = self._finished.pop(lease_id, None)
            _, given_up = self._orphans.pop(lease_id, (0.0, finished))
            return self._held.pop(lease_id, given_up)

    def get(self, lease_id: UUID) -> Held | None:
        """Return a delivery that is in the pool."""
        with self._lock:
            return self._held.get(lease_id)

    def in_pool(self) -> list[Held]:
        """Return all deliveries that the pool has or may have: one that it gave up runs if a child has it after all."""
        with self._lock:
            return [*self._held.values(), *(held for _, held in self._orphans.values())]

    def ahead(self, slots: int) -> int:
        """Return how many deliveries are claimed, or about to be, beyond those that the slots run."""
        with self._lock:
            return len(self._ahead) + max(0, len(self._held) - slots)  # a thread pool takes more than it has slots

    def is_full(self, slots: int) -> bool:
        """Return whether there is a delivery for each slot, in the pool or about to be."""
        with self._lock:
            return len(self._held) + len(self._ahead) >= slots

    def taken(self) -> list[Held]:
        """Return the deliveries that a child has."""
        with self._lock:
            return [held for held in self._held.values() if held.pid]

    def leases(self) -> list[UUID]:
        """Return the leases to name in a heartbeat: of deliveries in the pool, and of those still to be reported."""
        with self._lock:
            reported = (report.held.lease_id for report in self._reports)
            return [*self._ahead, *self._withdrawn, *self._held, *self._finished, *self._orphans, *reported]

    def orphan_unstarted(self) -> None:
        """Note that the pool gave up deliveries that no child has started: they end only if a child has them after all.

        Heartbeats name them until `orphans` and the ledger agree that no process runs them.
        """
        with self._lock:
            self._waiting.clear()  # RabbitMQ has them again
            for lease_id in [lease_id for lease_id, held in self._held.items() if not held.pid]:
                self._orphans[lease_id] = (self._clock(), self._held.pop(lease_id))

    def note_written(self, job_ids: Iterable[str]) -> None:
        """Note deliveries that are in the pipes of children."""
        with self._lock:
            written = set(map(UUID, job_ids))
            for held in self._held.values():
                held.is_written |= held.job_id in written

    def orphans(self, older_than_seconds: float) -> list[Held]:
        """Return the deliveries that were given up this long ago."""
        with self._lock:
            limit = self._clock() - older_than_seconds
            return [held for since, held in self._orphans.values() if since < limit]

    def forget_orphans(self, leases: Iterable[UUID]) -> None:
        """Remove leases that no process runs."""
        with self._lock:
            for lease_id in leases:
                self._orphans.pop(lease_id, None)

    def report(self, report: Report) -> None:
        """Leave a report for the liveness thread."""
        with self._lock:
            self._reports.append(report)
        if report.outcome == UNKNOWN_KIND:  # nothing has crashed: no shutdown could be the cause
            self.prompt.set()
            self.wake()

    def reports(self) -> list[Report]:
        """Return the reports that are not yet done."""
        with self._lock:
            return list(self._reports)

    def reported(self, report: Report) -> None:
        """Remove a report that is committed."""
        with self._lock:
            self._reports.remove(report)


#: this parent's registry
DELIVERIES = Deliveries()
