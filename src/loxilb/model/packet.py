# SPDX-License-Identifier: Apache-2.0
"""Single packets: one to be traced, and what a frame says of itself."""

from dataclasses import dataclass, field
from enum import IntFlag

from loxilb.errors import InvalidRequest
from loxilb.model.service import IPAddress, L4Protocol

TRACE_ERROR = "malformed-trace error"
_HIGHEST_PORT = 65_535


class TcpFlags(IntFlag):
    """Control bits of a TCP segment (RFC 9293 section 3.1)."""

    FIN = 0x01
    SYN = 0x02
    RST = 0x04
    PSH = 0x08
    ACK = 0x10
    URG = 0x20
    ECE = 0x40
    CWR = 0x80

    @property
    def letters(self) -> str:
        """The letters of those that are set, as ``SA``."""
        return "".join(letter for letter, flag in _LETTERS.items() if flag in self)


_LETTERS = {
    "S": TcpFlags.SYN,
    "F": TcpFlags.FIN,
    "R": TcpFlags.RST,
    "P": TcpFlags.PSH,
    "A": TcpFlags.ACK,
    "U": TcpFlags.URG,
    "E": TcpFlags.ECE,
    "C": TcpFlags.CWR,
}


def tcp_flags_of(letters: str) -> TcpFlags:
    """Read control bits by their letters, in any case; raises InvalidRequest."""
    flags = TcpFlags(0)
    for letter in letters.upper():
        if letter not in _LETTERS:
            known = ", ".join(_LETTERS)
            raise InvalidRequest(TRACE_ERROR, field="flags", cause=f"{letter} is no TCP flag; there are {known}")
        flags |= _LETTERS[letter]
    return flags


@dataclass(frozen=True, slots=True, kw_only=True)
class MadePacket:
    """A packet to be made up for a trace.

    For ICMP the port of the side that asks is the identifier, that of the other side 0: with ``source_port`` it is an
    echo request, with ``destination_port`` an echo reply.
    """

    protocol: L4Protocol
    source: IPAddress
    destination: IPAddress
    source_port: int = 0
    destination_port: int = 0
    flags: TcpFlags = field(default=TcpFlags.SYN)

    def __post_init__(self) -> None:
        """Raise InvalidRequest where there is no such packet."""
        if self.protocol is L4Protocol.SCTP:
            raise InvalidRequest(TRACE_ERROR, field="protocol", cause="tcp, udp and icmp can be traced")
        if self.source.version != self.destination.version:
            raise InvalidRequest(TRACE_ERROR, field="destinationIP", cause="not of the IP version of sourceIP")
        for name, port in (("sourcePort", self.source_port), ("destinationPort", self.destination_port)):
            if not 0 <= port <= _HIGHEST_PORT:
                raise InvalidRequest(TRACE_ERROR, field=name, cause=f"{port} is not within 1 to {_HIGHEST_PORT}")
            if port == 0 and self.protocol is not L4Protocol.ICMP:
                raise InvalidRequest(TRACE_ERROR, field=name, cause=f"{self.protocol.value} needs a port")
        if self.protocol is L4Protocol.ICMP and self.source_port and self.destination_port:
            raise InvalidRequest(
                TRACE_ERROR, field="destinationPort", cause="an echo has one identifier: of the side that asks"
            )

    @property
    def number(self) -> int:
        """The IANA number of the protocol."""
        return self.protocol.number(self.source.version)

    @property
    def is_echo_reply(self) -> bool:
        """Whether it is the answer to an echo request."""
        return self.protocol is L4Protocol.ICMP and self.destination_port != 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Headers:
    """What a frame says of itself, as far as it can be read.

    ``protocol`` is the IANA number, None for what is not IP. Ports are host order, None where there are none; for ICMP
    echo the identifier is that of the side that asks, and the other port is None. ``flags`` are None but for TCP.
    """

    source_mac: bytes
    destination_mac: bytes
    protocol: int | None = None
    source: IPAddress | None = None
    destination: IPAddress | None = None
    source_port: int | None = None
    destination_port: int | None = None
    ttl: int = 0
    flags: TcpFlags | None = None
