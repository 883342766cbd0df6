# SPDX-License-Identifier: Apache-2.0
"""The same frames through this load balancer and through the kernel's own NAT (nftables): the same is delivered.

Two namespaces alike, one with the programs at TC, one with nft rules. Frames are put on the devices' far ends and read
there, as they are. They are what hosts send: handshakes, also crossing and refused ones, data, every way to close, new
connections between old ports, datagrams, echoes, ICMP errors about all of them. Not among them, since the two differ on
purpose:

* Segments that do not fit the connection's state or window. Connection tracking finds them invalid, its NAT leaves them
  alone, and the host, which has the service's address, resets the connection; here they go to their receiver, which
  knows best (RFC 9293 section 3.10.7.4).
* A new connection after a reset, or after one whose SYNs crossed: connection tracking keeps the old one's endpoint;
  here it is chosen anew, as after FINs.
* Echoes in modes onearm and fullnat: the kernel gives them another identifier, here they keep theirs where it is free.
* A second client with the same port in modes onearm and fullnat: both pick another port, each its own.
* TTL 1: the text of time exceeded, which quotes as much as there is room for here.
"""

import random
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import pytest

from loxilb.kernel.bpf.settings import XdpPolicy
from loxilb.model import Endpoint, IPAddress, L4Protocol, Mode, Service
from tests.model.sequences import Conversation, Move, described
from tests.model.tcp import Connection, Exchange
from tests.model.tracker import Direction, Flow, Key
from tests.packet.driver import SMALL, TARGET, Driver
from tests.support.bpf import CLIENT, CLIENTS4, CLIENTS6, DEVICES, SERVERS, Device, World
from tests.support.lab import Lab
from tests.support.packets import ACK, FIN, PSH, RST, SYN, Packet, Udp, difference, parse

pytestmark = pytest.mark.must_run
SEQUENCES = 40
KINDS = [
    *product((L4Protocol.TCP, L4Protocol.UDP), (Mode.DEFAULT, Mode.ONEARM, Mode.FULLNAT)),
    (L4Protocol.ICMP, Mode.DEFAULT),
]
_ETH_P_ALL = 3
_OUTGOING = 4
_BARRIER = 9  # discard
_DEADLINE_S = 5.0
_RULES = """
table {family} oracle {{
    chain pre {{
        type nat hook prerouting priority dstnat
        {address} daddr {vip} {match} dnat to {targets}
    }}
    chain post {{
        type nat hook postrouting priority srcnat
        {snat}
    }}
}}
"""


class Side:
    """One of the two namespaces: frames in, frames out."""

    def __init__(self, world: World) -> None:
        """Open a socket at the far end of each device."""
        self.world = world
        self.sockets: dict[Device, socket.socket] = {}
        self._barrier = 0
        with world.inside():
            for device in DEVICES:
                made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
                made.bind((f"{device.name}-far", 0))
                made.settimeout(_DEADLINE_S)
                self.sockets[device] = made

    def close(self) -> None:
        """Close them."""
        for made in self.sockets.values():
            made.close()

    def deliver(self, packet: Packet) -> list[tuple[Device, bytes]]:
        """Send a frame and return what came out, and where: all that left before a datagram that is sent after it."""
        came_in = next(one for one in DEVICES if one.mac == packet.dmac)
        self.sockets[came_in].send(bytes(packet))
        away = SERVERS[0] if came_in is CLIENT else CLIENT
        self._barrier += 1
        last = replace(
            packet,
            source=came_in.gateway(packet.source.version),
            destination=away.gateway(packet.source.version),
            ttl=64,
            transport=Udp(sport=_BARRIER, dport=_BARRIER, payload=struct.pack(">I", self._barrier)),
        )
        self.sockets[came_in].send(bytes(last))
        self._read_until(away, bytes(last)[-4:])
        return self._arrived

    def _read_until(self, away: Device, mark: bytes) -> None:
        self._arrived: list[tuple[Device, bytes]] = []
        end = time.monotonic() + _DEADLINE_S
        while not self._read(away, mark):
            assert time.monotonic() < end, "the datagram that marks the end did not arrive"
        for device in DEVICES:
            self.sockets[device].setblocking(False)
            try:
                while True:
                    self._read(device, mark)
            except BlockingIOError:
                self.sockets[device].settimeout(_DEADLINE_S)

    def _read(self, device: Device, mark: bytes) -> bool:
        """Read one frame; True when it is the last one."""
        frame, (*_, kind, _, _) = self.sockets[device].recvfrom(1 << 16)
        if kind == _OUTGOING or frame[:6] != device.neighbour:
            return False
        l4 = 34 if frame[12:14] == b"\x08\x00" else 54
        if frame[l4 : l4 + 4] == struct.pack(">HH", _BARRIER, _BARRIER):
            return frame.endswith(mark)
        self._arrived.append((device, frame))
        return False


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Side, Driver]]:
    """Return the programs at TC."""
    with Lab(folder=Path(tmp_path_factory.mktemp("ours"))) as lab, ExitStack() as stack:
        world = World(lab)
        with world.inside():
            driver = Driver(world, replace(SMALL, xdp=XdpPolicy.OFF, icmp_interval=0.0))
            stack.callback(driver.close)
            for device in DEVICES:
                driver.data_plane.attach(world.port(device))
            side = Side(world)
            stack.callback(side.close)
            yield side, driver


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Side]:
    """Return the kernel's NAT: segments of no connection are no news to it."""
    with Lab(folder=Path(tmp_path_factory.mktemp("kernels"))) as lab:
        world = World(lab)
        world.namespace.run("nft", "add table inet oracle")
        world.namespace.sysctl(net__netfilter__nf_conntrack_tcp_loose=0)
        side = Side(world)
        yield side
        side.close()


