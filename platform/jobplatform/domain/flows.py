"""Flows of waiting jobs, ready in their tenant's queue or blocked by a limit key. See `shares`."""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heappop
from typing import NamedTuple

PRIORITIES = 10
#: jobs requested from a flow of unknown size; doubled whenever it has them
FIRST_GUESS = 8
NOWHERE = -1
#: virtual times of absent tenants are pruned when there are so many, and then at twice the number that is kept
KEPT_TENANTS = 1000


class FlowId(NamedTuple):
    """A flow: the waiting jobs of one priority, tenant (its id) and set of limit keys."""

    priority: int
    tenant: str
    keys: tuple[str, ...] = ()


class Flow:
    """What is known of a flow."""

    __slots__ = ("blocked_by", "entry", "head", "id", "size", "sure", "tenant")

    def __init__(self, flow_id: FlowId, tenant: TenantClock, head: float, size: int, sure: bool) -> None:
        self.id = flow_id
        self.tenant = tenant
        #: when its first job became available, or earlier, in seconds since 1970
        self.head = head
        #: number of waiting jobs, possibly a guess
        self.size = size
        self.sure = sure
        #: the limit key that blocks it
        self.blocked_by: str | None = None
        #: the number of its valid entry in the heap of its tenant, or of the key that blocks it; other entries are
        #: outdated
        self.entry = NOWHERE


class TenantClock:
    """A tenant within a priority."""

    __slots__ = ("flows", "heap", "id", "open", "virtual_time")

    def __init__(self, tenant: str, virtual_time: float) -> None:
        self.id = tenant
        self.virtual_time = virtual_time
        #: number of its flows, and of those that are not blocked
        self.flows = 0
        self.open = 0
        #: (head, number, flow), the longest waiting first
        self.heap: list[tuple[float, int, Flow]] = []


class VirtualTimes:
    """Virtual times of tenants, by name; those in the past are dropped whenever they may be half of all."""

    __slots__ = ("_most", "by_tenant")

    def __init__(self) -> None:
        self.by_tenant: dict[str, float] = {}
        self._most = KEPT_TENANTS

    def keep(self, tenant: str, virtual_time: float, now: float) -> None:
        """Record a tenant's virtual time."""
        self.by_tenant[tenant] = virtual_time
        if len(self.by_tenant) > self._most:
            self.by_tenant = {name: time for name, time in self.by_tenant.items() if time > now}
            self._most = max(KEPT_TENANTS, 2 * len(self.by_tenant))


class BlockedFlows:
    """The flows that wait for capacity of one key, each at the virtual time that its tenant has *for this key*."""

    __slots__ = ("flows", "heap", "now", "virtual_times")

    def __init__(self) -> None:
        self.flows = 0
        self.heap: list[tuple[float, int, Flow]] = []
        self.now = 0.0
        self.virtual_times = VirtualTimes()

    def virtual_time_of(self, tenant: str) -> float:
        """Return the virtual time of a tenant's next flow."""
        return max(self.now, self.virtual_times.by_tenant.get(tenant, 0.0))

    def charge(self, tenant: str, step: float) -> None:
        """Advance a tenant's virtual time."""
        self.virtual_times.keep(tenant, self.virtual_time_of(tenant) + step, self.now)


class PriorityClass:
    """One priority."""

    __slots__ = ("blocked", "heap", "left", "now", "tenants")

    def __init__(self) -> None:
        #: virtual time of the job that was chosen last
        self.now = 0.0
        self.tenants: dict[str, TenantClock] = {}
        #: (virtual time, number, tenant): an entry is valid while its virtual time is its tenant's
        self.heap: list[tuple[float, int, TenantClock]] = []
        self.blocked: dict[str, BlockedFlows] = {}
        #: tenants without jobs whose virtual time is in the future
        self.left = VirtualTimes()

    def lowest_virtual_time(self) -> float | None:
        """Return the lowest virtual time of the ready tenants; None if there is none."""
        while self.heap and (self.heap[0][0] != self.heap[0][2].virtual_time or not self.heap[0][2].open):
            heappop(self.heap)
        return self.heap[0][0] if self.heap else None


@dataclass(eq=False)
class Take:
    """A number of jobs of a flow to dispatch."""

    flow: Flow
    jobs: int


class Served(NamedTuple):
    """Result of a take: how many jobs, and when the next one of the flow became available (None: no more)."""

    jobs: int
    next_head: float | None
