# SPDX-License-Identifier: Apache-2.0
"""Frames with right checksums (RFC 791, RFC 8200, RFC 9293, RFC 768)."""

import struct
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address

SYN, ACK = 0x02, 0x10
_TCP, _UDP = 6, 17
_ETHERTYPE = {4: 0x0800, 6: 0x86DD}
Address = IPv4Address | IPv6Address
_SENDER = bytes.fromhex("020000000002")


def _checksum(data: bytes) -> int:
    """Internet checksum (RFC 1071) of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One TCP segment or datagram. ``flags`` are those of TCP; ``mac`` is the receiving device's."""

    mac: bytes
    source: Address
    destination: Address
    source_port: int
    destination_port: int
    udp: bool = False
    flags: int = ACK

    def answered(self, *, mac: bytes, endpoint: Address, port: int, client: Address | None = None) -> "Frame":
        """Return the endpoint's answer before it is translated back; ``client`` is who the endpoint sees."""
        return replace(
            self,
            mac=mac,
            source=endpoint,
            source_port=port,
            destination=client or self.source,
            destination_port=self.source_port,
        )

    def _transport(self) -> bytes:
        ports = struct.pack("!HH", self.source_port, self.destination_port)
        if self.udp:
            return ports + struct.pack("!HH", 8 + 18, 0) + bytes(18)
        # Each end starts at 1, and has had nothing but the other's SYN.
        sequence, acknowledgement = 1 if self.flags & SYN else 2, 2 if self.flags & ACK else 0
        return ports + struct.pack("!IIBBHHH", sequence, acknowledgement, 0x50, self.flags, 8192, 0, 0)

    def __bytes__(self) -> bytes:
        """Return the frame. A datagram has no checksum over IPv4, and 18 bytes of payload."""
        body, number = self._transport(), _UDP if self.udp else _TCP
        addresses = self.source.packed + self.destination.packed
        if not self.udp:
            pseudo = addresses + struct.pack("!IHH", len(body), 0, number)
            body = body[:16] + struct.pack("!H", _checksum(pseudo + body)) + body[18:]
        if self.source.version == 6:
            header = struct.pack("!IHBB", 6 << 28, len(body), number, 64) + addresses
        else:
            header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0x4000, 64, number, 0) + addresses
            header = header[:10] + struct.pack("!H", _checksum(header)) + header[12:]
        return self.mac + _SENDER + struct.pack("!H", _ETHERTYPE[self.source.version]) + header + body
