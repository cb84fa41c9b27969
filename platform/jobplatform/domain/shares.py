"""Who is next in a queue: tenants take turns by weight, and what waits for a place of a limit key stands aside.

The waiting jobs of one priority, tenant and set of limit keys form a *line*: all of them may go, or none. Within a
priority the tenants are served by start-time fair queueing (Goyal, Vin, Cheng: SIGCOMM 1996): each job moves its
tenant's turn by 1/weight, the lowest turn is next, and who comes (again) begins at the present turn, so that nobody
saves up what he did not use. A line whose key has no place goes to that key's *room* and costs nothing while it waits;
in a room the tenants take turns in the same way, so that a key's places are shared by weight, too.

This is a dispatcher's memory of what waits, never more than a hint: which jobs a line has is read, locked and marked in
the ledger. Nothing here knows a clock or a database; a dispatcher that starts anew learns its lines again.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from typing import NamedTuple

PRIORITIES = 10
#: how many jobs a line of which only the head is known is asked for; doubled whenever it has them
FIRST_GUESS = 8
#: turns of tenants that have gone are looked through when there are so many, and then twice as many as are kept
KEPT_TURNS = 1000


class LineId(NamedTuple):
    """A line: the waiting jobs of one priority, tenant (its id) and set of limit keys."""

    priority: int
    tenant: str
    keys: tuple[str, ...] = ()


class Line:
    """What is known of a line."""

    __slots__ = ("blocked_by", "head", "id", "size", "sure", "tenant")

    def __init__(self, line_id: LineId, tenant: _Tenant, head: float, size: int, sure: bool) -> None:
        self.id = line_id
        self.tenant = tenant
        #: when its first job became available, or earlier, in seconds since 1970
        self.head = head
        #: how many wait in it, or a guess
        self.size = size
        self.sure = sure
        #: the key in whose room it is
        self.blocked_by: str | None = None


class _Tenant:
    """A tenant within a priority."""

    __slots__ = ("id", "lines", "open", "turn")

    def __init__(self, tenant: str, turn: float) -> None:
        self.id = tenant
        self.turn = turn
        #: how many lines it has, those in rooms too
        self.lines = 0
        #: those that are not, the longest waiting first: (head, number, line)
        self.open: list[tuple[float, int, Line]] = []


class _Room:
    """The lines that wait for a place of one key, each at the turn that its tenant has *here*."""

    __slots__ = ("heap", "most_turns", "now", "turns")

    def __init__(self) -> None:
        self.heap: list[tuple[float, int, Line]] = []
        self.now = 0.0
        self.turns: dict[str, float] = {}
        self.most_turns = KEPT_TURNS

    def turn_of(self, tenant: str) -> float:
        return max(self.now, self.turns.get(tenant, 0.0))

    def charge(self, tenant: str, step: float) -> None:
        self.turns[tenant] = self.turn_of(tenant) + step
        if len(self.turns) > self.most_turns:
            self.turns = {name: turn for name, turn in self.turns.items() if turn > self.now}
            self.most_turns = max(KEPT_TURNS, 2 * len(self.turns))


class _Class:
    """One priority."""

    __slots__ = ("heap", "left", "most_left", "now", "rooms", "tenants")

    def __init__(self) -> None:
        #: the turn of the job that was last chosen
        self.now = 0.0
        self.tenants: dict[str, _Tenant] = {}
        #: (turn, number, tenant): an entry counts while its turn is its tenant's
        self.heap: list[tuple[float, int, _Tenant]] = []
        self.rooms: dict[str, _Room] = {}
        #: tenants without jobs whose turn is yet to come
        self.left: dict[str, float] = {}
        self.most_left = KEPT_TURNS


@dataclass(eq=False)
class Take:
    """So many jobs of a line, to be dispatched."""

    line: Line
    jobs: int


class Served(NamedTuple):
    """What a take has brought: how many jobs, and when the next one of its line became available (None: no more)."""

    jobs: int
    next_head: float | None


def _equal(_tenant: str) -> float:
    return 1.0


class Shares:
    """The lines of one queue. Each `plan` is followed by `served`, also when nothing could be dispatched."""

    def __init__(self, weight: Callable[[str], float] = _equal) -> None:
        self._weight = weight
        self._classes = [_Class() for _ in range(PRIORITIES)]
        self._lines: dict[LineId, Line] = {}
        self._keys: dict[str, int] = {}
        self._rooms: dict[str, int] = {}
        self._numbers = count()

    def __len__(self) -> int:
        return len(self._lines)

    def __contains__(self, line_id: LineId) -> bool:
        return line_id in self._lines

    @property
    def keys(self) -> Mapping[str, int]:
        """The limit keys of what waits, with the number of their lines."""
        return self._keys

    @property
    def rooms(self) -> Mapping[str, int]:
        """The limit keys that hold something back, with the number of priorities in which they do."""
        return self._rooms

    def highest(self) -> int:
        """Return the highest priority of which something may go; -1: nothing may."""
        for priority in reversed(range(PRIORITIES)):
            heap = self._classes[priority].heap
            while heap and (heap[0][0] != heap[0][2].turn or not heap[0][2].open):
                heappop(heap)
            if heap:
                return priority
        return -1

    def arrive(self, line_id: LineId, head: float, size: int | None = None) -> None:
        """Note that jobs came to a line, `size` of them (None: not known), the first one at `head`."""
        line = self._lines.get(line_id)
        if line is not None:
            line.size = max(line.size, size or 0)
            line.head = min(line.head, head)
            return
        own = self._classes[line_id.priority]
        tenant = own.tenants.get(line_id.tenant)
        if tenant is None:
            turn = max(own.now, own.left.pop(line_id.tenant, 0.0))
            tenant = own.tenants[line_id.tenant] = _Tenant(line_id.tenant, turn)
        tenant.lines += 1
        line = self._lines[line_id] = Line(line_id, tenant, head, size or FIRST_GUESS, size is not None)
        for key in line_id.keys:
            self._keys[key] = self._keys.get(key, 0) + 1
        # where others wait for the same key, it is their turn first
        crowded = next((key for key in line_id.keys if key in own.rooms), None)
        if crowded is None:
            self._open(own, line)
        else:
            self._block(own, line, crowded)

    def keep(self, lines: Container[LineId]) -> None:
        """Forget all other lines: they have no jobs."""
        for line in [line for line in self._lines.values() if line.id not in lines]:
            self._forget(self._classes[line.id.priority], line)

    def plan(self, places: Sequence[int], free: Mapping[str, int]) -> list[Take]:
        """Choose what to dispatch, in this order.

        `places`: for each priority, how many jobs of it and of those above it may go, in all. `free`: limit key → how
        many of its jobs may go; a key that is not named has no limit, but its room, if it has one, stays shut.
        """
        takes: list[Take] = []
        left = dict(free)
        planned = 0
        for priority in reversed(range(PRIORITIES)):
            own = self._classes[priority]
            if own.tenants and places[priority] > planned:
                self._let_out(own, left)
                chosen = self._choose(own, places[priority] - planned, left)
                planned += sum(take.jobs for take in chosen)
                takes += chosen
                if any(take.jobs >= take.line.size and not take.line.sure for take in chosen):
                    break  # there may be more of this priority: the next round will know
        return takes

    def served(self, outcomes: Iterable[tuple[Take, Served]]) -> None:
        """Note what became of a plan: tenants pay for what they got, and a line without jobs is forgotten."""
        for take, served in outcomes:
            line, tenant = take.line, take.line.tenant
            own, weight = self._classes[line.id.priority], self._weight(line.id.tenant)
            if served.jobs != take.jobs:
                tenant.turn -= (take.jobs - served.jobs) / weight
                self._queue(own, tenant)
            for key in line.id.keys:
                room = own.rooms.get(key)
                if room is not None:
                    room.charge(tenant.id, served.jobs / weight)
            if served.next_head is None:
                self._forget(own, line)
            else:
                line.head = served.next_head
                line.sure = line.sure and line.size > served.jobs
                line.size = line.size - served.jobs if line.sure else max(FIRST_GUESS, 2 * served.jobs)

    # --- within a priority

    def _queue(self, own: _Class, tenant: _Tenant) -> None:
        if tenant.open:
            heappush(own.heap, (tenant.turn, next(self._numbers), tenant))

    def _open(self, own: _Class, line: Line) -> None:
        """Let a line take part."""
        line.blocked_by = None
        tenant = line.tenant
        heappush(tenant.open, (line.head, next(self._numbers), line))
        if len(tenant.open) == 1:  # who was held up does not save up
            tenant.turn = max(tenant.turn, own.now)
            self._queue(own, tenant)

    def _block(self, own: _Class, line: Line, key: str) -> None:
        """Set a line aside until its key has a place."""
        room = own.rooms.get(key)
        if room is None:
            room = own.rooms[key] = _Room()
            self._rooms[key] = self._rooms.get(key, 0) + 1
        line.blocked_by = key
        heappush(room.heap, (room.turn_of(line.id.tenant), next(self._numbers), line))

    def _let_out(self, own: _Class, free: Mapping[str, int]) -> None:
        """Let as many lines out of each room as its key has places, in the order of their turns."""
        for key in [key for key in free if key in own.rooms] if len(free) < len(own.rooms) else list(own.rooms):
            room, places = own.rooms[key], free.get(key, 0)
            while places > 0 and room.heap:
                turn, number, line = heappop(room.heap)
                if line.blocked_by != key:
                    continue  # it is gone
                due = room.turn_of(line.id.tenant)
                if room.turns.get(line.id.tenant, 0.0) > turn:  # another line of its tenant was served meanwhile
                    heappush(room.heap, (due, number, line))
                    continue
                room.now = max(room.now, turn)
                places -= 1
                self._open(own, line)
            if not room.heap:
                del own.rooms[key]
                self._rooms[key] -= 1
                if not self._rooms[key]:
                    del self._rooms[key]

    def _choose(self, own: _Class, places: int, free: dict[str, int]) -> list[Take]:
        """Choose up to `places` jobs by turns, and count them off `free`."""
        takes: dict[Line, Take] = {}
        #: lines of which nothing more is expected: they sit out the rest of this plan
        spent: list[tuple[float, int, Line]] = []
        while places > 0 and own.heap:
            turn, _, tenant = heappop(own.heap)
            if turn != tenant.turn:
                continue
            line = self._next_line(own, tenant, free)
            if line is None:
                continue
            take = takes.get(line)
            if take is None:
                take = takes[line] = Take(line, 0)
            jobs = 1
            if not own.heap:  # nobody else: as many as there are
                limits = [free[key] for key in line.id.keys if key in free]
                jobs = max(1, min([places, line.size - take.jobs, *limits]))
            take.jobs += jobs
            places -= jobs
            for key in line.id.keys:
                if key in free:
                    free[key] -= jobs
            weight = self._weight(tenant.id)
            own.now = max(own.now, turn + (jobs - 1) / weight)
            tenant.turn = turn + jobs / weight
            if take.jobs >= line.size:
                spent.append(heappop(tenant.open))
            self._queue(own, tenant)
        for entry in spent:
            tenant = entry[2].tenant
            heappush(tenant.open, entry)
            if len(tenant.open) == 1:
                self._queue(own, tenant)
        return list(takes.values())

    def _next_line(self, own: _Class, tenant: _Tenant, free: Mapping[str, int]) -> Line | None:
        """Return the tenant's line that has waited longest and may go; those that may not go to their rooms."""
        while tenant.open:
            line = tenant.open[0][2]
            if line.blocked_by is None:
                closed = next((key for key in line.id.keys if free.get(key, 1) <= 0), None)
                if closed is None:
                    return line
                self._block(own, line, closed)
            heappop(tenant.open)
        return None

    def _forget(self, own: _Class, line: Line) -> None:
        """A line has no jobs."""
        if self._lines.pop(line.id, None) is None:
            return
        tenant = line.tenant
        if line.blocked_by is None:
            tenant.open = [entry for entry in tenant.open if entry[2] is not line]
        line.blocked_by = ""  # gone: neither open nor in a room
        for key in line.id.keys:
            self._keys[key] -= 1
            if not self._keys[key]:
                del self._keys[key]
        tenant.lines -= 1
        if tenant.lines == 0:
            del own.tenants[tenant.id]
            if tenant.turn > own.now:
                own.left[tenant.id] = tenant.turn
                if len(own.left) > own.most_left:
                    own.left = {name: turn for name, turn in own.left.items() if turn > own.now}
                    own.most_left = max(KEPT_TURNS, 2 * len(own.left))
