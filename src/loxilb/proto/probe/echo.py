# SPDX-License-Identifier: Apache-2.0
"""ICMP echo (RFC 792) and ICMPv6 echo (RFC 4443 section 4): one request, and which request a reply answers."""

import struct

from loxilb.proto.checksum import checksum

_HEADER = struct.Struct("!BBHHH")
_REQUEST = {4: 8, 6: 128}
_REPLY = {4: 0, 6: 129}
_PAYLOAD = bytes(range(92))
REPLY_TYPE = _REPLY


def echo_request(version: int, identifier: int, sequence: int) -> bytes:
    """Return an echo request of 100 bytes; the checksum of version 6 covers addresses and is left to the kernel."""
    packet = _HEADER.pack(_REQUEST[version], 0, 0, identifier, sequence) + _PAYLOAD
    if version == 6:
        return packet
    return packet[:2] + struct.pack("!H", checksum(packet)) + packet[4:]


def echo_reply(version: int, packet: bytes) -> tuple[int, int] | None:
    """Return identifier and sequence of an echo reply as a raw socket gets it; None for anything else.

    A raw IPv4 socket gets the IP header as well, a raw IPv6 socket does not.
    """
    start = (packet[0] & 0x0F) * 4 if version == 4 and packet else 0
    if len(packet) < start + _HEADER.size:
        return None
    kind, code, _, identifier, sequence = _HEADER.unpack_from(packet, start)
    return (identifier, sequence) if (kind, code) == (_REPLY[version], 0) else None
