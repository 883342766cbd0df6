# SPDX-License-Identifier: Apache-2.0
"""Sequences of packets that mean something: who sends what next, and what is odd about it.

A move does not name numbers: it says how far a segment is from what its sender would send next. So every sequence
makes sense in whatever state the connections are, and a shorter one still does.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import product
from typing import Any

from hypothesis import strategies as st

from loxilb.model import IPAddress, L4Protocol, Service
from tests.model.tcp import Connection
from tests.model.tracker import Complaint, Flow, Key
from tests.packet.answers import DONT_FRAGMENT
from tests.support.bpf import CLIENT, SERVERS, Device
from tests.support.packets import ACK, FIN, PSH, RST, SYN, Echo, Packet, Tcp, Transport, Udp

_WINDOW = 0x2000
_SCALED = b"\x02\x04\x05\xb4\x01\x03\x03\x07"
_LARGEST = b"\x01\x03\x03\x0e"
_NAMES = ((SYN, "SYN"), (FIN, "FIN"), (RST, "RST"), (PSH, "PSH"), (ACK, "ACK"))


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Move:
    """One packet of a conversation.

    ``shift`` is added to the right sequence number, or to the end of the receiver's window where ``edge``; ``lag``
    is added to the right acknowledgement. ``fresh``: with an initial sequence number that was not used before.
    ``about``: an ICMP error of that type and code about this packet, which quotes ``most`` bytes behind the IP header.
    ``wait`` seconds pass before.
    """

    reply: bool = False
    flags: int = ACK
    shift: int = 0
    edge: bool = False
    lag: int = 0
    size: int = 0
    window: int = _WINDOW
    options: bytes = b""
    fresh: bool = False
    ttl: int = 64
    df: bool = False
    about: tuple[int, int] | None = None
    most: int = 1 << 16
    wait: float = 0.0

    def __repr__(self) -> str:
        """Return what differs from a plain segment of the client."""
        said = (
            f"{one.name}={getattr(self, one.name)!r}" for one in fields(self) if getattr(self, one.name) != one.default
        )
        return f"Move({', '.join(said)})"

    def _repr_pretty_(self, printer: Any, _: bool) -> None:
        """Have it printed like that in a failure."""
        printer.text(repr(self))


def _each(**choices: Sequence[Any]) -> list[tuple[Move, ...]]:
    """Return every combination of the given members as a move, once by the client and once by the server."""
    named = [dict(zip(choices, chosen, strict=True)) for chosen in product(*choices.values())]
    return [(Move(reply=reply, **one),) for one in named for reply in (False, True)]


_SYN, _ACK, _FIN = Move(flags=SYN), Move(), Move(flags=FIN | ACK)
_SYN_ACK, _BACK, _FIN_BACK = Move(flags=SYN | ACK, reply=True), Move(reply=True), Move(flags=FIN | ACK, reply=True)
_CONNECT = (_SYN, _SYN_ACK, _ACK)
_SCALING = tuple(replace(move, options=_SCALED if move.flags & SYN else b"") for move in _CONNECT)
_AWAY = (1, -1, -7, _WINDOW, _WINDOW + 1, -_WINDOW, 1 << 20, 1 << 31)

# The simplest first: what is found is shrunk towards it. What is likely to lead somewhere is there more than once.
USUAL: list[tuple[Move, ...]] = [
    (_SYN,),
    (_SYN_ACK,),
    (_ACK,),
    (_BACK,),
    *[_CONNECT, _SCALING] * 4,
    *[(_FIN,), (_FIN_BACK,), (_FIN, _FIN_BACK), (_FIN_BACK, _FIN, _BACK)] * 2,
    *[(Move(flags=PSH | ACK, size=5),), (Move(flags=PSH | ACK, size=100, reply=True),)] * 2,
    (Move(flags=RST | ACK),),
    (Move(flags=RST | ACK, reply=True),),
]
_ODD: list[tuple[Move, ...]] = [
    *_each(flags=(RST, SYN, 0, SYN | FIN, SYN | RST, FIN)),
    (Move(flags=SYN | ACK),),
    (_SYN, Move(flags=SYN, reply=True), Move(flags=SYN | ACK), _SYN_ACK),  # simultaneous open
    (Move(flags=SYN, fresh=True),),
    (Move(flags=SYN, size=9),),
    (Move(flags=SYN, options=_LARGEST),),
    (Move(flags=SYN | ACK, reply=True, options=_LARGEST),),
    *_each(flags=(RST, FIN | ACK, ACK), shift=_AWAY),
    *_each(flags=(RST, FIN | ACK), shift=(0, 1), edge=(True,)),
    *_each(flags=(SYN | ACK, ACK, RST | ACK), lag=(-1, 1, 9, 1 << 16, 1 << 31)),
    *_each(flags=(FIN | ACK,), size=(50,), shift=(-20, -50, -51, 8_142, 8_143)),
    *_each(window=(0, 1, 0xFFFF)),
]
_ANY: list[tuple[Move, ...]] = [
    *_each(ttl=(1,), flags=(SYN, ACK, RST)),
    *_each(size=(1_600,), df=(False, True), flags=(PSH | ACK,)),
    *_each(about=((3, 1), (3, 4), (11, 0), (12, 0)), most=(1 << 16, 8), flags=(ACK, SYN)),
    (Move(about=(3, 1), ttl=1),),
    (Move(wait=99.0, flags=SYN),),
    (Move(wait=101.0, flags=SYN),),
]
PLAIN: list[tuple[Move, ...]] = [(Move(),), (Move(reply=True),), (Move(size=5),), (Move(size=5, reply=True),)]

MOVES = {
    L4Protocol.TCP: USUAL * 6 + _ODD + _ANY,
    L4Protocol.UDP: PLAIN * 20 + [(Move(),) * 9] * 5 + _ANY,
    L4Protocol.ICMP: PLAIN * 20 + [(Move(),) * 9] * 5 + _ANY,
}
# Client, its port, service: the same client, the same port, the same endpoints by another service.
CONVERSATIONS = ((0, 0, 0), (1, 0, 0), (0, 0, 1), (0, 1, 0))
Turn = tuple[int, tuple[Move, ...]]
# Type and code of an ICMP error in ICMPv6 (RFC 7915 section 4.2).
_AS_ICMPV6 = {(3, 1): (1, 3), (3, 4): (2, 0), (11, 0): (3, 0), (12, 0): (4, 0)}


def sequences(protocol: L4Protocol, *, most: int = 14) -> st.SearchStrategy[list[Turn]]:
    """Return a strategy for sequences: a conversation and its moves, then the next."""
    which = st.sampled_from([0, 0, 0, 0, 1, 1, 2, 2, 3])
    return st.lists(st.tuples(which, st.sampled_from(MOVES[protocol])), min_size=1, max_size=most)


@dataclass(slots=True, kw_only=True)
class Conversation:
    """A client's port and a service, and what both ends would say next."""

    client: IPAddress
    port: int
    service: Service
    back: Key | None = None
    first: dict[bool, int] = field(default_factory=lambda: {False: 1_000, True: 0xFFFF_F000})
    following: dict[bool, int] = field(default_factory=lambda: {False: 1_001, True: 0xFFFF_F001})

    @property
    def there(self) -> Key:
        """Return the direction from the client."""
        key = self.service.key
        return Key(key.protocol, self.client, self.port, key.address, key.port)

    def packet(self, move: Move, flow: Flow | None) -> Packet | None:
        """Return the packet of a move, in a flow if there is one; None when it could be an answer to nothing."""
        self.back = flow.back.key if flow else self.back
        key = self.back if move.reply else self.there
        if key is None:
            return None
        if move.about is None:
            return self._from(key, self._transport(key, move, flow), move)
        return self._error(move, flow)

    def _error(self, move: Move, flow: Flow | None) -> Packet | None:
        """Return an error about what the move would have become."""
        if flow is None or move.about is None:
            return None
        direction = flow.back if move.reply else flow.there
        about = self._from(direction.becomes, self._transport(direction.becomes, replace(move, shift=1), flow), move)
        about = replace(about, dmac=bytes(6), smac=bytes(6), ttl=33)
        kind, code = move.about if self.client.version == 4 else _AS_ICMPV6[move.about]
        device = _device_of(direction.becomes.destination)
        size = move.most + (20 if self.client.version == 4 else 40)
        return Packet(
            dmac=device.mac,
            smac=device.neighbour,
            source=device.gateway(self.client.version),
            destination=about.source,
            ttl=move.ttl,
            transport=Complaint(kind=kind, code=code, about=about, most=size, info=1_280 if code == 4 else 0),
        )

    def _from(self, key: Key, transport: Transport, move: Move) -> Packet:
        device = _device_of(key.source) if move.reply else CLIENT
        return Packet(
            dmac=device.mac,
            smac=device.neighbour,
            source=key.source,
            destination=key.destination,
            transport=transport,
            ttl=move.ttl,
            fragment=DONT_FRAGMENT if move.df else 0,
        )

    def _transport(self, key: Key, move: Move, flow: Flow | None) -> Transport:
        payload = b"x" * move.size
        if key.protocol is L4Protocol.ICMP:
            version = self.client.version
            return Echo(identifier=key.sport or key.dport, reply=move.reply, version=version, payload=payload)
        if key.protocol is L4Protocol.UDP:
            return Udp(sport=key.sport, dport=key.dport, payload=payload)
        return Tcp(
            sport=key.sport,
            dport=key.dport,
            flags=move.flags,
            payload=payload,
            sequence=self._sequence(move, flow),
            acknowledgement=(self.following[not move.reply] + move.lag) % (1 << 32) if move.flags & ACK else 0,
            window=move.window,
            options=move.options,
        )

    def _sequence(self, move: Move, flow: Flow | None) -> int:
        """Return a sequence number, and let the sender go on where this was what it had to send."""
        if move.edge and flow is not None and isinstance(flow.life, Connection):
            receiver = flow.life.client if move.reply else flow.life.server
            if receiver.expects is not None:
                return (receiver.expects + receiver.room + move.shift) % (1 << 32)
        if move.flags & SYN:
            if move.fresh:
                self.first[move.reply] += 7_777_777
            number = self.first[move.reply]
        else:
            number = self.following[move.reply]
        if not move.shift:
            taken = move.size + bool(move.flags & SYN) + bool(move.flags & FIN)
            self.following[move.reply] = (number + taken) % (1 << 32)
        return (number + move.shift) % (1 << 32)


def _device_of(address: IPAddress) -> Device:
    return next((one for one in SERVERS if address in one.network(address.version)), CLIENT)


def described(packet: Packet) -> str:
    """Return a packet in one line."""
    transport = packet.transport
    if isinstance(transport, Complaint):
        return f"error {transport.kind}/{transport.code} to {packet.destination} about {described(transport.about)}"
    ends = f"{packet.source} > {packet.destination}"
    if isinstance(transport, Echo):
        return f"{ends} echo {'reply' if transport.reply else 'request'} {transport.identifier} ttl {packet.ttl}"
    assert isinstance(transport, Tcp | Udp)
    ends = f"{packet.source}.{transport.sport} > {packet.destination}.{transport.dport} ttl {packet.ttl}"
    ends += f" +{len(transport.payload)}" if transport.payload else ""
    if isinstance(transport, Udp):
        return f"{ends} UDP"
    flags = "|".join(name for bit, name in _NAMES if transport.flags & bit) or "none"
    scale = " scaled" if transport.options else ""
    return f"{ends} {flags} seq {transport.sequence} ack {transport.acknowledgement} win {transport.window}{scale}"