def rules(service: Service) -> str:
    """Return nft rules that do what a service does."""
    version, key = service.key.address.version, service.key
    address = "ip" if version == 4 else "ip6"
    echo = "icmp type echo-request" if version == 4 else "icmpv6 type echo-request"
    icmp = key.protocol is L4Protocol.ICMP
    match = echo if icmp else f"{key.protocol.value} dport {key.port}"

    def end(endpoint: Endpoint) -> str:
        if icmp:
            return str(endpoint.address)
        return f"{endpoint.address}:{TARGET}" if version == 4 else f"[{endpoint.address}]:{TARGET}"

    count = len(service.endpoints)
    if count == 1:
        targets = end(service.endpoints[0])
    else:
        port = "" if icmp else f" . {TARGET}"
        turns = ", ".join(f"{at} : {one.address}{port}" for at, one in enumerate(service.endpoints))
        targets = f"numgen inc mod {count} map {{ {turns} }}"
    hidden = {Mode.ONEARM: SERVERS[0].address(version), Mode.FULLNAT: key.address}.get(service.mode)
    snat = f"{address} daddr {service.endpoints[0].address} ct status dnat snat to {hidden}" if hidden else ""
    return _RULES.format(family=address, address=address, vip=key.address, match=match, targets=targets, snat=snat)


def comparable(frame: bytes) -> tuple[str, ...]:
    """Return what must be the same of a delivered frame; its checksums must be right.

    Not compared: the identification, and with it the header's checksum, since the kernel numbers what it sends itself.
    """
    parsed = parse(frame)
    assert parsed.wrong == (), parsed
    return tuple(f"{name} {value}" for name, value in parsed.fields.items() if name not in ("id", "header checksum"))


@dataclass(slots=True, kw_only=True)
class Player:
    """One sequence on one side: the conversations know the ports that this side gave them."""

    side: Side
    conversations: list[Conversation]
    flows: dict[int, Flow]

    def move(self, which: int, move: Move) -> tuple[Packet | None, list[tuple[Device, bytes]]]:
        """Make a move; returns what was sent and what arrived."""
        conversation = self.conversations[which]
        packet = conversation.packet(move, self.flows.get(which))
        if packet is None:
            return None, []
        arrived = self.side.deliver(packet)
        for device, frame in arrived:
            if not move.reply and move.about is None and device is not CLIENT:
                self.flows[which] = _flow(conversation, frame)
        return packet, arrived


def _flow(conversation: Conversation, frame: bytes) -> Flow:
    """Return the flow that carried a frame to an endpoint."""
    there, fields = conversation.there, parse(frame).fields
    target = next(one for one in conversation.service.endpoints if str(one.address) == fields["destination"])
    source = next(one for one in (conversation.client, *_own(conversation.service)) if str(one) == fields["source"])
    port = int(fields.get("source port") or fields["identifier"])
    becomes = Key(there.protocol, source, port, target.address, target.port)
    return Flow(
        there=Direction(key=there, becomes=becomes),
        back=Direction(key=becomes.turned(), becomes=there.turned()),
        service=conversation.service,
        endpoint=0,
        life=Connection() if there.protocol is L4Protocol.TCP else Exchange(),
    )


def _own(service: Service) -> Sequence[IPAddress]:
    return (service.key.address, *(one.address(service.key.address.version) for one in SERVERS))


