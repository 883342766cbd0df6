# SPDX-License-Identifier: Apache-2.0
"""What the load balancer itself says to the sender of a packet that it cannot forward."""

from dataclasses import replace

from loxilb.model import IPAddress
from tests.support.packets import ACK, FIN, RST, SYN, IcmpError, Packet, Tcp

DONT_FRAGMENT = 0x4000
_UNREACHABLE, _EXPIRED, _TOO_BIG = {4: (3, 3), 6: (1, 4)}, {4: (11, 0), 6: (3, 0)}, {4: (3, 4), 6: (2, 0)}
_INTERNETWORK_CONTROL = 0xC0  # RFC 1812 section 4.3.2.5
_MOST_QUOTED = {4: 548, 6: 1232}  # RFC 1812 section 4.3.2.3, RFC 4443 section 2.4


def back(packet: Packet, source: IPAddress, transport: Tcp | IcmpError) -> Packet:
    """Return a packet to the sender of ``packet``, by the way that came."""
    return Packet(
        dmac=packet.smac,
        smac=packet.dmac,
        source=source,
        destination=packet.source,
        transport=transport,
        identification=0,
        fragment=DONT_FRAGMENT,
    )


def reset(packet: Packet) -> Packet:
    """Return the reset that answers a segment of no connection (RFC 9293 section 3.10.7.1)."""
    tcp = packet.transport
    assert isinstance(tcp, Tcp)
    answer = Tcp(sport=tcp.dport, dport=tcp.sport, window=0, flags=RST, sequence=tcp.acknowledgement, acknowledgement=0)
    if not tcp.flags & ACK:
        length = len(tcp.payload) + bool(tcp.flags & SYN) + bool(tcp.flags & FIN)
        answer = replace(answer, flags=RST | ACK, sequence=0, acknowledgement=tcp.sequence + length)
    return back(packet, packet.destination, answer)


def _error(packet: Packet, source: IPAddress, kind: tuple[int, int], info: int = 0) -> Packet:
    quote = bytes(replace(packet, trailer=b""))[14:][: _MOST_QUOTED[source.version]]
    answer = back(packet, source, IcmpError(kind=kind[0], code=kind[1], info=info, quote=quote))
    return replace(answer, tos=_INTERNETWORK_CONTROL if source.version == 4 else 0)


def unreachable(packet: Packet) -> Packet:
    """Return port unreachable (RFC 792, RFC 4443 section 3.1), from where the packet was sent to."""
    return _error(packet, packet.destination, _UNREACHABLE[packet.source.version])


def no_way(packet: Packet, source: IPAddress, kind: str) -> Packet:
    """Return what the kernel's router says where no route leads, or one of a ``kind`` (RFC 1812 section 5.2.7.1)."""
    codes = {"none": (0, 0), "unreachable": (1, 0), "prohibit": (13, 1)}
    return _error(packet, source, (3, codes[kind][0]) if source.version == 4 else (1, codes[kind][1]))


def expired(packet: Packet, source: IPAddress) -> Packet:
    """Return time exceeded (RFC 792, RFC 4443 section 3.3)."""
    return _error(packet, source, _EXPIRED[source.version])


def too_big(packet: Packet, source: IPAddress, mtu: int) -> Packet:
    """Return fragmentation needed (RFC 1191 section 4) or packet too big (RFC 4443 section 3.2)."""
    return _error(packet, source, _TOO_BIG[source.version], mtu)
