# SPDX-License-Identifier: Apache-2.0
"""Services, the packets of their flows, and what the programs make of them."""

import ctypes
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address
from itertools import count
from typing import Any

from loxilb.kernel import abi
from loxilb.kernel.abi import Reason
from loxilb.kernel.bpf import BpfDataPlane, DataPlaneSettings
from loxilb.kernel.bpf.maps import ArrayView, index_key, lookup
from loxilb.kernel.bpf.run import RunResult, run
from loxilb.model import Counter, Endpoint, Flow, IPAddress, L4Protocol, Mode, Selection, Service, ServiceKey
from loxilb.model.image import EndpointId, RuleId
from loxilb.plan import Ledger, Limits, plan
from tests.support.bpf import CLIENT, CLIENTS4, CLIENTS6, DEVICES, SERVERS, VERDICTS, Device, Hook, Verdict, World
from tests.support.packets import ACK, ICMP, ICMPV6, SYN, Echo, Packet, Tcp, Transport, Udp, difference, parse

PORT, TARGET = 80, 8080
_FIRST_PORT = 10_000
# Initial sequence numbers (RFC 9293 section 3.4.1).
CLIENT_ISN, SERVER_ISN = 1_000, 0xFFFF_F000
SMALL = DataPlaneSettings(
    flows4=16_384,
    flows6=16_384,
    half_open4=16_384,
    half_open6=16_384,
    rules=4_096,
    endpoints=16_384,
    ring=1 << 20,
    listeners=4_096,
)
_TABLES = {"flow4": abi.Flow4, "flow6": abi.Flow6, "half4": abi.Whole4, "half6": abi.Flow6}
_SOURCES: Mapping[IPAddress, IPAddress] = {
    device.gateway(version): device.address(version) for device in SERVERS for version in (4, 6)
}


def verdict_of(reason: Reason) -> Verdict:
    """Return what a reason says became of the packet; a flow to this host goes on to its stack."""
    if reason <= 15 or reason is Reason.FORWARD_LOCAL:
        return Verdict.PASSED
    return Verdict.SENT if reason <= 31 else Verdict.DROPPED


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """Both directions of one flow: from a client to a service, from the source to the endpoint, and back.

    Without ports (ICMP echo) ``client_port`` and ``source_port`` are identifiers. A TCP segment that is not given
    numbers has those that come right after the handshake.
    """

    protocol: L4Protocol
    client: IPAddress
    client_port: int
    vip: IPAddress
    vip_port: int
    source: IPAddress
    source_port: int
    endpoint: IPAddress
    endpoint_port: int
    server: Device

    def request(self, **more: Any) -> Packet:
        """Return a packet of the client as it arrives."""
        transport = self._transport(self.client_port, self.vip_port, reply=False, **more)
        return _arriving(CLIENT, self.client, self.vip, transport)

    def requested(self, **more: Any) -> Packet:
        """Return the same packet as the endpoint gets it."""
        transport = self._transport(self.source_port, self.endpoint_port, reply=False, **more)
        return _leaving(self.server, self.source, self.endpoint, transport)

    def reply(self, **more: Any) -> Packet:
        """Return a packet of the endpoint as it arrives."""
        transport = self._transport(self.endpoint_port, self.source_port, reply=True, **more)
        return _arriving(self.server, self.endpoint, self.source, transport)

    def replied(self, **more: Any) -> Packet:
        """Return the same packet as the client gets it."""
        transport = self._transport(self.vip_port, self.client_port, reply=True, **more)
        return _leaving(CLIENT, self.vip, self.client, transport)

    def _transport(self, sport: int, dport: int, *, reply: bool, **more: Any) -> Transport:
        if self.protocol is L4Protocol.ICMP:
            return Echo(identifier=dport if reply else sport, reply=reply, version=self.vip.version, **more)
        if self.protocol is L4Protocol.UDP:
            return Udp(sport=sport, dport=dport, **more)
        return Tcp(sport=sport, dport=dport, **(_numbers(more.get("flags", ACK), reply=reply) | more))


def _numbers(flags: int, *, reply: bool) -> dict[str, int]:
    """Return the sequence numbers of a segment during the handshake or right after it."""
    own, other = (SERVER_ISN, CLIENT_ISN) if reply else (CLIENT_ISN, SERVER_ISN)
    return {"sequence": own if flags & SYN else own + 1, "acknowledgement": other + 1 if flags & ACK else 0}


def _arriving(device: Device, source: IPAddress, destination: IPAddress, transport: Transport) -> Packet:
    return Packet(dmac=device.mac, smac=device.neighbour, source=source, destination=destination, transport=transport)


def _leaving(device: Device, source: IPAddress, destination: IPAddress, transport: Transport) -> Packet:
    arriving = _arriving(device, source, destination, transport)
    return replace(arriving, dmac=arriving.smac, smac=arriving.dmac, ttl=arriving.ttl - 1)


