"""Fair shares of a queue: tenants are served by weight, and flows without capacity of a limit key are set aside.

The waiting jobs of one priority, tenant and set of limit keys form a *flow*: all of them may be dispatched, or none.
Within a priority the tenants are served by start-time fair queueing (Goyal, Vin, Cheng: SIGCOMM 1996): each job
advances its tenant's virtual time by 1/weight, the lowest virtual time is next, and a new or returning tenant starts
at the current one, so unused share is not saved up. A flow whose key has no capacity is blocked by that key and costs
nothing while it waits; among blocked flows tenants are served in the same way, so that the capacity of a key is
shared by weight too.

This is a dispatcher's in-memory view, never more than a hint: the jobs of a flow are read, locked and marked in
the ledger. Nothing here uses a clock or a database; a restarted dispatcher discovers its flows again.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from heapq import heappop, heappush, nsmallest
from itertools import count

from jobplatform.domain.flows import (
    FIRST_GUESS,
    NOWHERE,
    PRIORITIES,
    BlockedFlows,
    Flow,
    FlowId,
    PriorityClass,
    Served,
    Take,
    TenantClock,
)

#: tenants whose next flows are considered when there are more limit keys than one query can read
NEXT_TENANTS = 64


def _equal(_tenant: str) -> float:
    return 1.0


def _never(_key: str) -> bool:
    return False


class Shares:
    """The flows of one queue. Each `plan` is followed by `served`, even when nothing could be dispatched."""

    def __init__(self, weight: Callable[[str], float] = _equal) -> None:
        self._weight = weight
        self._classes = [PriorityClass() for _ in range(PRIORITIES)]
        self._flows: dict[FlowId, Flow] = {}
        self._keys: dict[str, int] = {}
        self._blocked_by_key: dict[str, int] = {}
        self._numbers = count()
        #: the priority at which the last plan stopped, since a flow may have more jobs than requested; -1: none
        self.broke_off_at = -1

    def __len__(self) -> int:
        return len(self._flows)

    def __contains__(self, flow_id: FlowId) -> bool:
        return flow_id in self._flows

    @property
    def keys(self) -> Mapping[str, int]:
        """The limit keys of waiting jobs, with the number of their flows."""
        return self._keys

    @property
    def blocking_keys(self) -> Mapping[str, int]:
        """The limit keys that block flows, with the number of priorities in which they do."""
        return self._blocked_by_key

    def highest(self) -> int:
        """Return the highest priority with a ready flow; -1 if there is none."""
        for priority in reversed(range(PRIORITIES)):
            if self._classes[priority].lowest_virtual_time() is not None:
                return priority
        return -1

    def next_flows(self, first_key: int) -> Iterator[FlowId]:
        """Yield flows that a plan may use, the highest priority first; of blocked ones those from key `first_key`
        on."""
        for own in reversed(self._classes):
            for _, _, tenant in nsmallest(NEXT_TENANTS, own.heap):
                yield from (flow.id for _, number, flow in nsmallest(2, tenant.heap) if number == flow.entry)
            keys = list(own.blocked)
            first = first_key % max(1, len(keys))
            for key in (*keys[first:], *keys[:first]):
                yield from (flow.id for _, number, flow in own.blocked[key].heap[:2] if number == flow.entry)

    def arrive(self, flow_id: FlowId, head: float, size: int | None = None) -> None:
        """Record the arrival of jobs in a flow: `size` of them (None: unknown), the first one at `head`."""
        flow = self._flows.get(flow_id)
        if flow is not None:
            flow.size = max(flow.size, size or 0)
            self._move(flow, min(flow.head, head))
            return
        own = self._classes[flow_id.priority]
        tenant = own.tenants.get(flow_id.tenant)
        if tenant is None:
            virtual_time = max(own.now, own.left.by_tenant.pop(flow_id.tenant, 0.0))
            tenant = own.tenants[flow_id.tenant] = TenantClock(flow_id.tenant, virtual_time)
        tenant.flows += 1
        flow = self._flows[flow_id] = Flow(flow_id, tenant, head, size or FIRST_GUESS, size is not None)
        for key in flow_id.keys:
            self._keys[key] = self._keys.get(key, 0) + 1
        # flows that already wait for the same key come first
        crowded = next((key for key in flow_id.keys if key in own.blocked), None)
        if crowded is None:
            self._open(own, flow)
        else:
            self._block(own, flow, crowded)

    def keep(self, flows: Container[FlowId]) -> None:
        """Forget all other flows: they have no jobs."""
        for flow in [flow for flow in self._flows.values() if flow.id not in flows]:
            self._forget(self._classes[flow.id.priority], flow)

    def plan(
        self, free_slots: Sequence[int], free: Mapping[str, int], is_limited: Callable[[str], bool] = _never
    ) -> list[Take]:
        """Choose jobs to dispatch, in order.

        `free_slots`: for each priority, the slots for jobs of it and of higher priorities. `free`: limit key → how
        many of its jobs may be dispatched. A limited key that is missing has no capacity.
        """
        takes: list[Take] = []
        left = dict(free)
        planned = 0
        self.broke_off_at = -1
        for priority in reversed(range(PRIORITIES)):
            own = self._classes[priority]
            if own.tenants and free_slots[priority] > planned:
                chosen = self._choose(own, free_slots[priority] - planned, left, is_limited)
                planned += sum(take.jobs for take in chosen)
                takes += chosen
                if any(take.jobs >= take.flow.size and not take.flow.sure for take in chosen):
                    self.broke_off_at = priority  # there may be more of this priority: the next round reads them
                    break
        return takes

    def served(self, outcomes: Iterable[tuple[Take, Served]]) -> None:
        """Record the result of a plan: tenants are charged for what they got, and empty flows are forgotten."""
        for take, served in outcomes:
            flow, tenant = take.flow, take.flow.tenant
            own, weight = self._classes[flow.id.priority], self._weight(flow.id.tenant)
            if served.jobs != take.jobs:
                tenant.virtual_time -= (take.jobs - served.jobs) / weight
                self._queue(own, tenant)
            for key in flow.id.keys:
                blocked = own.blocked.get(key)
                if blocked is not None:
                    blocked.charge(tenant.id, served.jobs / weight)
            if served.next_head is None:
                self._forget(own, flow)
                continue
            self._move(flow, served.next_head)
            if served.jobs:
                flow.sure = flow.sure and flow.size > served.jobs
                flow.size = flow.size - served.jobs if flow.sure else max(FIRST_GUESS, 2 * served.jobs)

    # --- within a priority

    def _queue(self, own: PriorityClass, tenant: TenantClock) -> None:
        if tenant.open:
            heappush(own.heap, (tenant.virtual_time, next(self._numbers), tenant))

    def _move(self, flow: Flow, head: float) -> None:
        """Change the time since which a flow waits."""
        if head != flow.head:
            flow.head = head
            if flow.blocked_by is None and flow.entry != NOWHERE:
                self._enter(flow)

    def _enter(self, flow: Flow) -> None:
        flow.entry = next(self._numbers)
        heappush(flow.tenant.heap, (flow.head, flow.entry, flow))

    def _open(self, own: PriorityClass, flow: Flow) -> None:
        """Make a flow ready."""
        flow.blocked_by = None
        tenant = flow.tenant
        self._enter(flow)
        tenant.open += 1
        if tenant.open == 1:  # blocked tenants do not save up share
            tenant.virtual_time = max(tenant.virtual_time, own.now)
            self._queue(own, tenant)

    def _block(self, own: PriorityClass, flow: Flow, key: str) -> None:
        """Block a flow until its key has capacity."""
        blocked = own.blocked.get(key)
        if blocked is None:
            blocked = own.blocked[key] = BlockedFlows()
            self._blocked_by_key[key] = self._blocked_by_key.get(key, 0) + 1
        flow.blocked_by = key
        blocked.flows += 1
        flow.entry = next(self._numbers)
        heappush(blocked.heap, (blocked.virtual_time_of(flow.id.tenant), flow.entry, flow))

    def _leave(self, own: PriorityClass, key: str) -> None:
        """Remove a flow from a key's blocked flows."""
        blocked = own.blocked[key]
        blocked.flows -= 1
        if not blocked.flows:
            del own.blocked[key]
            self._blocked_by_key[key] -= 1
            if not self._blocked_by_key[key]:
                del self._blocked_by_key[key]

    def _unblock(self, own: PriorityClass, free: Mapping[str, int]) -> int:
        """Unblock as many flows of each key as it has capacity, by virtual time; returns how many."""
        out = 0
        for key in [key for key in free if key in own.blocked] if len(free) < len(own.blocked) else list(own.blocked):
            blocked, free_slots = own.blocked[key], free.get(key, 0)
            while free_slots > 0 and blocked.flows:
                virtual_time, number, flow = heappop(blocked.heap)
                if number != flow.entry:
                    continue
                due = blocked.virtual_time_of(flow.id.tenant)
                # another flow of its tenant was served meanwhile
                if blocked.virtual_times.by_tenant.get(flow.id.tenant, 0.0) > virtual_time:
                    heappush(blocked.heap, (due, number, flow))
                    continue
                blocked.now = max(blocked.now, virtual_time)
                free_slots -= 1
                out += 1
                self._leave(own, key)
                self._open(own, flow)
        return out

    def _choose(
        self, own: PriorityClass, free_slots: int, free: dict[str, int], is_limited: Callable[[str], bool]
    ) -> list[Take]:
        """Choose up to `free_slots` jobs by virtual time, and subtract them from `free`."""
        takes: dict[Flow, Take] = {}
        #: flows that are expected to be empty: excluded for the rest of this plan
        spent: list[Flow] = []
        now = own.now
        self._unblock(own, free)
        while free_slots > 0:
            if not own.heap:
                # a flow that was unblocked for one key may be blocked by another: take the next one
                if own.blocked and self._unblock(own, free):
                    continue
                break
            virtual_time, _, tenant = heappop(own.heap)
            if virtual_time != tenant.virtual_time or not tenant.open:
                continue
            flow = self._next_flow(own, tenant, free, is_limited)
            if flow is None:
                continue
            take = takes.get(flow)
            if take is None:
                take = takes[flow] = Take(flow, 0)
            jobs = 1
            if not own.heap:  # no other tenant: as many as there are
                limits = [free[key] for key in flow.id.keys if key in free]
                jobs = max(1, min([free_slots, flow.size - take.jobs, *limits]))
            take.jobs += jobs
            free_slots -= jobs
            for key in flow.id.keys:
                if key in free:
                    free[key] -= jobs
            weight = self._weight(tenant.id)
            now = max(now, virtual_time + (jobs - 1) / weight)
            tenant.virtual_time = virtual_time + jobs / weight
            if take.jobs >= flow.size:
                spent.append(flow)
                flow.entry = NOWHERE
                tenant.open -= 1
            self._queue(own, tenant)
        for flow in spent:
            self._enter(flow)
            flow.tenant.open += 1
            if flow.tenant.open == 1:
                self._queue(own, flow.tenant)
        # not past any other tenant: a new tenant would have to wait until the others have caught up
        spent_turn = min((flow.tenant.virtual_time for flow in spent), default=now)
        lowest = own.lowest_virtual_time()
        own.now = max(own.now, min(now, spent_turn, now if lowest is None else lowest))
        return list(takes.values())

    def _next_flow(
        self, own: PriorityClass, tenant: TenantClock, free: Mapping[str, int], is_limited: Callable[[str], bool]
    ) -> Flow | None:
        """Return the tenant's ready flow that has waited longest; flows without capacity are blocked."""
        while tenant.heap:
            _, number, flow = tenant.heap[0]
            if number == flow.entry:
                closed = next(
                    (key for key in flow.id.keys if (free[key] <= 0 if key in free else is_limited(key))), None
                )
                if closed is None:
                    return flow
                tenant.open -= 1
                self._block(own, flow, closed)
            heappop(tenant.heap)
        return None

    def _forget(self, own: PriorityClass, flow: Flow) -> None:
        """Remove an empty flow."""
        if self._flows.pop(flow.id, None) is None:
            return
        tenant = flow.tenant
        if flow.blocked_by is None:
            tenant.open -= 1
        else:
            self._leave(own, flow.blocked_by)
        flow.entry = NOWHERE
        for key in flow.id.keys:
            self._keys[key] -= 1
            if not self._keys[key]:
                del self._keys[key]
        tenant.flows -= 1
        if tenant.flows == 0:
            del own.tenants[tenant.id]
            if tenant.virtual_time > own.now:
                own.left.keep(tenant.id, tenant.virtual_time, own.now)
