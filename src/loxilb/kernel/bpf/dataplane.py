# SPDX-License-Identifier: Apache-2.0
"""The data plane in the kernel, behind ``loxilb.ports.DataPlane``."""

import ctypes
import struct
import sys
import threading
from array import array
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Self, cast

import structlog

from loxilb.errors import KernelError
from loxilb.kernel import abi
from loxilb.kernel.bpf import attach, convert, layouts, libbpf, loading, maps, pins, sockets, tracing
from loxilb.kernel.bpf.clock import JiffyClock
from loxilb.kernel.bpf.control import control_of
from loxilb.kernel.bpf.drops import DropSampler
from loxilb.kernel.bpf.events import RingReader
from loxilb.kernel.bpf.grace import short_grace_periods
from loxilb.kernel.bpf.hooks import Hooks
from loxilb.kernel.bpf.hosts import HostIndex
from loxilb.kernel.bpf.listeners import ListenerMaps
from loxilb.kernel.bpf.maps import ArrayView
from loxilb.kernel.bpf.outlive import ends_with_us
from loxilb.kernel.bpf.settings import DataPlaneSettings
from loxilb.kernel.bpf.tables import ARRAYS, COUNTED, FlowTables
from loxilb.kernel.bpf.traffic import TrafficReader
from loxilb.kernel.bpf.writing import ConfigurationWriter
from loxilb.model import AbortedConnection, Counter, Flow, FlowEvent, IPAddress, IPNetwork, Mode, Port
from loxilb.model.flow_list import FlowQuery
from loxilb.model.image import (
    Add,
    DropEndpoint,
    DropSource,
    EndpointFlags,
    EndpointId,
    Image,
    Op,
    PutEndpoint,
    PutRule,
    RuleId,
)
from loxilb.model.packet import MadePacket
from loxilb.model.port import IfIndex
from loxilb.model.trace import Traced
from loxilb.ports import Fill, FlowCount, FlowPage, Tampering

_log = structlog.get_logger(__name__)
_LIVE = int(EndpointFlags.LIVE)


