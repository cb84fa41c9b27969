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

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from heapq import heappop, heappush, nsmallest
from itertools import count

from jobplatform.domain.flows import (
    FIRST_GUESS,
    NOWHERE,
    PRIORITIES,
    FlowId,
    Line,
    PriorityClass,
    Room,
    Served,
    Take,
    TenantClock,
)

#: tenants whose next lines are looked at when there are more limit keys than can be asked for
NEXT_TENANTS = 64


def _equal(_tenant: str) -> float:
    return 1.0


def _never(_key: str) -> bool:
    return False


class Shares:
    """The lines of one queue. Each `plan` is followed by `served`, also when nothing could be dispatched."""

    def __init__(self, weight: Callable[[str], float] = _equal) -> None:
        self._weight = weight
        self._classes = [PriorityClass() for _ in range(PRIORITIES)]
        self._lines: dict[FlowId, Line] = {}
        self._keys: dict[str, int] = {}
        self._rooms: dict[str, int] = {}
        self._numbers = count()
        #: the priority at which the last plan broke off, since a line may have more than it was asked for; -1: none
        self.broke_off_at = -1

    def __len__(self) -> int:
        return len(self._lines)

    def __contains__(self, line_id: FlowId) -> bool:
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
            if self._classes[priority].lowest_virtual_time() is not None:
                return priority
        return -1

    def next_flows(self, first_room: int) -> Iterator[FlowId]:
        """Yield lines that a plan may look at, the highest priority first; of rooms those from `first_room` on."""
        for own in reversed(self._classes):
            for _, _, tenant in nsmallest(NEXT_TENANTS, own.heap):
                yield from (line.id for _, number, line in nsmallest(2, tenant.heap) if number == line.entry)
            keys = list(own.rooms)
            first = first_room % max(1, len(keys))
            for key in (*keys[first:], *keys[:first]):
                yield from (line.id for _, number, line in own.rooms[key].heap[:2] if number == line.entry)

    def arrive(self, line_id: FlowId, head: float, size: int | None = None) -> None:
        """Note that jobs came to a line, `size` of them (None: not known), the first one at `head`."""
        line = self._lines.get(line_id)
        if line is not None:
            line.size = max(line.size, size or 0)
            self._move(line, min(line.head, head))
            return
        own = self._classes[line_id.priority]
        tenant = own.tenants.get(line_id.tenant)
        if tenant is None:
            turn = max(own.now, own.left.turns.pop(line_id.tenant, 0.0))
            tenant = own.tenants[line_id.tenant] = TenantClock(line_id.tenant, turn)
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

    def keep(self, lines: Container[FlowId]) -> None:
        """Forget all other lines: they have no jobs."""
        for line in [line for line in self._lines.values() if line.id not in lines]:
            self._forget(self._classes[line.id.priority], line)

    def plan(
        self, places: Sequence[int], free: Mapping[str, int], is_limited: Callable[[str], bool] = _never
    ) -> list[Take]:
        """Choose what to dispatch, in this order.

        `places`: for each priority, how many jobs of it and of those above it may go, in all. `free`: limit key → how
        many of its jobs may go. Of a key that is not named none may go when it is limited; its room stays shut.
        """
        takes: list[Take] = []
        left = dict(free)
        planned = 0
        self.broke_off_at = -1
        for priority in reversed(range(PRIORITIES)):
            own = self._classes[priority]
            if own.tenants and places[priority] > planned:
                chosen = self._choose(own, places[priority] - planned, left, is_limited)
                planned += sum(take.jobs for take in chosen)
                takes += chosen
                if any(take.jobs >= take.line.size and not take.line.sure for take in chosen):
                    self.broke_off_at = priority  # there may be more of this priority: the next round will know
                    break
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
                continue
            self._move(line, served.next_head)
            if served.jobs:
                line.sure = line.sure and line.size > served.jobs
                line.size = line.size - served.jobs if line.sure else max(FIRST_GUESS, 2 * served.jobs)

    # --- within a priority

    def _queue(self, own: PriorityClass, tenant: TenantClock) -> None:
        if tenant.open:
            heappush(own.heap, (tenant.turn, next(self._numbers), tenant))

    def _move(self, line: Line, head: float) -> None:
        """Note another time since which a line waits."""
        if head != line.head:
            line.head = head
            if line.blocked_by is None and line.entry != NOWHERE:
                self._enter(line)

    def _enter(self, line: Line) -> None:
        line.entry = next(self._numbers)
        heappush(line.tenant.heap, (line.head, line.entry, line))

    def _open(self, own: PriorityClass, line: Line) -> None:
        """Let a line take part."""
        line.blocked_by = None
        tenant = line.tenant
        self._enter(line)
        tenant.open += 1
        if tenant.open == 1:  # who was held up does not save up
            tenant.turn = max(tenant.turn, own.now)
            self._queue(own, tenant)

    def _block(self, own: PriorityClass, line: Line, key: str) -> None:
        """Set a line aside until its key has a place."""
        room = own.rooms.get(key)
        if room is None:
            room = own.rooms[key] = Room()
            self._rooms[key] = self._rooms.get(key, 0) + 1
        line.blocked_by = key
        room.lines += 1
        line.entry = next(self._numbers)
        heappush(room.heap, (room.virtual_time_of(line.id.tenant), line.entry, line))

    def _leave(self, own: PriorityClass, key: str) -> None:
        """One line less in a room; the last one closes it."""
        room = own.rooms[key]
        room.lines -= 1
        if not room.lines:
            del own.rooms[key]
            self._rooms[key] -= 1
            if not self._rooms[key]:
                del self._rooms[key]

    def _unblock(self, own: PriorityClass, free: Mapping[str, int]) -> int:
        """Let as many lines out of each room as its key has places, in the order of their turns; returns how many."""
        out = 0
        for key in [key for key in free if key in own.rooms] if len(free) < len(own.rooms) else list(own.rooms):
            room, places = own.rooms[key], free.get(key, 0)
            while places > 0 and room.lines:
                turn, number, line = heappop(room.heap)
                if number != line.entry:
                    continue
                due = room.virtual_time_of(line.id.tenant)
                if room.turns.turns.get(line.id.tenant, 0.0) > turn:  # another line of its tenant was served meanwhile
                    heappush(room.heap, (due, number, line))
                    continue
                room.now = max(room.now, turn)
                places -= 1
                out += 1
                self._leave(own, key)
                self._open(own, line)
        return out

    def _choose(
        self, own: PriorityClass, places: int, free: dict[str, int], is_limited: Callable[[str], bool]
    ) -> list[Take]:
        """Choose up to `places` jobs by turns, and count them off `free`."""
        takes: dict[Line, Take] = {}
        #: lines of which nothing more is expected: they sit out the rest of this plan
        spent: list[Line] = []
        now = own.now
        self._unblock(own, free)
        while places > 0:
            if not own.heap:
                # a line that was let out for one key may have gone to the room of another: the next one, then
                if own.rooms and self._unblock(own, free):
                    continue
                break
            turn, _, tenant = heappop(own.heap)
            if turn != tenant.turn or not tenant.open:
                continue
            line = self._next_flow(own, tenant, free, is_limited)
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
            now = max(now, turn + (jobs - 1) / weight)
            tenant.turn = turn + jobs / weight
            if take.jobs >= line.size:
                spent.append(line)
                line.entry = NOWHERE
                tenant.open -= 1
            self._queue(own, tenant)
        for line in spent:
            self._enter(line)
            line.tenant.open += 1
            if line.tenant.open == 1:
                self._queue(own, line.tenant)
        # not past anybody's turn: whoever comes now would wait until those have caught up
        spent_turn = min((line.tenant.turn for line in spent), default=now)
        lowest = own.lowest_virtual_time()
        own.now = max(own.now, min(now, spent_turn, now if lowest is None else lowest))
        return list(takes.values())

    def _next_flow(
        self, own: PriorityClass, tenant: TenantClock, free: Mapping[str, int], is_limited: Callable[[str], bool]
    ) -> Line | None:
        """Return the tenant's line that has waited longest and may go; those that may not go to their rooms."""
        while tenant.heap:
            _, number, line = tenant.heap[0]
            if number == line.entry:
                closed = next(
                    (key for key in line.id.keys if (free[key] <= 0 if key in free else is_limited(key))), None
                )
                if closed is None:
                    return line
                tenant.open -= 1
                self._block(own, line, closed)
            heappop(tenant.heap)
        return None

    def _forget(self, own: PriorityClass, line: Line) -> None:
        """A line has no jobs."""
        if self._lines.pop(line.id, None) is None:
            return
        tenant = line.tenant
        if line.blocked_by is None:
            tenant.open -= 1
        else:
            self._leave(own, line.blocked_by)
        line.entry = NOWHERE
        for key in line.id.keys:
            self._keys[key] -= 1
            if not self._keys[key]:
                del self._keys[key]
        tenant.lines -= 1
        if tenant.lines == 0:
            del own.tenants[tenant.id]
            if tenant.turn > own.now:
                own.left.keep(tenant.id, tenant.turn, own.now)
