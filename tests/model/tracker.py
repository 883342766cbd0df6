# SPDX-License-Identifier: Apache-2.0
"""What a packet becomes, and what is remembered of it: the load balancer as the RFCs and our documents have it. Pure.

RFC 5382 (TCP), 4787 (UDP) and 5508 (ICMP) say how to translate, RFC 1812 and 4443 what to answer. Two things a
load balancer may choose freely, a free source port and where a hash leads, are looked up in what it did (``peek``);
the model checks that the choice was allowed.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from loxilb.kernel.abi import Reason
from loxilb.model import FlowState, IPAddress, L4Protocol, Mode, Selection, Service, ServiceKey
from tests.model.tcp import Connection, End, Exchange
from tests.packet.answers import DONT_FRAGMENT, expired, reset, too_big, unreachable
from tests.support.packets import ACK, FIN, RST, SYN, Echo, IcmpError, Packet, Tcp, Udp

_FIRST_PORT = 1024
_ONE_WAY_PACKETS = 8
_LASTING = (FlowState.ESTABLISHED, FlowState.CLOSING, FlowState.TWO_WAY)
_ETHERNET = 14


class Key(NamedTuple):
    """One direction of a flow. An echo has its identifier for the requester's port, 0 for the other one."""

    protocol: L4Protocol
    source: IPAddress
    sport: int
    destination: IPAddress
    dport: int

    def turned(self) -> "Key":
        """Return what answers it."""
        return Key(self.protocol, self.destination, self.dport, self.source, self.sport)


class Way(NamedTuple):
    """Where packets to an address go: the MACs they get, and how large they may be."""

    dmac: bytes
    smac: bytes
    mtu: int


class Choice(NamedTuple):
    """What was chosen for a flow: the endpoint by its place in the service, and the source port."""

    endpoint: int
    port: int


Peek = Callable[[Key], Choice | None]


class Outcome(NamedTuple):
    """Why a packet left, and as what; None: it is gone."""

    reason: Reason
    packet: Packet | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Complaint(IcmpError):
    """An ICMP error about a packet, of which it quotes ``most`` bytes."""

    about: Packet
    most: int = 1 << 16
    quote: bytes = b""

    def segment(self) -> bytes:
        """Return the message with a zero checksum."""
        head = bytes((self.kind, self.code, 0, 0)) + self.info.to_bytes(4, "big")
        return head + bytes(self.about)[_ETHERNET : _ETHERNET + self.most]


@dataclass(slots=True, kw_only=True)
class Direction:
    """One direction of a flow: what it becomes, and what it counts from the IP header on."""

    key: Key
    becomes: Key
    packets: int = 0
    octets: int = 0


@dataclass(slots=True, kw_only=True)
class Flow:
    """Both directions. ``half_open``: it may still be displaced by newer ones. ``seen``: when a packet came last."""

    there: Direction
    back: Direction
    service: Service
    endpoint: int
    life: Connection | Exchange
    half_open: bool = True
    seen: float = 0.0

    @property
    def direct(self) -> bool:
        """Tell whether the endpoint has the service's address, so that only the MACs change."""
        return self.service.mode is Mode.DSR

    def direction(self, key: Key) -> tuple[Direction, bool, End]:
        """Return the direction that arrives as ``key``, whether it is the reply, and the end that speaks."""
        reply = key == self.back.key
        return (self.back, True, self.life.server) if reply else (self.there, False, self.life.client)