class BpfDataPlane:
    """Maps, programs and links of one network namespace.

    Writes are serialised by a lock; every method may be called from any thread of the namespace.
    """

    def __init__(self, loaded: loading.Loaded, directory: pins.PinDirectory, settings: DataPlaneSettings) -> None:
        """Take over what is loaded; use :meth:`open`."""
        self._loaded = loaded
        self._directory = directory
        self._settings = settings
        self._lock = threading.RLock()
        self._maps = loaded.maps
        self.drops = DropSampler(loaded.maps)
        self._tables = FlowTables(loaded.maps, loaded.sizes)
        self._views = {name: self._view(name, layout) for name, layout in ARRAYS.items()}
        self._control = control_of(loaded, self._views["live_traffic"])
        self._clock = JiffyClock.measure(self._control.clock)
        self._traffic = TrafficReader(
            self._control.fold, ended=self._views["traffic"], live=self._views["live_traffic"]
        )
        self._runtime = ArrayView(
            loaded.maps["runtime"], entries=1, value_size=ctypes.sizeof(abi.Runtime), writable=True
        )
        self._served = ArrayView(loaded.maps["served"], entries=abi.SERVED_BITS // 64, value_size=8, writable=True)
        self.ends_with_us = ends_with_us(directory.root)
        """Whether forwarding ends with the processes of this mount namespace."""
        self._listeners = ListenerMaps(loaded.maps)
        self._hosts = HostIndex(loaded.maps["hosts"], self._served)
        self._writer = ConfigurationWriter(
            descriptors=loaded.maps, views=self._views, listeners=self._listeners, hosts=self._hosts, clock=self._clock
        )
        self._writer.index()
        self._hooks = Hooks(directory, lambda: loaded.pinned, settings, self._program, lambda: loaded.programs("sock"))
        self._write_timeouts()
        self._hooks.serve_sockets()
        self._control.start_ageing()

    @classmethod
    def open(cls, settings: DataPlaneSettings) -> Self:
        """Load or adopt the data plane of the calling thread's namespace; raises KernelError."""
        directory = pins.PinDirectory(pins.find_bpffs(settings.bpffs))
        return cls(loading.load(directory, settings), directory, settings)

    def _view(self, name: str, layout: type[ctypes.Structure]) -> ArrayView:
        size, entries = ctypes.sizeof(layout), self._loaded.sizes[name]
        return ArrayView(self._maps[name], entries=entries, value_size=size, writable=True)

    def _write_timeouts(self) -> None:
        ticks = [0] * abi.STATES
        for state, seconds in self._settings.timeouts.items():
            ticks[state] = self._clock.ticks(seconds)
        self._runtime.write(abi.Runtime.timeout.offset, struct.pack(f"={abi.STATES}I", *ticks))
        interval = self._settings.icmp_interval
        cost = self._clock.ticks(interval) if interval else 0
        self._runtime.write(abi.Runtime.icmp_interval.offset, struct.pack("=I", cost))
        if self._word(abi.Runtime.generation.offset) == 0:
            self.resolve_again()

    def _word(self, offset: int) -> int:
        value: int = struct.unpack_from("=I", self._runtime.element(0), offset)[0]
        return value

    # Programs of other tools.

    @property
    def programs(self) -> Mapping[str, int]:
        """Descriptors of the entry programs, to run them on made packets."""
        return {name: self._program(name) for name in ("xdp", "tc")}

    def _program(self, hook: str) -> int:
        return self._loaded.programs(hook)[f"lox_{hook}"]

    @property
    def descriptors(self) -> Mapping[str, int]:
        """Descriptors of the maps."""
        return self._maps

    @property
    def sizes(self) -> Mapping[str, int]:
        """Capacity of what is configured, as loaded (adopted maps keep their size); ``ring`` counts slots."""
        return {**self._loaded.sizes, "ring": self._loaded.config.ring}

    # Interfaces.

    def attach(self, port: Port) -> tuple[str, ...]:
        """Take an interface; returns the hooks taken, in packet order; raises KernelError.

        A device that refuses XDP is served by TC alone; with policy on that is logged.
        """
        with self._lock:
            self._describe_link(port)
            return self._hooks.take(port)

    def _describe_link(self, port: Port) -> None:
        at = port.index & self._loaded.config.link_mask
        maps.update(
            self._maps["links"], maps.index_key(at), convert.link_to_value(port), f"describe interface {port.name}"
        )

    def hurried(self) -> AbstractContextManager[None]:
        """Attach to very many interfaces in less time meanwhile, where this process may have the kernel do that."""
        return short_grace_periods()

    def detach(self, index: IfIndex) -> None:
        """Give an interface up; it may be gone; raises KernelError."""
        with self._lock:
            self._hooks.leave(index)

    def check_hooks(self) -> Tampering:
        """Pin again what lost its pin, serve local sockets again, and tell what else others have done.

        Raises KernelError.
        """
        with self._lock:
            return self._hooks.check()

    def know_addresses(self, addresses: frozenset[IPAddress]) -> None:
        """Learn this host's addresses, which tell which endpoints are on it; raises KernelError."""
        with self._lock:
            self._hosts.know_own(addresses)
            self._hooks.egress.want(self._hosts.has_local_endpoint)

    def resolve_again(self) -> None:
        """Routes or neighbours changed: every flow asks the FIB again with its next packet."""
        with self._lock:
            offset = abi.Runtime.generation.offset
            # The programs compare 16 bits; 0 is what a new slot holds.
            following = (self._word(offset) + 1) & 0xFFFF or 1
            self._runtime.write(offset, struct.pack("=I", following))

    # Configuration.

    def observe(self) -> Image:
        """Read back everything programmed; a write under way may or may not be in it.

        What makes no sense is left out: somebody else wrote it. Arrays are unpacked whole.
        """
        rules = layouts.rules_from_values(self._views["rules"].whole(), self._clock, self._loaded.config.ring)
        ring = array("I", self._views["ring"].whole())
        return Image(
            listeners=self._listeners.read(),
            rules=rules,
            endpoints=layouts.endpoints_from_values(self._views["endpoints"].whole()),
            rings={
                rule: cast("tuple[EndpointId, ...]", tuple(ring[base : base + length]))
                for rule, base, length in rules.slices
            },
            sources=self._sources(),
        )

    def _endpoints_used(self) -> list[int]:
        """Return the endpoint slots that are used, live or not."""
        return self._views["endpoints"].places(abi.Endpoint.family.offset, bytes((4, 6)))

    def _sources(self) -> dict[RuleId, frozenset[IPNetwork]]:
        found: defaultdict[RuleId, set[IPNetwork]] = defaultdict(set)
        for key, value in maps.dump(self._maps["sources"], ctypes.sizeof(abi.SourceKey), 4):
            rule, network = convert.source_from_key(key, int.from_bytes(value, sys.byteorder))
            found[rule].add(network)
        return {rule: frozenset(networks) for rule, networks in found.items()}

    def prepared(self, ops: Sequence[Op]) -> tuple[Op, ...]:
        """Return the same operations in a form that :meth:`apply` carries out sooner; this takes a while itself."""
        return tuple([self._writer.packed(op) if isinstance(op, Add) else op for op in ops])

    def apply(self, ops: Sequence[Op]) -> None:
        """Carry out ``ops`` in order, all or none; raises KernelError."""
        with self._lock:
            self._writer.apply(ops, lambda: self._hooks.egress.want(self._hosts.has_local_endpoint))
            if any(map(_ends_flows, ops)):
                self._purge()

    def repair(self, ops: Sequence[Op]) -> None:
        """As :meth:`apply`, after somebody else wrote: what is derived from the elements is made anew first."""
        with self._lock:
            self._writer.index()
            self.apply(ops)

    def _purge(self) -> None:
        """End flows and sockets that have no endpoint or no right any more: the ager looks at every flow."""
        offset = abi.Runtime.purge.offset
        self._runtime.write(offset, struct.pack("=I", (self._word(offset) + 1) & 0xFFFFFFFF))
        self._end_sockets()

    def _end_sockets(self) -> None:
        """End what this host's processes have with endpoints that are dropped or down."""
        if not self._settings.local_sockets:
            return
        try:
            sockets.end(self._maps["connected"], self._is_gone)
        except KernelError as error:  # the change itself is done
            _log.warning("sockets of dropped endpoints not ended", cause=error.cause)

    def _is_gone(self, endpoint: EndpointId, rule: RuleId) -> bool:
        entry = layouts.endpoint_from_value(bytes(self._views["endpoints"].element(endpoint)))
        return entry is None or EndpointFlags.LIVE not in entry.flags or entry.rule != rule

    # Reports.

    def counters(self) -> Mapping[EndpointId, Counter]:
        """Return the traffic of every endpoint, live flows included."""
        with self._lock:
            return self._traffic.read(self._endpoints_used())

    def flow_counts(self) -> Mapping[EndpointId, FlowCount]:
        """Return the flows of every endpoint."""
        states = self._views["endpoint_states"].rows("=iIII")
        # Flows of the endpoint that had a slot before may still end, below zero.
        return {EndpointId(at): FlowCount(max(0, states[at][0]), states[at][2]) for at in self._endpoints_used()}

    def fills(self) -> Mapping[str, Fill]:
        """Return how full each table is; those of flows as the ager last counted them."""
        sizes, runtime = self._loaded.sizes, abi.Runtime
        arrays = {
            "rules": self._views["rules"].column(abi.Rule.live.offset).count(1),
            "endpoints": len(self._endpoints_used()),
        }
        counted = {name: maps.count(self._maps[name], size) for name, size in COUNTED.items()}
        slots = {"flow4": runtime.live4, "flow6": runtime.live6, "half4": runtime.half4, "half6": runtime.half6}
        live = {name: self._word(member.offset) for name, member in slots.items()}
        return {name: Fill(used, sizes[name]) for name, used in (arrays | counted | live).items()}

    def lost_reports(self) -> int:
        """Return the reports of flows that found the ring buffer full, modulo 2^32."""
        return self._word(abi.Runtime.events_lost.offset)

    def active_flows(self, endpoints: Iterable[EndpointId]) -> Mapping[EndpointId, int]:
        """Return how many flows each of ``endpoints`` has; what has closed and is only remembered does not count."""
        view, offset = self._views["endpoint_states"], abi.EndpointState.active.offset
        return {at: max(0, struct.unpack_from("=i", view.element(at), offset)[0]) for at in endpoints}

    def flow_page(self, query: FlowQuery) -> FlowPage:
        """Return both directions of the flows asked for, in the order of their keys."""
        return self._tables.page(query, self._views["rules"])

    def flows(self) -> Iterator[Flow]:
        """Return both directions of every live flow as values, in no order: for a few."""
        now = self._clock.now()
        rules = self._views["rules"]
        for hot, cold in self._tables.live():
            mode = Mode(rules.element(cold.rule)[abi.Rule.mode.offset])
            yield convert.flow_from_slot(hot, cold, mode, self._clock, now)

    def reasons(self) -> Mapping[str, int]:
        """Return packets by the reason they left the programs with, in words."""
        size = 8 * libbpf.possible_cpus()
        found = {}
        for reason in abi.Reason:
            value = maps.lookup(self._maps["reasons"], maps.index_key(reason), size) or bytes(size)
            found[reason.name.lower()] = sum(struct.unpack(f"={size // 8}Q", value))
        return found

    def report_flows(self, wanted: bool) -> None:
        """Have the programs report flows to :meth:`flow_events`; each costs them a record in the ring buffer."""
        # A word of its own, written at once: no lock, so that no caller waits for a write under way.
        self._runtime.write(abi.Runtime.events.offset, struct.pack("=I", wanted))

    async def flow_events(self) -> AsyncIterator[FlowEvent]:
        """Report flows as they open and end, without end; one consumer at a time; raises KernelError."""
        reader = RingReader(self._maps["events"], convert.flow_event_from_record)
        try:
            async for events in reader.follow():
                for event in events:
                    yield event
        finally:
            reader.close()

    async def aborted_connections(self) -> AsyncIterator[Sequence[AbortedConnection]]:
        """Report connections that were given up, some at once, without end; one consumer; raises KernelError."""
        reader = RingReader(self._maps["aborts"], convert.abort_from_record)
        try:
            async for aborted in reader.follow():
                yield aborted
        finally:
            reader.close()

    def aborts_lost(self) -> int:
        """Return how many connections were given up without a report, since there was no room for it."""
        return self._word(abi.Runtime.aborts_lost.offset)

    def trace(self, made: MadePacket, port: Port) -> Traced:
        """Say what becomes of a packet that comes in by ``port``; nothing changes. Raises KernelError."""
        return tracing.trace(self._loaded, self._clock, made, port)

    # The end.

    def retire(self) -> None:
        """Let go of what only replaced programs needed, once no packet is in them any more; raises KernelError."""
        with self._lock:
            self._loaded.retire()

    def close(self) -> None:
        """Let go of everything and leave it in place: packets are forwarded as before."""
        self._control.close()
        self._hooks.close()
        self.drops.close()
        for view in (*self._views.values(), self._served, self._runtime):
            view.close()
        self._loaded.close()

    def destroy(self) -> None:
        """Remove programs, links and maps from the kernel."""
        for index in {index for _, index, _ in self._directory.links() if index}:
            attach.detach_clsact(index)
        self.close()
        self._directory.remove()


def _ends_flows(op: Op) -> bool:
    """Tell whether flows may have to end; what is new has none."""
    if isinstance(op, PutEndpoint):  # a match takes longer, and there may be very many
        return not int(op.entry.flags) & _LIVE
    if isinstance(op, PutRule):
        return op.entry.restricted
    return isinstance(op, DropEndpoint | DropSource)
