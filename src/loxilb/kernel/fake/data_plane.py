# SPDX-License-Identifier: Apache-2.0
"""A data plane in memory that carries operations out and answers which endpoint a new flow would get.

It is stricter than the kernel: what would send a packet astray for a moment (a rule pointing to slots that
are not written, a slice rewritten while a rule points to it, an endpoint dropped, draining or down while a
slice names it) is an error here.
"""

import asyncio
import errno
from collections import Counter as CountOf
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import IPv4Address

from loxilb.errors import KernelError
from loxilb.kernel.fake import tracing
from loxilb.kernel.fake.columns import page_of
from loxilb.kernel.fake.drops import FakeDrops
from loxilb.kernel.fake.undo import Undo, both, remove, restorer, write
from loxilb.model import (
    AbortedConnection,
    Counter,
    Flow,
    FlowEvent,
    FlowState,
    IPAddress,
    IPNetwork,
    L4Protocol,
    Mode,
    Port,
    Selection,
)
from loxilb.model.flow_list import FlowQuery
from loxilb.model.image import (
    DropEndpoint,
    DropListener,
    DropRule,
    DropSource,
    EndpointEntry,
    EndpointId,
    Image,
    Listener,
    Op,
    PutEndpoint,
    PutListener,
    PutRing,
    PutRule,
    PutSource,
    RuleEntry,
    RuleId,
    Single,
    one_by_one,
)
from loxilb.model.packet import MadePacket
from loxilb.model.port import IfIndex
from loxilb.model.trace import Traced
from loxilb.plan import Limits
from loxilb.ports import Fill, FlowCount, FlowPage, Tampering

_CLIENT: IPAddress = IPv4Address("10.10.10.1")


