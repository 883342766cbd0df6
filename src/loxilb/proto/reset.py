# SPDX-License-Identifier: Apache-2.0
"""TCP segments that end a connection between two others, as whole IP packets (RFC 9293, RFC 791, RFC 8200).

A reset must have exactly the sequence number that its receiver expects next (RFC 5961 section 3.2). What a load
balancer saw of a connection in use is a little old. A receiver beyond it ignores the reset, so a segment from before
its window follows, which it must acknowledge (RFC 9293 section 3.10.7.4): that acknowledgement, answered by a reset,
ends it.
"""

import struct
from dataclasses import dataclass

from loxilb.model import AbortedConnection, IPAddress, Peer
from loxilb.proto.checksum import checksum

_RST, _ACK = 0x04, 0x10
_TCP = 6
_TTL = 64
_MASK = 0xFFFFFFFF
_SEGMENT = struct.Struct("!HHIIBBHHH")
_IP4 = struct.Struct("!BBHHHBBH4s4s")
_IP6 = struct.Struct("!IHBB16s16s")
_DONT_FRAGMENT = 0x4000


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """A whole IP packet, and where it goes. The header checksum of IPv4 is left to the kernel (raw(7))."""

    destination: IPAddress
    octets: bytes


def packets_for(aborted: AbortedConnection) -> tuple[Packet, ...]:
    """Return what ends a connection at each end that can be told."""
    resets = tuple(_packet(end, end.expects, 0, _RST) for end in aborted.ends)
    if not aborted.active:
        return resets
    return resets + tuple(_packet(end, (end.expects - 1) & _MASK, end.sent, _ACK) for end in aborted.ends)


def _packet(end: Peer, sequence: int, acknowledgement: int, flags: int) -> Packet:
    """Return a segment without payload that ``end`` takes for one of its other end."""
    source, destination = end.other.packed, end.address.packed
    fields = (end.other_port, end.port, sequence, acknowledgement, _SEGMENT.size // 4 << 4, flags, 0)
    pseudo = source + destination + struct.pack("!II", _SEGMENT.size, _TCP)
    sum_of = checksum(pseudo + _SEGMENT.pack(*fields, 0, 0))
    return Packet(destination=end.address, octets=_header(source, destination) + _SEGMENT.pack(*fields, sum_of, 0))


def _header(source: bytes, destination: bytes) -> bytes:
    """Return the IP header of a segment without payload or options."""
    if len(source) == 4:
        length = _IP4.size + _SEGMENT.size
        return _IP4.pack(0x45, 0, length, 0, _DONT_FRAGMENT, _TTL, _TCP, 0, source, destination)
    return _IP6.pack(6 << 28, _SEGMENT.size, _TCP, _TTL, source, destination)