@dataclass(slots=True, kw_only=True)
class Tracker:
    """All flows, and what the services remember. ``sources``: what endpoints see as the source in mode onearm."""

    services: Sequence[Service]
    route: Callable[[IPAddress], Way]
    sources: Mapping[IPAddress, IPAddress]
    hashed: dict[Key, int]
    flows: dict[Key, Flow] = field(default_factory=dict)
    turns: dict[ServiceKey, int] = field(default_factory=dict)
    clients: dict[tuple[ServiceKey, IPAddress], tuple[int, float]] = field(default_factory=dict)

    def step(self, packet: Packet, now: float, peek: Peek) -> Outcome:
        """Take one packet."""
        if isinstance(packet.transport, Complaint):
            return self._complain(packet, packet.transport)
        key = key_of(packet)
        flow = self.flows.get(key)
        if flow is not None and _reopens(packet, flow, key):
            self._forget(flow)
            flow = None
        if flow is None:
            service = self._addressed(packet, key)
            if service is None:
                return Outcome(Reason.PASS_NOT_SERVICE, packet)
            refused = self._open(packet, key, service, now, peek)
            if refused is not None:
                return refused
            return self._forward(packet, self.flows[key], now, Reason.FORWARD_NEW)
        reason = Reason.FORWARD_HALF_OPEN if flow.half_open else Reason.FORWARD_ESTABLISHED
        return self._forward(packet, flow, now, reason)

    def active(self, service: Service) -> list[int]:
        """Return how many live flows each endpoint of a service has."""
        live = [flow.endpoint for flow in self._live() if flow.service is service]
        return [live.count(endpoint) for endpoint in range(len(service.endpoints))]

    def _live(self) -> Iterator[Flow]:
        return (flow for key, flow in self.flows.items() if key == flow.there.key and not flow.life.closed)

    def _forget(self, flow: Flow) -> None:
        del self.flows[flow.there.key], self.flows[flow.back.key]

    def _addressed(self, packet: Packet, key: Key) -> Service | None:
        """Return the service that a packet is sent to; an echo reply is sent to none."""
        if isinstance(packet.transport, Echo) and packet.transport.reply:
            return None
        wanted = (key.protocol, key.destination, key.dport)
        return next((one for one in self.services if (one.key.protocol, one.key.address, one.key.port) == wanted), None)

    # New flows.

    def _open(self, packet: Packet, key: Key, service: Service, now: float, peek: Peek) -> Outcome | None:
        """Make a flow; returns what happens instead where there can be none."""
        if isinstance(packet.transport, Tcp) and not (_asks(packet) or _picks_up(packet.transport, service)):
            return _refuse_segment(packet, Reason.DROP_NOT_SYN)
        if service.allowed_sources and not any(key.source in one for one in service.allowed_sources):
            return Outcome(Reason.DROP_SOURCE, None)
        endpoint = self._choose(key, service, now, peek)
        if endpoint is None:
            if isinstance(packet.transport, Tcp):
                return _refuse_segment(packet, Reason.DROP_NO_ENDPOINT)
            return Outcome(Reason.ANSWER_UNREACHABLE, unreachable(packet))
        back = self._translated(key, service, endpoint, peek)
        tcp, direct = key.protocol is L4Protocol.TCP, service.mode is Mode.DSR
        flow = Flow(
            there=Direction(key=key, becomes=back.turned()),
            back=Direction(key=back, becomes=key.turned()),
            service=service,
            endpoint=endpoint,
            life=Connection(direct=direct) if tcp else Exchange(direct=direct),
        )
        flow.life.opened_by(packet.transport)  # type: ignore[arg-type]
        self.flows |= {flow.there.key: flow, flow.back.key: flow}
        return None

    def _choose(self, key: Key, service: Service, now: float, peek: Peek) -> int | None:
        """Return the endpoint for a new flow by its place in the service."""
        places = [
            at for at, one in enumerate(service.endpoints) if one.weight or service.selection != Selection.PRIORITY
        ]
        if not places:
            return None
        if service.selection is Selection.HASH:
            seen = peek(key)
            assert key in self.hashed or seen is not None, "nobody knows where the hash leads"
            return self.hashed.setdefault(key, seen.endpoint if seen else -1)
        if service.selection is Selection.LC:
            counts = self.active(service)
            return counts.index(min(counts))
        remembered = self.clients.get((service.key, key.source))
        if service.selection is Selection.PERSIST and remembered and now - remembered[1] <= service.persistence:
            endpoint = remembered[0]
        else:
            turn = self.turns.get(service.key, 0)
            self.turns[service.key] = turn + 1
            endpoint = places[turn % len(places)]
        self.clients[service.key, key.source] = (endpoint, now)
        return endpoint

    def _translated(self, key: Key, service: Service, endpoint: int, peek: Peek) -> Key:
        """Return what the endpoint will answer: to the client's own port where it is free (RFC 4787 section 4.2.1)."""
        if service.mode is Mode.DSR:
            return key.turned()
        target = service.endpoints[endpoint]
        hidden = {Mode.ONEARM: self.sources.get(target.address), Mode.FULLNAT: service.key.address}
        source = hidden.get(service.mode) or key.source
        back = Key(key.protocol, target.address, target.port, source, key.sport)
        if back in self.flows:
            seen = peek(key)
            assert seen is not None, "there must be a flow"
            assert seen.port >= _FIRST_PORT, f"{seen.port} is a port of the system"
            back = back._replace(dport=seen.port)
            assert back not in self.flows, f"{seen.port} is taken"
        return back

    # Packets of a flow.

    def _forward(self, packet: Packet, flow: Flow, now: float, reason: Reason) -> Outcome:
        """Translate a packet and send it on, if the way takes it."""
        direction, reply, _ = flow.direction(key_of(packet))
        level = flow.direct and not reply
        way = self.route(flow.service.endpoints[flow.endpoint].address if level else direction.becomes.destination)
        if packet.ttl <= 1 and not level:
            return Outcome(Reason.ANSWER_EXPIRED, expired(packet, packet.destination))
        whole = len(bytes(packet)) - _ETHERNET
        large = whole > way.mtu
        if large and (packet.source.version == 6 or packet.fragment & DONT_FRAGMENT):
            return Outcome(Reason.ANSWER_TOO_BIG, too_big(packet, packet.destination, way.mtu))
        if reason is not Reason.FORWARD_NEW:
            if not flow.life.takes(packet.transport, reply=reply):  # type: ignore[arg-type]
                return Outcome(Reason.DROP_RST, None)
            flow.half_open = flow.half_open and not _lasts(flow.life.state, direction, reply=reply)
        direction.packets, direction.octets, flow.seen = direction.packets + 1, direction.octets + whole, now
        written = rewritten(packet, direction.becomes)
        if large and not level:
            return _left_to_the_kernel(packet, written, direction)
        return Outcome(reason, replace(written, dmac=way.dmac, smac=way.smac, ttl=packet.ttl - (not level)))

    def _complain(self, packet: Packet, error: Complaint) -> Outcome:
        """Take an ICMP error to the sender of what it quotes, as one about what that had sent (RFC 5508 section 4).

        Whom the translation hides stays hidden. The flow is not touched.
        """
        answer = key_of(error.about).turned()
        flow = self.flows.get(answer)
        if flow is None or packet.ttl <= 1:
            return Outcome(Reason.PASS_ICMP_ERROR, packet)
        direction, reply, _ = flow.direction(answer)
        becomes, level = direction.becomes, flow.direct and not reply
        way = self.route(flow.service.endpoints[flow.endpoint].address if level else becomes.destination)
        return Outcome(
            Reason.FORWARD_ICMP_ERROR,
            replace(
                packet,
                dmac=way.dmac,
                smac=way.smac,
                ttl=packet.ttl - 1,
                source=packet.source if answer.source == becomes.source else becomes.source,
                destination=becomes.destination,
                transport=replace(error, about=rewritten(error.about, becomes.turned())),
            ),
        )


