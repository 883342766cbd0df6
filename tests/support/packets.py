# SPDX-License-Identifier: Apache-2.0
"""Packets for tests: build them with right checksums, check the checksums of what comes back, tell two apart.

A :class:`Packet` is a value; what a load balancer is expected to make of it is ``replace(packet, destination=...)``.
"""

from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address
from typing import ClassVar

from loxilb.model import IPAddress

FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10
IPV4, ARP, VLAN, IPV6 = 0x0800, 0x0806, 0x8100, 0x86DD
ICMP, TCP, UDP, FRAGMENT, ICMPV6, SCTP = 1, 6, 17, 44, 58, 132
_ETHERNET, _IPV6_HEADER = 14, 40
_NUMBERS = 1 << 32  # of sequence numbers
# Offset of the checksum in the transport header.
_CHECKSUM_AT = {TCP: 16, UDP: 6, ICMP: 2, ICMPV6: 2}


def total(data: bytes) -> int:
    """Return the one's complement sum of 16-bit words, an odd byte padded with zero (RFC 1071 section 1)."""
    number = int.from_bytes(data + bytes(len(data) % 2), "big")  # 2**16 is 1 modulo 2**16 - 1: digits add up
    return number and (number % 0xFFFF or 0xFFFF)


def checksum(data: bytes) -> int:
    """Return the internet checksum of ``data``, whose checksum field is zero."""
    return ~total(data) & 0xFFFF


def pseudo_header(source: IPAddress, destination: IPAddress, protocol: int, length: int) -> bytes:
    """Return what a transport checksum covers beside the segment (RFC 9293 section 3.1, RFC 8200 section 8.1)."""
    if source.version == 4:
        return source.packed + destination.packed + bytes((0, protocol)) + length.to_bytes(2, "big")
    return source.packed + destination.packed + length.to_bytes(4, "big") + bytes((0, 0, 0, protocol))


def _covered(source: IPAddress, destination: IPAddress, protocol: int, segment: bytes) -> bytes:
    """Return all that the checksum of ``segment`` covers; ICMP for IPv4 knows no pseudo header (RFC 792)."""
    return segment if protocol == ICMP else pseudo_header(source, destination, protocol, len(segment)) + segment