class Driver:
    """A data plane with services in it, and packets to run through it."""

    def __init__(self, world: World, settings: DataPlaneSettings) -> None:
        """Load a data plane with pins of its own; the calling thread is inside ``world``."""
        self.world = world
        self.data_plane = BpfDataPlane.open(replace(settings, bpffs=world.pins()))
        self._ledger = Ledger(Limits(rules=settings.rules - 1, endpoints=settings.endpoints - 1, ring=settings.ring))
        self._numbers = count(1)
        self.now = 0.0
        self.mark = 0  # of the packets that run from now on

    def close(self) -> None:
        """Remove the data plane."""
        self.data_plane.destroy()

    # Services, programmed the way the daemon does it.

    def service(
        self,
        version: int,
        protocol: L4Protocol = L4Protocol.TCP,
        *,
        endpoints: Sequence[Endpoint] = (),
        **more: Any,
    ) -> Service:
        """Create a service at an address of its own; without ``endpoints`` it has one at every server."""
        number = next(self._numbers)
        vip = IPv4Address("20.20.0.0") + number if version == 4 else IPv6Address("2001::") + number
        port, target = (0, 0) if protocol is L4Protocol.ICMP else (PORT, TARGET)
        made = Service(
            key=ServiceKey(address=vip, protocol=protocol, port=port),
            endpoints=tuple(endpoints)
            or tuple(Endpoint(address=server.gateway(version), port=target) for server in SERVERS),
            **more,
        )
        self.put(made)
        return made

    def put(self, *services: Service) -> None:
        """Create or replace services."""
        self._carry_out({service.key: service for service in services})

    def drop(self, *services: Service) -> None:
        """Delete services."""
        self._carry_out(dict.fromkeys(service.key for service in services))

    def _carry_out(self, changes: Mapping[ServiceKey, Service | None]) -> None:
        planned = plan(changes, self._ledger, _SOURCES, now=self.now)
        self.data_plane.apply(planned.ops)
        planned.commit(self._ledger)

    def endpoint_ids(self, service: Service) -> tuple[EndpointId, ...]:
        """Return the slots of a service's endpoints in rule order."""
        return self._ledger.services[service.key].ids

    def rule_id(self, service: Service) -> RuleId:
        """Return the slot of a service's rule."""
        return self._ledger.services[service.key].rule

    def counters(self, service: Service) -> list[Counter]:
        """Return the traffic of each endpoint of a service, in rule order."""
        found = self.data_plane.counters()
        return [found[slot] for slot in self.endpoint_ids(service)]

    def flows(self, service: Service) -> list[Flow]:
        """Return the flows of a service, those from the clients first."""
        rule = self._ledger.services[service.key].rule
        return sorted((flow for flow in self.data_plane.flows() if flow.rule == rule), key=lambda flow: flow.reply)

    def flows_of(self, path: Path) -> list[Flow]:
        """Return the directions of one flow, whatever became of its service."""
        client = (path.client, path.client_port)
        ends = ((flow, (flow.source, flow.source_port)) for flow in self.data_plane.flows() if not flow.reply)
        back = (
            (flow, (flow.new_destination, flow.new_destination_port)) for flow in self.data_plane.flows() if flow.reply
        )
        return [flow for flow, end in (*ends, *back) if end == client]

    def live_flows(self, endpoint: EndpointId) -> int:
        """Return the live flows in an endpoint's slot, by the programs' own count: below zero where that is wrong."""
        states = self.data_plane.descriptors["endpoint_states"]
        raw = lookup(states, index_key(endpoint), ctypes.sizeof(abi.EndpointState)) or b""
        return int(struct.unpack_from("=i", raw, abi.EndpointState.active.offset)[0])

    def ended_traffic(self, endpoint: EndpointId) -> Counter:
        """Return the traffic of the ended flows in an endpoint's slot."""
        raw = lookup(self.data_plane.descriptors["traffic"], index_key(endpoint), 16) or b""
        packets, size = struct.unpack("=QQ", raw)
        return Counter(packets=packets, bytes=size)

    def used_slots(self) -> int:
        """Return how many slots of the four tables hold anything, be it a dead flow."""
        used = 0
        for name, layout in _TABLES.items():
            entries = self.data_plane.sizes[name]
            view = ArrayView(self.data_plane.descriptors[name], entries=entries, value_size=ctypes.sizeof(layout))
            used += entries - len(list(view.indexes(0, abi.SLOT_FREE)))
            view.close()
        return used

    # Flows.

    def client(self, version: int) -> IPAddress:
        """Return the address of a client that nobody was before."""
        network = CLIENTS4 if version == 4 else CLIENTS6
        return network[next(self._numbers)]

    def path(self, service: Service, *, endpoint: int = 0, client: IPAddress | None = None, port: int = 0) -> Path:
        """Return the path from a client (a new one unless given) to one of a service's endpoints, in given order.

        Without ``port`` it is one that was not used before.
        """
        target, version = service.endpoints[endpoint], service.key.address.version
        server = next((one for one in SERVERS if target.address in one.network(version)), SERVERS[0])
        client, port = client or self.client(version), port or _FIRST_PORT + next(self._numbers)
        sources = {Mode.DEFAULT: client, Mode.ONEARM: server.address(version), Mode.FULLNAT: service.key.address}
        sources[Mode.DSR] = client
        return Path(
            protocol=service.key.protocol,
            client=client,
            client_port=port,
            vip=service.key.address,
            vip_port=service.key.port,
            source=sources[service.mode],
            source_port=port,
            endpoint=target.address,
            endpoint_port=target.port,
            server=server,
        )

    def open(self, hook: Hook, path: Path) -> Path:
        """Bring a flow through until it is established; returns its path with the source port it was given."""
        first = path.request(flags=SYN) if path.protocol is L4Protocol.TCP else path.request()
        opened = replace(path, source_port=source_port(self.send(hook, first)))
        if path.protocol is L4Protocol.TCP:
            self.send(hook, opened.reply(flags=SYN | ACK), opened.request(flags=ACK))
        else:
            self.send(hook, opened.reply())
        return opened

    def use(self, hook: Hook, path: Path) -> None:
        """Check that an established flow is translated exactly, either way."""
        self.expect(hook, path.request(payload=b"there"), Reason.FORWARD_ESTABLISHED, path.requested(payload=b"there"))
        self.expect(hook, path.reply(payload=b"back"), Reason.FORWARD_ESTABLISHED, path.replied(payload=b"back"))

    # Packets.

    def run(self, hook: Hook, packet: Packet | bytes, device: Device | None = None) -> RunResult:
        """Run one packet through a program; it arrives at the device that it is addressed to, or the given one."""
        frame = bytes(packet)
        device = device or next((one for one in DEVICES if one.mac == frame[:6]), CLIENT)
        context = self.world.context(hook, device, len(frame), self.mark)
        return run(self.data_plane.programs[hook.value], frame, context=context)

    def expect(
        self,
        hook: Hook,
        packet: Packet | bytes,
        reason: Reason,
        becomes: Packet | bytes | None = None,
        *,
        device: Device | None = None,
        wrong: tuple[str, ...] = (),
    ) -> None:
        """Check all that one packet causes: verdict, bytes (None: unmodified), checksums, and just one counter.

        ``wrong`` names the checksums that were wrong before, and stay so.
        """
        before = self.data_plane.reasons()
        result = self.run(hook, packet, device)
        after = self.data_plane.reasons()
        changed = {name: after[name] - before[name] for name in after if after[name] != before[name]}
        assert changed == {reason.name.lower(): 1}
        assert VERDICTS[hook][result.code] is verdict_of(reason)
        if verdict_of(reason) is not Verdict.DROPPED:
            expected = bytes(packet if becomes is None else becomes)
            assert not difference(expected, result.packet), difference(expected, result.packet)
        if reason > 15 and verdict_of(reason) is not Verdict.DROPPED:
            assert parse(result.packet).wrong == wrong

    def expect_answer(
        self,
        hook: Hook,
        packet: Packet | bytes,
        reason: Reason,
        answer: Packet | bytes,
        *,
        device: Device | None = None,
    ) -> None:
        """Check a packet that TC answers, drops or translates on its own: XDP passes it on as it came."""
        if hook is Hook.XDP:
            self.expect(Hook.XDP, packet, Reason.PASS_TO_TC, device=device)
        self.expect(Hook.TC, packet, reason, answer, device=device)

    def send(self, hook: Hook, *packets: Packet) -> bytes:
        """Run packets that must be sent on; returns what the last one became."""
        result = None
        for packet in packets:
            result = self.run(hook, packet)
            assert VERDICTS[hook][result.code] is Verdict.SENT, str(packet)
        assert result is not None
        return result.packet

    def servers(self, hook: Hook, packets: Iterable[Packet]) -> list[int]:
        """Run packets that must be sent on; returns which server (0, 1, 2) each went to."""
        macs = [server.neighbour for server in SERVERS]
        return [macs.index(self.send(hook, packet)[:6]) for packet in packets]


def without_endpoints(driver: Driver, version: int, protocol: L4Protocol = L4Protocol.TCP) -> Service:
    """Return a service whose endpoints all have weight zero."""
    target = 0 if protocol is L4Protocol.ICMP else TARGET
    idle = Endpoint(address=SERVERS[0].gateway(version), port=target, weight=0)
    return driver.service(version, protocol, endpoints=[idle], selection=Selection.PRIORITY)


def source_port(frame: bytes) -> int:
    """Return the source port of a packet without IP options, or the identifier of an echo request."""
    l4 = 34 if frame[12:14] == b"\x08\x00" else 54
    at = l4 + 4 if frame[l4 - 11 if l4 == 34 else 20] in (ICMP, ICMPV6) else l4
    return int.from_bytes(frame[at : at + 2], "big")
