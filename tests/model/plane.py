# SPDX-License-Identifier: Apache-2.0
"""The loaded programs as the model sees them: a packet in, what it became, and all that the tables hold."""

import ctypes
import struct
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Any, NamedTuple

from loxilb.kernel import abi
from loxilb.kernel.abi import Reason
from loxilb.kernel.bpf import libbpf, maps
from loxilb.kernel.bpf.maps import ArrayView
from loxilb.kernel.bpf.run import run
from loxilb.model import FlowState, IPAddress, L4Protocol, Service
from tests.model.tracker import Choice, Key, Tracker, Way
from tests.packet.driver import Driver, verdict_of
from tests.support.bpf import CLIENT, DEVICES, SERVERS, VERDICTS, Hook, Verdict
from tests.support.packets import Packet

_PROTOCOLS = {1: L4Protocol.ICMP, 58: L4Protocol.ICMP, 6: L4Protocol.TCP, 17: L4Protocol.UDP}
_TABLES = {4: (("flow4", abi.Flow4), ("half4", abi.Whole4)), 6: (("flow6", abi.Flow6), ("half6", abi.Flow6))}
_MTU = 1500


class Seen(NamedTuple):
    """One direction of a flow as a table or the model has it. ``said``: number expected next and window, or nothing."""

    becomes: Key
    reply: bool
    state: FlowState
    half_open: bool
    finished: bool
    said: tuple[int, int]
    packets: int
    octets: int
    endpoint: int


class Run(NamedTuple):
    """What one program did."""

    reason: Reason
    verdict: Verdict
    frame: bytes


def route(address: IPAddress) -> Way:
    """Return the way to an address in the namespace of the packet tests."""
    device = next((one for one in SERVERS if address in one.network(address.version)), CLIENT)
    return Way(dmac=device.neighbour, smac=device.mac, mtu=_MTU)


def expected(tracker: Tracker) -> dict[Key, Seen]:
    """Return what the tables should hold."""
    found = {}
    for key, flow in tracker.flows.items():
        direction, reply, end = flow.direction(key)
        found[key] = Seen(
            becomes=direction.becomes,
            reply=reply,
            state=flow.life.state,
            half_open=flow.half_open,
            finished=end.finished,
            said=(0, 0) if end.expects is None else (end.expects, end.room),
            packets=direction.packets,
            octets=direction.octets,
            endpoint=flow.endpoint,
        )
    return found


