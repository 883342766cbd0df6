# SPDX-License-Identifier: Apache-2.0
"""Ethernet frames with an IP packet in them: made for a trace, and read as far as they go.

RFC 791, RFC 8200, RFC 9293, RFC 768, RFC 792, RFC 4443.
"""

import struct
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

from loxilb.model import IPAddress
from loxilb.model.packet import Headers, MadePacket, TcpFlags
from loxilb.proto.checksum import checksum

_ICMP, _TCP, _UDP, _ICMP6 = 1, 6, 17, 58
_IPV4, _IPV6 = 0x0800, 0x86DD
_L3 = 14
_TTL = 64
_WINDOW = 0xFFFF
_DONT_FRAGMENT = 0x4000
_FRAGMENT_OFFSET = 0x1FFF
_ECHO = {(4, False): 8, (4, True): 0, (6, False): 128, (6, True): 129}
_ECHO_IDENTIFIER = {8: True, 0: False, 128: True, 129: False}
_CHECKSUM_AT = {_TCP: 16, _UDP: 6, _ICMP: 2, _ICMP6: 2}
_HOP_BY_HOP, _ROUTING, _FRAGMENT, _OPTIONS = 0, 43, 44, 60


def make_frame(
    made: MadePacket, *, to_mac: bytes, from_mac: bytes, sequence: int = 1, acknowledgement: int = 1, ttl: int = _TTL
) -> bytes:
    """Return the frame; the numbers are those of a TCP segment."""
    segment = _segment(made, sequence, acknowledgement)
    source, destination = made.source.packed, made.destination.packed
    at = _CHECKSUM_AT[made.number]
    covered = segment if made.number == _ICMP else _pseudo(source, destination, made.number, len(segment)) + segment
    summed = segment[:at] + struct.pack("!H", checksum(covered) or 0xFFFF) + segment[at + 2 :]
    version6 = made.source.version == 6
    header = (_ip6 if version6 else _ip4)(source, destination, made.number, len(segment), ttl)
    return to_mac + from_mac + struct.pack("!H", _IPV6 if version6 else _IPV4) + header + summed


def _segment(made: MadePacket, sequence: int, acknowledgement: int) -> bytes:
    """Return the segment without its checksum."""
    ports = (made.source_port, made.destination_port)
    if made.number == _TCP:
        acknowledged = acknowledgement if TcpFlags.ACK in made.flags else 0
        return struct.pack("!HHIIBBHHH", *ports, sequence, acknowledged, 0x50, made.flags, _WINDOW, 0, 0)
    if made.number == _UDP:
        return struct.pack("!HHHH", *ports, 8, 0)
    kind = _ECHO[made.source.version, made.is_echo_reply]
    return struct.pack("!BBHHH", kind, 0, 0, max(ports), 1)


def _pseudo(source: bytes, destination: bytes, protocol: int, length: int) -> bytes:
    return source + destination + struct.pack("!II", length, protocol)


def _ip4(source: bytes, destination: bytes, protocol: int, length: int, ttl: int) -> bytes:
    fields = (0x45, 0, 20 + length, 0, _DONT_FRAGMENT, ttl, protocol)
    sum_of = checksum(struct.pack("!BBHHHBBH", *fields, 0) + source + destination)
    return struct.pack("!BBHHHBBH", *fields, sum_of) + source + destination


def _ip6(source: bytes, destination: bytes, protocol: int, length: int, ttl: int) -> bytes:
    return struct.pack("!IHBB", 6 << 28, length, protocol, ttl) + source + destination


def read_frame(frame: bytes) -> Headers:
    """Read a frame, or the start of one; what is not there or not understood stays None."""
    bare = Headers(destination_mac=frame[:6], source_mac=frame[6:12])
    kind, packet = int.from_bytes(frame[12:14], "big"), frame[_L3:]
    if kind == _IPV4 and len(packet) >= 20:
        return _read4(bare, packet)
    if kind == _IPV6 and len(packet) >= 40:
        return _read6(bare, packet)
    return bare


def _read4(bare: Headers, packet: bytes) -> Headers:
    source, destination = IPv4Address(packet[12:16]), IPv4Address(packet[16:20])
    found = _with_addresses(bare, source, destination, packet[9], packet[8])
    if int.from_bytes(packet[6:8], "big") & _FRAGMENT_OFFSET:
        return found
    return _with_segment(found, packet[(packet[0] & 15) * 4 :])


def _read6(bare: Headers, packet: bytes) -> Headers:
    protocol, at, first = packet[6], 40, True
    while protocol in (_HOP_BY_HOP, _ROUTING, _FRAGMENT, _OPTIONS) and at + 8 <= len(packet):
        if protocol == _FRAGMENT:
            first = not int.from_bytes(packet[at + 2 : at + 4], "big") >> 3
        length = 8 if protocol == _FRAGMENT else (packet[at + 1] + 1) * 8
        protocol, at = packet[at], at + length
    source, destination = IPv6Address(packet[8:24]), IPv6Address(packet[24:40])
    found = _with_addresses(bare, source, destination, protocol, packet[7])
    return _with_segment(found, packet[at:]) if first else found


def _with_addresses(bare: Headers, source: IPAddress, destination: IPAddress, protocol: int, ttl: int) -> Headers:
    return replace(bare, source=source, destination=destination, protocol=protocol, ttl=ttl)


def _with_segment(found: Headers, segment: bytes) -> Headers:
    """Add the ports, or the identifier of an echo."""
    if len(segment) < 8:
        return found
    if found.protocol in (_TCP, _UDP):
        source_port, destination_port = struct.unpack_from("!HH", segment)
        flags = TcpFlags(segment[13]) if found.protocol == _TCP and len(segment) >= 14 else None
        return replace(found, source_port=source_port, destination_port=destination_port, flags=flags)
    if found.protocol not in (_ICMP, _ICMP6) or segment[0] not in _ECHO_IDENTIFIER:
        return found
    identifier = int.from_bytes(segment[4:6], "big")
    asks = _ECHO_IDENTIFIER[segment[0]]
    return replace(found, source_port=identifier) if asks else replace(found, destination_port=identifier)