@dataclass(frozen=True, slots=True, kw_only=True)
class Tcp:
    """A TCP segment (RFC 9293 section 3.1), its numbers modulo 2**32. ``options`` are a multiple of four bytes."""

    sport: int
    dport: int
    flags: int = ACK
    payload: bytes = b""
    sequence: int = 1000
    acknowledgement: int = 2000
    window: int = 0x2000
    urgent: int = 0
    options: bytes = b""

    def segment(self) -> bytes:
        """Return the segment with a zero checksum."""
        return (
            self.sport.to_bytes(2, "big")
            + self.dport.to_bytes(2, "big")
            + (self.sequence % _NUMBERS).to_bytes(4, "big")
            + (self.acknowledgement % _NUMBERS).to_bytes(4, "big")
            + bytes(((20 + len(self.options)) // 4 << 4, self.flags))
            + self.window.to_bytes(2, "big")
            + bytes(2)
            + self.urgent.to_bytes(2, "big")
            + self.options
            + self.payload
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Udp:
    """A UDP datagram (RFC 768); ``summed`` false leaves the checksum out."""

    sport: int
    dport: int
    payload: bytes = b""
    summed: bool = True

    def segment(self) -> bytes:
        """Return the datagram with a zero checksum."""
        ports = self.sport.to_bytes(2, "big") + self.dport.to_bytes(2, "big")
        return ports + (8 + len(self.payload)).to_bytes(2, "big") + b"\0\0" + self.payload


@dataclass(frozen=True, slots=True, kw_only=True)
class Echo:
    """An ICMP or ICMPv6 echo (RFC 792, RFC 4443 section 4); ``version`` is that of the IP header around it."""

    _TYPES: ClassVar[dict[tuple[int, bool], int]] = {(4, False): 8, (4, True): 0, (6, False): 128, (6, True): 129}

    identifier: int
    version: int
    reply: bool = False
    sequence: int = 7
    payload: bytes = b"ping"

    def segment(self) -> bytes:
        """Return the message with a zero checksum."""
        numbers = self.identifier.to_bytes(2, "big") + self.sequence.to_bytes(2, "big")
        return bytes((self._TYPES[self.version, self.reply], 0, 0, 0)) + numbers + self.payload


@dataclass(frozen=True, slots=True, kw_only=True)
class IcmpError:
    """An ICMP or ICMPv6 error (RFC 792, RFC 4443) about the packet whose first bytes are ``quote``.

    ``info`` is the second word of its header: the MTU, or 0.
    """

    kind: int
    code: int
    quote: bytes
    info: int = 0

    def segment(self) -> bytes:
        """Return the message with a zero checksum."""
        return bytes((self.kind, self.code, 0, 0)) + self.info.to_bytes(4, "big") + self.quote


Transport = Tcp | Udp | Echo | IcmpError


def protocol_of(transport: Transport, version: int) -> int:
    """Return the IANA number of a transport."""
    if isinstance(transport, Echo | IcmpError):
        return ICMP if version == 4 else ICMPV6
    return TCP if isinstance(transport, Tcp) else UDP


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """An Ethernet frame with an IP packet in it. ``options`` are IPv4 options, a multiple of four bytes.

    ``tos`` is the traffic class of IPv6: DSCP and ECN (RFC 2474, RFC 3168).
    """

    source: IPAddress
    destination: IPAddress
    transport: Transport
    dmac: bytes = field(default=bytes(6))
    smac: bytes = field(default=bytes(6))
    ttl: int = 64
    tos: int = 0
    options: bytes = b""
    identification: int = 0x1234
    fragment: int = 0
    trailer: bytes = b""

    def with_ports(self, sport: int, dport: int) -> "Packet":
        """Return the same packet between other ports."""
        assert isinstance(self.transport, Tcp | Udp)
        return replace(self, transport=replace(self.transport, sport=sport, dport=dport))

    def __bytes__(self) -> bytes:
        """Return the frame."""
        version = self.source.version
        protocol = protocol_of(self.transport, version)
        segment = finished(self.source, self.destination, self.transport)
        if version == 4:
            packet = ipv4(self, protocol, len(segment)) + segment
        else:
            packet = ipv6(self, protocol, len(segment)) + segment
        return self.dmac + self.smac + (IPV4 if version == 4 else IPV6).to_bytes(2, "big") + packet + self.trailer


def finished(source: IPAddress, destination: IPAddress, transport: Transport) -> bytes:
    """Return the segment with its checksum; a UDP sum of zero is sent as 0xffff (RFC 768, RFC 8200 section 8.1)."""
    protocol = protocol_of(transport, source.version)
    segment = transport.segment()
    if isinstance(transport, Udp) and not transport.summed:
        return segment
    value = checksum(_covered(source, destination, protocol, segment))
    if protocol == UDP:
        value = value or 0xFFFF
    at = _CHECKSUM_AT[protocol]
    return segment[:at] + value.to_bytes(2, "big") + segment[at + 2 :]


def ipv4(packet: Packet, protocol: int, length: int) -> bytes:
    """Return the header before ``length`` bytes (RFC 791 section 3.1)."""
    size = 20 + len(packet.options)
    header = (
        bytes((0x40 | size // 4, packet.tos))
        + (size + length).to_bytes(2, "big")
        + packet.identification.to_bytes(2, "big")
    )
    header += packet.fragment.to_bytes(2, "big") + bytes((packet.ttl, protocol, 0, 0))
    header += packet.source.packed + packet.destination.packed + packet.options
    return header[:10] + checksum(header).to_bytes(2, "big") + header[12:]


def ipv6(packet: Packet, protocol: int, length: int) -> bytes:
    """Return the header before ``length`` bytes (RFC 8200 section 3)."""
    head = (
        (0x60000000 | packet.tos << 20).to_bytes(4, "big") + length.to_bytes(2, "big") + bytes((protocol, packet.ttl))
    )
    return head + packet.source.packed + packet.destination.packed


def ethernet(dmac: bytes, smac: bytes, kind: int, payload: bytes) -> bytes:
    """Return a frame."""
    return dmac + smac + kind.to_bytes(2, "big") + payload


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """A frame taken apart: its fields by name in order, and the names of the checksums that are wrong."""

    fields: dict[str, str]
    wrong: tuple[str, ...]


def parse(frame: bytes) -> Parsed:
    """Take a frame apart as far as it can be understood, and verify every checksum in it."""
    fields = {"dmac": frame[:6].hex(":"), "smac": frame[6:12].hex(":"), "ethertype": frame[12:14].hex()}
    kind = int.from_bytes(frame[12:14], "big")
    packet = frame[_ETHERNET:]
    if kind == IPV4 and len(packet) >= 20 and packet[0] >> 4 == 4:
        return _parse_ipv4(fields, packet)
    if kind == IPV6 and len(packet) >= _IPV6_HEADER and packet[0] >> 4 == 6:
        return _parse_ipv6(fields, packet)
    fields["payload"] = packet.hex()
    return Parsed(fields=fields, wrong=())


def _parse_ipv4(fields: dict[str, str], packet: bytes) -> Parsed:
    size, length = (packet[0] & 15) * 4, int.from_bytes(packet[2:4], "big")
    source, destination = IPv4Address(packet[12:16]), IPv4Address(packet[16:20])
    fields |= {
        "tos": str(packet[1]),
        "length": str(length),
        "id": packet[4:6].hex(),
        "fragment": packet[6:8].hex(),
        "ttl": str(packet[8]),
        "header checksum": packet[10:12].hex(),
        "source": str(source),
        "destination": str(destination),
        "options": packet[20:size].hex(),
    }
    wrong = ("IPv4 header",) if size < 20 or checksum(packet[:size]) else ()
    if int.from_bytes(packet[6:8], "big") & 0x3FFF:
        fields["payload"] = packet[size:].hex()
        return Parsed(fields=fields, wrong=wrong)
    return _parse_segment(fields, wrong, source, destination, packet[9], packet[size:length], packet[length:])


def _parse_ipv6(fields: dict[str, str], packet: bytes) -> Parsed:
    end = _IPV6_HEADER + int.from_bytes(packet[4:6], "big")
    source, destination = IPv6Address(packet[8:24]), IPv6Address(packet[24:40])
    fields |= {
        "class and label": packet[:4].hex(),
        "length": str(end - _IPV6_HEADER),
        "ttl": str(packet[7]),
        "source": str(source),
        "destination": str(destination),
    }
    segment, trailer = packet[_IPV6_HEADER:end], packet[end:]
    return _parse_segment(fields, (), source, destination, packet[6], segment, trailer)


def _parse_segment(
    fields: dict[str, str],
    wrong: tuple[str, ...],
    source: IPAddress,
    destination: IPAddress,
    protocol: int,
    segment: bytes,
    trailer: bytes,
) -> Parsed:
    fields["protocol"] = str(protocol)
    if protocol in (TCP, UDP):
        fields |= {
            "source port": str(int.from_bytes(segment[:2], "big")),
            "destination port": str(int.from_bytes(segment[2:4], "big")),
        }
    elif protocol in (ICMP, ICMPV6):
        fields |= {"type": str(segment[0]), "identifier": str(int.from_bytes(segment[4:6], "big"))}
    at = _CHECKSUM_AT.get(protocol)
    if at is not None and len(segment) >= 8:
        stored = segment[at : at + 2]
        fields["checksum"] = stored.hex()
        left_out = protocol == UDP and source.version == 4 and stored == b"\0\0"
        if not left_out and checksum(_covered(source, destination, protocol, segment)):
            wrong = (*wrong, "transport")
    fields |= {"segment": segment.hex(), "trailer": trailer.hex()}
    return Parsed(fields=fields, wrong=wrong)


def difference(expected: bytes, actual: bytes) -> str:
    """Say which fields of two frames differ, and show both in hexadecimal; "" when they are equal."""
    if expected == actual:
        return ""
    wanted, found = parse(expected).fields, parse(actual).fields
    names = dict.fromkeys((*wanted, *found))
    lines = [
        f"{name}: expected {wanted.get(name, '-')}, got {found.get(name, '-')}"
        for name in names
        if wanted.get(name) != found.get(name)
    ]
    return "\n".join(("the packets differ", *lines, f"expected {expected.hex()}", f"got      {actual.hex()}"))