class Plane:
    """The data plane of a driver, with small tables that are quickly read and emptied."""

    def __init__(self, driver: Driver) -> None:
        """Map its tables."""
        self._plane, self._world = driver.data_plane, driver.world
        self._ids = driver.endpoint_ids
        self._views = {
            name: ArrayView(
                self._plane.descriptors[name],
                entries=self._plane.sizes[name],
                value_size=ctypes.sizeof(layout),
                writable=True,
            )
            for tables in _TABLES.values()
            for name, layout in (*tables, ("flow4_cold", abi.Cold), ("endpoint_states", abi.EndpointState))
        }
        self._words = {name: self._plane.sizes[name] // 64 for name in ("flow4", "flow6")}
        self._values = ctypes.create_string_buffer(8 * libbpf.possible_cpus() * abi.REASONS)
        self._counts = self._counters()

    def close(self) -> None:
        """Unmap."""
        for view in self._views.values():
            view.close()

    def run(self, hook: Hook, packet: Packet) -> Run:
        """Run a packet through one program; AssertionError when it leaves with more or less than one reason."""
        frame = bytes(packet)
        device = next(one for one in DEVICES if one.mac == frame[:6])
        context = self._world.context(hook, device, len(frame))
        result = run(self._plane.programs[hook.value], frame, context=context)
        before, self._counts = self._counts, self._counters()
        counted = [at for at, (was, now) in enumerate(zip(before, self._counts, strict=True)) if was != now]
        assert len(counted) == 1, f"counted as {[Reason(at).name for at in counted]}"
        made = Run(Reason(counted[0]), VERDICTS[hook][result.code], result.packet)
        assert made.verdict is verdict_of(made.reason), f"{made.reason.name}, but {made.verdict.value}"
        return made

    def _counters(self) -> tuple[int, ...]:
        """Return the packets of each reason so far: one system call."""
        options = libbpf.BatchOptions(sz=ctypes.sizeof(libbpf.BatchOptions))
        keys, position = ctypes.create_string_buffer(4 * abi.REASONS), ctypes.create_string_buffer(8)
        count = ctypes.c_uint32(abi.REASONS)
        libbpf.map_lookup_batch(
            self._plane.descriptors["reasons"],
            None,
            position,
            keys,
            self._values,
            ctypes.byref(count),
            ctypes.byref(options),
        )
        assert count.value == abi.REASONS
        values = struct.unpack(f"={len(self._values) // 8}Q", self._values)
        cpus = len(values) // abi.REASONS
        return tuple(map(sum, zip(*(values[cpu::cpus] for cpu in range(cpus)), strict=True)))

    def flows(self, version: int, service: Mapping[int, tuple[Service, int]]) -> dict[Key, Seen]:
        """Return what the tables of one family hold."""
        found = {}
        for half_open, (name, _) in enumerate(_TABLES[version]):
            for at in self._views[name].indexes(0, abi.SLOT_LIVE):
                raw, cold = self._slot(version, name, at)
                key, seen = _read(raw, cold, half_open=bool(half_open), place=service[cold.endpoint][1])
                assert key not in found, f"{key} is in both tables"
                found[key] = seen
        return found

    def _slot(self, version: int, name: str, at: int) -> tuple[abi.Flow4 | abi.Flow6, abi.Cold]:
        element = self._views[name].element(at)
        if version == 6:
            six = abi.Flow6.from_buffer_copy(element)
            return six, six.cold
        if name == "half4":
            whole = abi.Whole4.from_buffer_copy(element)
            return whole.flow, whole.cold
        return abi.Flow4.from_buffer_copy(element), abi.Cold.from_buffer_copy(self._views["flow4_cold"].element(at))

    def places(self, services: Sequence[Service]) -> dict[int, tuple[Service, int]]:
        """Return service and place in it by the number of an endpoint."""
        return {slot: (one, at) for one in services for at, slot in enumerate(self._ids(one))}

    def active(self, service: Service) -> list[int]:
        """Return the programs' own count of live flows of each endpoint."""
        view = self._views["endpoint_states"]
        return [struct.unpack_from("=i", view.element(slot))[0] for slot in self._ids(service)]

    def forget(self, version: int, services: Sequence[Service]) -> None:
        """Empty the tables of one family, and start counts and turns of the services again."""
        for name, _ in _TABLES[version]:
            view = self._views[name]
            view.write(0, bytes(view.entries * view.stride))
        for word in range(self._words[f"flow{version}"]):
            maps.update(self._plane.descriptors[f"used{version}"], maps.index_key(word), bytes(8), "empty a table")
        for service in services:
            rule = self._rule(service)
            maps.update(self._plane.descriptors["rule_states"], maps.index_key(rule), bytes(8), "start again")
            counts = self._views["endpoint_states"]
            for slot in self._ids(service):
                counts.write(slot * counts.stride, bytes(counts.stride))
        for key, _ in list(maps.dump(self._plane.descriptors["affinities"], 24, 8)):
            maps.delete(self._plane.descriptors["affinities"], key, "forget a client")

    def wait(self, seconds: float) -> None:
        """Let clients have been remembered for so much longer."""
        descriptor = self._plane.descriptors["affinities"]
        for key, value in list(maps.dump(descriptor, 24, 8)):
            endpoint, last = struct.unpack("=II", value)
            earlier = (last - self._plane._clock.ticks(seconds)) % (1 << 32)
            maps.update(descriptor, key, struct.pack("=II", endpoint, earlier), "age a client")

    def _rule(self, service: Service) -> int:
        first = self._ids(service)[0]
        endpoint = maps.lookup(self._plane.descriptors["endpoints"], maps.index_key(first), ctypes.sizeof(abi.Endpoint))
        return int(abi.Endpoint.from_buffer_copy(endpoint or b"").rule)


def _read(raw: Any, cold: abi.Cold, *, half_open: bool, place: int) -> tuple[Key, Seen]:
    head, protocol = raw.head, _PROTOCOLS[raw.head.proto]
    address = IPv4Address if isinstance(raw, abi.Flow4) else IPv6Address

    def side(name: str) -> tuple[IPAddress, int]:
        return address(bytes(getattr(raw, f"{name[:-4]}addr"))), int.from_bytes(getattr(head, name), "big")

    def between(sport: str, dport: str) -> Key:
        (source, source_port), (destination, destination_port) = side(sport), side(dport)
        return Key(protocol, source, source_port, destination, destination_port)

    return between("sport", "dport"), Seen(
        becomes=between("new_sport", "new_dport"),
        reply=bool(head.flags & abi.FLOW_REPLY),
        state=FlowState(head.state),
        half_open=half_open,
        finished=bool(head.flags & abi.FLOW_FIN),
        said=(head.sequence & 0xFFFFFFFF, head.sequence >> 32),
        packets=head.packets,
        octets=head.bytes,
        endpoint=place,
    )


def peek(flows: Mapping[Key, Seen], key: Key) -> Choice | None:
    """Return what was chosen for a new flow."""
    seen = flows.get(key)
    return Choice(seen.endpoint, seen.becomes.sport) if seen else None


def programs(hooks: Sequence[Hook], plane: Plane, packet: Packet) -> Iterator[Run]:
    """Run a packet through one program after the other while they pass it unmodified; yields each."""
    for hook in hooks:
        made = plane.run(hook, packet)
        yield made
        if made.verdict is not Verdict.PASSED or made.reason is Reason.FORWARD_LOCAL:
            return
        assert made.frame == bytes(packet), "passed, but modified"