def key_of(packet: Packet) -> Key:
    """Return the direction that a packet belongs to."""
    transport = packet.transport
    if isinstance(transport, Echo):
        sport, dport = (0, transport.identifier) if transport.reply else (transport.identifier, 0)
        return Key(L4Protocol.ICMP, packet.source, sport, packet.destination, dport)
    assert isinstance(transport, Tcp | Udp)
    protocol = L4Protocol.TCP if isinstance(transport, Tcp) else L4Protocol.UDP
    return Key(protocol, packet.source, transport.sport, packet.destination, transport.dport)


def rewritten(packet: Packet, becomes: Key) -> Packet:
    """Return a packet between other ends."""
    transport = packet.transport
    if isinstance(transport, Echo):
        transport = replace(transport, identifier=becomes.sport or becomes.dport)
    elif isinstance(transport, Tcp | Udp):
        transport = replace(transport, sport=becomes.sport, dport=becomes.dport)
    return replace(packet, source=becomes.source, destination=becomes.destination, transport=transport)


def _left_to_the_kernel(packet: Packet, written: Packet, direction: Direction) -> Outcome:
    """Have the kernel cut a packet and count the hop. It takes sources of this host from the loopback alone."""
    if direction.becomes.source == direction.key.source:
        return Outcome(Reason.FORWARD_LOCAL, written)
    return Outcome(Reason.FORWARD_LOOPBACK, replace(written, dmac=bytes(6), smac=bytes(6), ttl=packet.ttl))


def _asks(packet: Packet) -> bool:
    tcp = packet.transport
    return isinstance(tcp, Tcp) and tcp.flags & (SYN | ACK | RST | FIN) == SYN


def _reopens(packet: Packet, flow: Flow, key: Key) -> bool:
    """A client's SYN begins a new connection where the old one is over (RFC 9293 section 3.6.1)."""
    return _asks(packet) and key == flow.there.key and flow.life.closed


def _lasts(state: FlowState, direction: Direction, *, reply: bool) -> bool:
    """Tell whether a flow is one to keep, since its client is there: it answered, or keeps sending.

    The first packet of the client alone never makes it one.
    """
    kept = state in _LASTING or (state is FlowState.ONE_WAY and direction.packets >= _ONE_WAY_PACKETS)
    return kept and (reply or direction.packets > 0)


def _picks_up(tcp: Tcp, service: Service) -> bool:
    """A segment in mid-stream opens a flow only where another load balancer would have chosen the same."""
    determined = service.selection in (Selection.HASH, Selection.PERSIST)
    kept = service.mode in (Mode.DEFAULT, Mode.DSR)
    return determined and kept and tcp.flags & (SYN | FIN | RST | ACK) == ACK


def _refuse_segment(packet: Packet, reason: Reason) -> Outcome:
    """Answer a segment of no connection by a reset, and a reset by silence (RFC 9293 section 3.10.7.1)."""
    assert isinstance(packet.transport, Tcp)
    if packet.transport.flags & RST:
        return Outcome(reason, None)
    return Outcome(Reason.ANSWER_RESET, reset(packet))
