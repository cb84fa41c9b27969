"""Lines of waiting jobs, and where they stand: in their tenant's order, or in the room of a limit key. See `shares`."""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heappop
from typing import NamedTuple

PRIORITIES = 10
#: how many jobs a line of which only the head is known is asked for; doubled whenever it has them
FIRST_GUESS = 8
NOWHERE = -1
#: turns of tenants that have gone are looked through when there are so many, and then twice as many as are kept
KEPT_TURNS = 1000


class FlowId(NamedTuple):
    """A line: the waiting jobs of one priority, tenant (its id) and set of limit keys."""

    priority: int
    tenant: str
    keys: tuple[str, ...] = ()


class Line:
    """What is known of a line."""

    __slots__ = ("blocked_by", "entry", "head", "id", "size", "sure", "tenant")

    def __init__(self, line_id: FlowId, tenant: TenantClock, head: float, size: int, sure: bool) -> None:
        self.id = line_id
        self.tenant = tenant
        #: when its first job became available, or earlier, in seconds since 1970
        self.head = head
        #: how many wait in it, or a guess
        self.size = size
        self.sure = sure
        #: the key in whose room it is
        self.blocked_by: str | None = None
        #: the number of its entry in its tenant's heap, or in that of its room: all others are of the past
        self.entry = NOWHERE


class TenantClock:
    """A tenant within a priority."""

    __slots__ = ("heap", "id", "lines", "open", "turn")

    def __init__(self, tenant: str, turn: float) -> None:
        self.id = tenant
        self.turn = turn
        #: how many lines it has, and how many of them are in no room
        self.lines = 0
        self.open = 0
        #: (head, number, line), the longest waiting first
        self.heap: list[tuple[float, int, Line]] = []


class Turns:
    """Turns of tenants, by name; those that are over are thrown out whenever they may have become half of all."""

    __slots__ = ("_most", "turns")

    def __init__(self) -> None:
        self.turns: dict[str, float] = {}
        self._most = KEPT_TURNS

    def keep(self, tenant: str, turn: float, now: float) -> None:
        """Note a tenant's turn."""
        self.turns[tenant] = turn
        if len(self.turns) > self._most:
            self.turns = {name: item for name, item in self.turns.items() if item > now}
            self._most = max(KEPT_TURNS, 2 * len(self.turns))


class Room:
    """The lines that wait for a place of one key, each at the turn that its tenant has *here*."""

    __slots__ = ("heap", "lines", "now", "turns")

    def __init__(self) -> None:
        self.lines = 0
        self.heap: list[tuple[float, int, Line]] = []
        self.now = 0.0
        self.turns = Turns()

    def virtual_time_of(self, tenant: str) -> float:
        """Return the turn at which a tenant's next line stands."""
        return max(self.now, self.turns.turns.get(tenant, 0.0))

    def charge(self, tenant: str, step: float) -> None:
        """Move a tenant's turn on."""
        self.turns.keep(tenant, self.virtual_time_of(tenant) + step, self.now)


class PriorityClass:
    """One priority."""

    __slots__ = ("heap", "left", "now", "rooms", "tenants")

    def __init__(self) -> None:
        #: the turn of the job that was last chosen
        self.now = 0.0
        self.tenants: dict[str, TenantClock] = {}
        #: (turn, number, tenant): an entry counts while its turn is its tenant's
        self.heap: list[tuple[float, int, TenantClock]] = []
        self.rooms: dict[str, Room] = {}
        #: tenants without jobs whose turn is yet to come
        self.left = Turns()

    def lowest_virtual_time(self) -> float | None:
        """Return the lowest turn of those who may go; None: nobody may."""
        while self.heap and (self.heap[0][0] != self.heap[0][2].turn or not self.heap[0][2].open):
            heappop(self.heap)
        return self.heap[0][0] if self.heap else None


@dataclass(eq=False)
class Take:
    """So many jobs of a line, to be dispatched."""

    line: Line
    jobs: int


class Served(NamedTuple):
    """What a take has brought: how many jobs, and when the next one of its line became available (None: no more)."""

    jobs: int
    next_head: float | None