_SYN, _SYN_ACK, _ACK, _BACK = Move(flags=SYN), Move(flags=SYN | ACK, reply=True), Move(), Move(reply=True)
_FIN, _FIN_BACK = Move(flags=FIN | ACK), Move(flags=FIN | ACK, reply=True)
_OPENINGS = (
    [_SYN, _SYN_ACK, _ACK],
    [replace(_SYN, options=b"\x01\x03\x03\x07"), replace(_SYN_ACK, options=b"\x01\x03\x03\x07"), _ACK],
    [_SYN, _SYN, _SYN_ACK, _SYN_ACK, _ACK],
    [_SYN, Move(flags=SYN, reply=True), Move(flags=SYN | ACK), _SYN_ACK, _ACK],
)
_REFUSED = [_SYN, Move(flags=RST | ACK, reply=True)]
_CLOSINGS: tuple[list[Move], ...] = (
    [_FIN, _BACK, _FIN_BACK, _ACK],
    [_FIN_BACK, _ACK, Move(flags=PSH | ACK, size=9), _BACK, _FIN, _BACK],
    [_FIN, _FIN_BACK, _ACK, _BACK],
    [],
)
_RESETS = ([Move(flags=RST | ACK)], [Move(flags=RST, reply=True)])
_ERRORS = [Move(about=kind, reply=reply) for kind in ((3, 1), (3, 4), (11, 0)) for reply in (False, True)]


def connection(source: random.Random) -> list[Move]:
    """Return what two hosts send on a connection, and maybe on another one between the same ports."""
    data = [Move(flags=PSH | ACK, size=9), Move(flags=PSH | ACK, size=700, reply=True), _ACK, _BACK, *_ERRORS]
    if source.random() < 0.1:
        return _REFUSED
    opening, closing = source.choice(_OPENINGS), source.choice(_CLOSINGS)
    once = [*opening, *source.choices(data, k=source.randint(0, 6))]
    if source.random() < 0.3:
        return [*once, *source.choice(_RESETS)]
    again = closing and opening is not _OPENINGS[-1]
    return [*once, *closing, *(_again(source.choice(_OPENINGS)) if again else ())]


def _again(opening: list[Move]) -> list[Move]:
    """Return a handshake with sequence numbers of its own."""
    seen: set[bool] = set()
    moves = []
    for move in opening:
        moves.append(replace(move, fresh=bool(move.flags & SYN) and move.reply not in seen))
        seen.add(move.reply)
    return moves


def moves(protocol: L4Protocol, seed: int) -> list[tuple[int, Move]]:
    """Return what two clients and the servers send, in a random order that keeps each conversation's own."""
    source = random.Random(seed)
    if protocol is L4Protocol.TCP:
        scripts = [connection(source) for _ in range(2)]
    else:
        datagrams = [_ACK, _BACK, Move(size=99), Move(size=99, reply=True), *_ERRORS]
        scripts = [[_ACK, *source.choices(datagrams, k=source.randint(0, 9))] for _ in range(2)]
    order = [which for which, script in enumerate(scripts) for _ in script]
    source.shuffle(order)
    following = [iter(script) for script in scripts]
    return [(which, next(following[which])) for which in order]


@pytest.mark.parametrize("version", [4, 6], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize(("protocol", "mode"), KINDS, ids=lambda one: one.name.lower())
def test_what_the_kernel_delivers(
    ours: tuple[Side, Driver], kernels: Side, protocol: L4Protocol, mode: Mode, version: int
) -> None:
    """The same, packet by packet."""
    side, driver = ours
    servers = SERVERS if mode is Mode.DEFAULT else SERVERS[:1]
    port = 0 if protocol is L4Protocol.ICMP else TARGET
    endpoints = [Endpoint(address=one.gateway(version), port=port) for one in servers]
    service = driver.service(version, protocol, mode=mode, endpoints=endpoints)
    kernels.world.namespace.run("nft", "flush ruleset")
    kernels.world.namespace.run("nft", "-f", "-", stdin=rules(service))
    kernels.world.namespace.ip(f"addr replace {service.key.address} dev lo")
    for seed in range(SEQUENCES):
        played = [_player(one, service, seed) for one in (side, kernels)]
        rows = [f"seed {seed}"]
        for which, move in moves(protocol, seed):
            (packet, mine), (_, theirs) = (player.move(which, move) for player in played)
            rows.append(described(packet) if packet else "nothing to answer")
            _same(mine, theirs, rows)


def _player(side: Side, service: Service, seed: int) -> Player:
    """Return a player with clients that nobody was before."""
    network = CLIENTS4 if service.key.address.version == 4 else CLIENTS6
    clients = (network[0x1000 + 2 * seed], network[0x1001 + 2 * seed])
    return Player(
        side=side,
        conversations=[
            Conversation(client=client, port=20_000 + 2 * seed + at, service=service)
            for at, client in enumerate(clients)
        ],
        flows={},
    )


def _same(mine: list[tuple[Device, bytes]], theirs: list[tuple[Device, bytes]], rows: list[str]) -> None:
    found = [[(device.name, comparable(frame)) for device, frame in arrived] for arrived in (mine, theirs)]
    if found[0] != found[1]:
        pairs = zip(theirs, mine, strict=False)
        more = [difference(expected, got) for (_, expected), (_, got) in pairs]
        raise AssertionError("\n".join((*rows, f"kernel {found[1]}", f"ours   {found[0]}", *more)))