class FakeDataPlane:
    """``loxilb.ports.DataPlane`` in memory; ``applied`` and ``attached`` show what was done.

    ``happenings`` takes the flow events that it is to report, ``aborted`` the connections given up.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        """Start empty, with ``limits`` as the size of the tables."""
        self.limits = limits or Limits()
        self.applied: list[tuple[Single, ...]] = []
        self.attached: dict[IfIndex, str] = {}
        self.addresses: frozenset[IPAddress] = frozenset()
        self.refused: set[str] = set()
        self.gone: set[str] = set()
        self.hurries = 0
        self.held: set[IfIndex] = set()
        self.detached: set[IfIndex] = set()
        self.resolved = 0
        self.retired = 0
        self.reporting = False
        self.happenings: asyncio.Queue[FlowEvent] = asyncio.Queue()
        self.aborted: asyncio.Queue[Sequence[AbortedConnection]] = asyncio.Queue()
        self.lost_aborts = 0
        self.drops = FakeDrops()
        self._listeners: dict[Listener, RuleId] = {}
        self._rules: dict[RuleId, RuleEntry] = {}
        self._endpoints: dict[EndpointId, EndpointEntry] = {}
        self._ring: dict[int, EndpointId] = {}
        self._positions: dict[RuleId, int] = {}
        self._sources: defaultdict[RuleId, set[IPNetwork]] = defaultdict(set)
        self._affinities: dict[tuple[RuleId, IPAddress], tuple[EndpointId, float]] = {}
        self._counters: dict[EndpointId, Counter] = {}
        self._given: CountOf[EndpointId] = CountOf()
        self._reasons: defaultdict[str, int] = defaultdict(int)
        self._flows: list[Flow] = []
        self._fail_in: int | None = None

    # What the core asks

    def observe(self) -> Image:
        """Return what is programmed now."""
        return Image(
            listeners=dict(self._listeners),
            rules=dict(self._rules),
            endpoints=dict(self._endpoints),
            rings={rule: self._slice(entry) for rule, entry in self._rules.items()},
            sources={rule: frozenset(networks) for rule, networks in self._sources.items() if networks},
        )

    def prepared(self, ops: Sequence[Op]) -> tuple[Op, ...]:
        """Return the same operations."""
        return tuple(ops)

    def apply(self, ops: Sequence[Op]) -> None:
        """Carry out ``ops`` in order, all or none; raises KernelError."""
        undo: list[Undo] = []
        single = tuple(one_by_one(ops))
        try:
            for op in single:
                undo.append(self._apply_one(op))
        except BaseException:
            for step in reversed(undo):
                step()
            raise
        self.applied.append(single)

    repair = apply  # nothing is derived here

    def counters(self) -> Mapping[EndpointId, Counter]:
        """Return the traffic of every endpoint since it was programmed."""
        return {slot: self._counters.get(slot, Counter()) for slot in self._endpoints}

    def active_flows(self, endpoints: Iterable[EndpointId]) -> Mapping[EndpointId, int]:
        """Return how many flows that ``connect`` opened each of ``endpoints`` has."""
        opened = self._opened()
        return {slot: opened[slot] for slot in endpoints}

    def flows(self) -> Iterable[Flow]:
        """Return both directions of every flow that ``connect`` opened."""
        return list(self._flows)

    def flow_page(self, query: FlowQuery) -> FlowPage:
        """Return those asked for of the flows that ``connect`` opened."""
        return page_of(self._flows, query)

    def reasons(self) -> Mapping[str, int]:
        """Return how often ``choose`` found what."""
        return dict(self._reasons)

    def flow_counts(self) -> Mapping[EndpointId, FlowCount]:
        """Return the flows of every endpoint."""
        active = CountOf(flow.endpoint for flow in self._flows if not flow.reply)
        return {slot: FlowCount(active[slot], self._given[slot]) for slot in self._endpoints}

    def fills(self) -> Mapping[str, Fill]:
        """Return how full the tables of what is configured are."""
        return {
            "rules": Fill(len(self._rules), self.limits.rules),
            "endpoints": Fill(len(self._endpoints), self.limits.endpoints),
            "flow4": Fill(len(self._flows), 1 << 20),
        }

    def lost_reports(self) -> int:
        """Return 0: the queue of reports has no end."""
        return 0

    # What the daemon asks

    def attach(self, port: Port) -> tuple[str, ...]:
        """Take the hook ``tcx`` of ``port``; raises KernelError for an interface in ``refused`` or ``gone``."""
        if port.name in self.gone:
            raise KernelError(f"attach to {port.name}", errno.ENODEV)
        if port.name in self.refused:
            raise KernelError(f"attach to {port.name}", errno.EBUSY, remedy="free the hook")
        self.attached[port.index] = port.name
        self.detached.discard(port.index)
        return ("tcx",)

    def detach(self, index: IfIndex) -> None:
        """Leave an interface; raises KernelError for one in ``held``."""
        if index in self.held:
            raise KernelError(f"detach from interface {index}", errno.EBUSY)
        self.attached.pop(index, None)

    @contextmanager
    def hurried(self) -> Iterator[None]:
        """Count how often it is to be quick."""
        self.hurries += 1
        yield

    def check_hooks(self) -> Tampering:
        """Return the interfaces in ``detached``, which are those until they are attached again."""
        return Tampering(interfaces=frozenset(self.detached))

    def know_addresses(self, addresses: frozenset[IPAddress]) -> None:
        """Learn the addresses of this host."""
        self.addresses = addresses

    def resolve_again(self) -> None:
        """Count the times that routes had to be looked up again."""
        self.resolved += 1

    def retire(self) -> None:
        """Count the times that replaced programs were let go of."""
        self.retired += 1

    def report_flows(self, wanted: bool) -> None:
        """Remember whether flows are to be reported."""
        self.reporting = wanted

    async def flow_events(self) -> AsyncIterator[FlowEvent]:
        """Report what is put into ``happenings``, without end."""
        while True:
            yield await self.happenings.get()

    async def aborted_connections(self) -> AsyncIterator[Sequence[AbortedConnection]]:
        """Report what is put into ``aborted``, without end; it is done with when the next is asked for."""
        while True:
            yield await self.aborted.get()
            self.aborted.task_done()

    def aborts_lost(self) -> int:
        """Return ``lost_aborts``."""
        return self.lost_aborts

    def trace(self, made: MadePacket, port: Port) -> Traced:
        """Say what becomes of a packet; nothing changes."""

        def choose(listener: Listener) -> tuple[EndpointId | None, str]:
            before = dict(self._positions), dict(self._affinities), self._reasons
            self._reasons = defaultdict(int)
            slot = self.choose(listener, client=made.source)
            (reason,) = self._reasons
            self._positions, self._affinities, self._reasons = before
            return slot, reason

        return tracing.trace(self.observe(), self._flows, made, port, choose)

    # What a test asks

    def fail_in(self, operations: int) -> None:
        """Let the operation after so many more be refused with EIO, once."""
        self._fail_in = operations

    def choose(
        self, listener: Listener, hashed: int = 0, *, client: IPAddress = _CLIENT, now: float = 0.0
    ) -> EndpointId | None:
        """Return the endpoint that a new flow to ``listener`` gets, None where nothing listens or none can.

        ``hashed`` stands for the 32-bit hash of the flow, ``now`` is the time in seconds.
        """
        rule = self._listeners.get(listener, self._listeners.get(listener._replace(mark=0)))
        if rule is None:
            self._reasons["pass_not_service"] += 1
            return None
        entry = self._rules[rule]
        if entry.restricted and not any(client in network for network in self._sources[rule]):
            self._reasons["drop_source"] += 1
            return None
        if not entry.ring_length:
            self._reasons["drop_no_endpoint"] += 1
            return None
        self._reasons["forward_new"] += 1
        return self._select(rule, entry, hashed, client, now)

    def connect(
        self, listener: Listener, client: IPAddress, port: int, hashed: int = 0, *, now: float = 0.0
    ) -> EndpointId | None:
        """Open a flow from ``client``: choose, count a packet of 40 bytes, list both directions."""
        slot = self.choose(listener, hashed, client=client, now=now)
        if slot is not None:
            self._counters[slot] = self._counters.get(slot, Counter()) + Counter(packets=1, bytes=40)
            self._given[slot] += 1
            self._flows += _both_directions(listener, client, port, slot, self._endpoints[slot], self._mode(listener))
        return slot

    def disconnect(self, client: IPAddress, port: int) -> None:
        """End the flows that ``client`` opened from ``port``."""
        theirs = (client, port)
        self._flows = [
            flow
            for flow in self._flows
            if theirs not in ((flow.source, flow.source_port), (flow.new_destination, flow.new_destination_port))
        ]

    def _select(self, rule: RuleId, entry: RuleEntry, hashed: int, client: IPAddress, now: float) -> EndpointId:
        slots = self._slice(entry)
        if entry.selection is Selection.LC:
            opened = self._opened()
            return min(slots, key=lambda slot: (opened[slot] + 1) / self._endpoints[slot].share)
        if entry.selection is Selection.PERSIST:
            slot, last = self._affinities.get((rule, client), (None, now))
            held = self._endpoints.get(slot) if slot is not None else None
            takes = held is not None and held.rule == rule and held.takes_flows
            if slot is None or not takes or now - last > entry.persist:
                slot = slots[self._place(rule, entry, hashed) % len(slots)]
            self._affinities[rule, client] = slot, now
            return slot
        return slots[self._place(rule, entry, hashed) % len(slots)]

    def _opened(self) -> CountOf[EndpointId]:
        return CountOf(EndpointId(flow.endpoint) for flow in self._flows if not flow.reply)

    def _mode(self, listener: Listener) -> Mode:
        return self._rules[self._listeners[listener]].mode

    def _place(self, rule: RuleId, entry: RuleEntry, hashed: int) -> int:
        if entry.selection is Selection.HASH:
            return hashed
        position = self._positions[rule]
        self._positions[rule] = position + 1
        return position

    def _slice(self, entry: RuleEntry) -> tuple[EndpointId, ...]:
        return tuple(self._ring[entry.ring_base + place] for place in range(entry.ring_length))

    # One operation each; every handler checks first, then writes, and returns how to undo it

    def _apply_one(self, op: Single) -> Undo:
        if self._fail_in is not None:
            if self._fail_in == 0:
                self._fail_in = None
                raise KernelError(type(op).__name__, errno.EIO, detail="asked to fail")
            self._fail_in -= 1
        match op:
            case PutEndpoint():
                return self._put_endpoint(op)
            case DropEndpoint():
                return self._drop_endpoint(op)
            case PutRing():
                return self._put_ring(op)
            case PutRule():
                return self._put_rule(op)
            case DropRule():
                return self._drop_rule(op)
            case PutListener():
                return self._put_listener(op)
            case DropListener():
                return self._drop_listener(op)
            case PutSource():
                return self._put_source(op)
            case DropSource():
                return self._drop_source(op)

    def _put_endpoint(self, op: PutEndpoint) -> Undo:
        _check(1 <= op.endpoint <= self.limits.endpoints, op, errno.E2BIG)
        _check(1 <= op.entry.rule <= self.limits.rules, op, errno.E2BIG)
        rule = self._rules.get(op.entry.rule)
        named = rule is not None and op.endpoint in self._slice(rule)
        _check(op.entry.takes_flows or not named, op, errno.EBUSY)
        old_counter = self._counters.get(op.endpoint)
        undo = write(self._endpoints, op.endpoint, op.entry)
        if op.fresh:
            self._counters[op.endpoint] = Counter()
            self._given[op.endpoint] = 0
        return both(undo, restorer(self._counters, op.endpoint, old_counter))

    def _drop_endpoint(self, op: DropEndpoint) -> Undo:
        _check(op.endpoint in self._endpoints, op, errno.ENOENT)
        rule = self._rules.get(self._endpoints[op.endpoint].rule)
        _check(rule is None or op.endpoint not in self._slice(rule), op, errno.EBUSY)
        return remove(self._endpoints, op.endpoint)

    def _put_ring(self, op: PutRing) -> Undo:
        end = op.base + len(op.endpoints)
        _check(0 <= op.base < end <= self.limits.ring, op, errno.E2BIG)
        _check(all(slot in self._endpoints for slot in op.endpoints), op, errno.ENOENT)
        overlaps = (
            entry.ring_length and entry.ring_base < end and op.base < entry.ring_base + entry.ring_length
            for entry in self._rules.values()
        )
        _check(not any(overlaps), op, errno.EBUSY)
        old = {place: self._ring[place] for place in range(op.base, end) if place in self._ring}
        self._ring.update(zip(range(op.base, end), op.endpoints, strict=True))

        def undo() -> None:
            for place in range(op.base, end):
                restorer(self._ring, place, old.get(place))()

        return undo

    def _put_rule(self, op: PutRule) -> Undo:
        _check(1 <= op.rule <= self.limits.rules, op, errno.E2BIG)
        end = op.entry.ring_base + op.entry.ring_length
        slots = [self._ring.get(place) for place in range(op.entry.ring_base, end)]
        rules = {self._endpoints[slot].rule if slot in self._endpoints else None for slot in slots if slot}
        _check(None not in slots and rules <= {op.rule}, op, errno.EINVAL)
        _check(bool(self._sources[op.rule]) or not op.entry.restricted, op, errno.EINVAL)
        _check(all(self._endpoints[slot].takes_flows for slot in slots if slot), op, errno.EINVAL)
        old_position = self._positions.get(op.rule)
        if op.fresh or old_position is None:
            self._positions[op.rule] = 0
        return both(write(self._rules, op.rule, op.entry), restorer(self._positions, op.rule, old_position))

    def _drop_rule(self, op: DropRule) -> Undo:
        _check(op.rule in self._rules, op, errno.ENOENT)
        _check(op.rule not in self._listeners.values(), op, errno.EBUSY)
        return remove(self._rules, op.rule)

    def _put_listener(self, op: PutListener) -> Undo:
        _check(op.rule in self._rules, op, errno.ENOENT)
        return write(self._listeners, op.listener, op.rule)

    def _drop_listener(self, op: DropListener) -> Undo:
        _check(op.listener in self._listeners, op, errno.ENOENT)
        return remove(self._listeners, op.listener)

    def _put_source(self, op: PutSource) -> Undo:
        networks = self._sources[op.rule]
        _check(op.network not in networks, op, errno.EEXIST)
        _check(sum(map(len, self._sources.values())) < self.limits.sources, op, errno.ENOSPC)
        networks.add(op.network)
        return lambda: networks.discard(op.network)

    def _drop_source(self, op: DropSource) -> Undo:
        networks, rule = self._sources[op.rule], self._rules.get(op.rule)
        _check(op.network in networks, op, errno.ENOENT)
        _check(rule is None or not rule.restricted or len(networks) > 1, op, errno.EBUSY)
        networks.discard(op.network)
        return lambda: networks.add(op.network)


def _check(right: bool, op: Op, number: int) -> None:
    if not right:
        raise KernelError(type(op).__name__, number, detail=str(op))


def _both_directions(
    listener: Listener, client: IPAddress, port: int, slot: EndpointId, entry: EndpointEntry, mode: Mode
) -> list[Flow]:
    request = Flow(
        protocol=L4Protocol(listener.protocol).number(listener.version),
        source=client,
        destination=listener.ip,
        source_port=port,
        destination_port=listener.port,
        new_source=entry.source or client,
        new_destination=entry.address,
        new_source_port=port,
        new_destination_port=entry.port,
        reply=False,
        mode=mode,
        state=FlowState.ESTABLISHED,
        rule=entry.rule,
        endpoint=slot,
        idle=0.0,
        age=0.0,
        counter=Counter(packets=1, bytes=40),
    )
    return [request, _reply_of(request)]


def _reply_of(request: Flow) -> Flow:
    return replace(
        request,
        source=request.new_destination,
        destination=request.new_source,
        source_port=request.new_destination_port,
        destination_port=request.new_source_port,
        new_source=request.destination,
        new_destination=request.source,
        new_source_port=request.destination_port,
        new_destination_port=request.source_port,
        reply=True,
        counter=Counter(),
    )
