# SPDX-License-Identifier: Apache-2.0
"""Frames that are made up for a trace, and what is read of any frame."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from loxilb.errors import InvalidRequest
from loxilb.model import L4Protocol
from loxilb.model.packet import Headers, MadePacket, TcpFlags, tcp_flags_of
from loxilb.proto.frame import make_frame, read_frame
from tests.support import packets
from tests.support.packets import ACK, SYN, Echo, Packet, Tcp, Udp, parse

TO, FROM = bytes((2, 0, 0, 0, 0, 9)), bytes((2, 0, 0, 0, 0, 1))
ENDS = {4: (ip_address("10.10.10.1"), ip_address("20.20.20.1")), 6: (ip_address("3ffe::1"), ip_address("2001::1"))}
by_version = pytest.mark.parametrize("version", [4, 6])


def made(version: int, protocol: L4Protocol, **more: object) -> MadePacket:
    """Return a packet; ports as fit the protocol."""
    source, destination = ENDS[version]
    ports = {"source_port": 7} if protocol is L4Protocol.ICMP else {"source_port": 4000, "destination_port": 80}
    return MadePacket(protocol=protocol, source=source, destination=destination, **{**ports, **more})  # type: ignore[arg-type]


@by_version
@pytest.mark.parametrize("protocol", [L4Protocol.TCP, L4Protocol.UDP, L4Protocol.ICMP])
def test_a_made_frame_is_whole_and_reads_back(version: int, protocol: L4Protocol) -> None:
    """Every checksum is right, and the headers are those that were asked for."""
    packet = made(version, protocol)
    frame = make_frame(packet, to_mac=TO, from_mac=FROM)

    assert parse(frame).wrong == ()
    assert read_frame(frame) == Headers(
        source_mac=FROM,
        destination_mac=TO,
        protocol=packet.number,
        source=packet.source,
        destination=packet.destination,
        source_port=packet.source_port,
        destination_port=packet.destination_port or None,
        ttl=64,
        flags=TcpFlags.SYN if protocol is L4Protocol.TCP else None,
    )


@by_version
def test_a_segment_is_the_one_that_another_builder_makes(version: int) -> None:
    """Byte by byte, but for the identification and the fragment bit of IPv4."""
    source, destination = ENDS[version]
    transport = Tcp(sport=4000, dport=80, flags=SYN | ACK, sequence=5, acknowledgement=6, window=0xFFFF)
    addresses = {"dmac": TO, "smac": FROM, "source": source, "destination": destination}
    expected = bytes(Packet(**addresses, transport=transport, identification=0, fragment=0x4000))  # type: ignore[arg-type]

    flags = TcpFlags.SYN | TcpFlags.ACK
    frame = make_frame(
        made(version, L4Protocol.TCP, flags=flags), to_mac=TO, from_mac=FROM, sequence=5, acknowledgement=6
    )

    assert frame == expected


@by_version
def test_an_echo_reply_has_the_identifier_of_who_asked(version: int) -> None:
    """On the side of the destination."""
    reply = made(version, L4Protocol.ICMP, source_port=0, destination_port=9)
    found = read_frame(make_frame(reply, to_mac=TO, from_mac=FROM))

    assert (found.source_port, found.destination_port) == (None, 9)


@by_version
def test_what_is_no_whole_segment_is_read_as_far_as_it_goes(version: int) -> None:
    """Later fragments and cut frames have no ports, a protocol that is not known has none either."""
    source, destination = ENDS[version]
    whole = bytes(Packet(source=source, destination=destination, transport=Udp(sport=1, dport=2, payload=b"x" * 64)))
    head = 34 if version == 4 else 54

    assert read_frame(whole[:head]).source == source
    assert read_frame(whole[:head]).source_port is None
    assert read_frame(whole[: head + 8]).destination_port == 2
    assert read_frame(whole[:20]) == replace(read_frame(whole[:14]))
    assert read_frame(whole[:14]).protocol is None
    other = bytearray(whole)
    other[23 if version == 4 else 20] = packets.SCTP
    assert (read_frame(bytes(other)).protocol, read_frame(bytes(other)).source_port) == (packets.SCTP, None)


def test_later_fragments_have_no_ports() -> None:
    """What is behind the header is data."""
    source, destination = ENDS[4]
    transport = Udp(sport=1, dport=2, payload=b"x" * 64)
    first, later = (
        bytes(Packet(source=source, destination=destination, transport=transport, fragment=fragment))
        for fragment in (0x2000, 0x2004)
    )

    assert (read_frame(first).source_port, read_frame(later).source_port) == (1, None)
    source6, destination6 = ENDS[6]
    plain = bytes(Packet(source=source6, destination=destination6, transport=transport))
    for offset, expected in ((0, 1), (8, None)):
        header = bytes((packets.UDP, 0)) + (offset << 3 | 1).to_bytes(2, "big") + bytes(4)
        cut = plain[:20] + bytes((packets.FRAGMENT,)) + plain[21:54] + header + plain[54:]
        assert read_frame(cut).source_port == expected


def test_extension_headers_are_stepped_over() -> None:
    """To the ports behind them."""
    source, destination = ENDS[6]
    plain = bytes(Packet(source=source, destination=destination, transport=Tcp(sport=5, dport=6)))
    options = bytes((packets.TCP, 1)) + bytes(14)
    extended = plain[:20] + bytes((60,)) + plain[21:54] + options + plain[54:]

    found = read_frame(extended)
    assert (found.protocol, found.source_port, found.destination_port) == (packets.TCP, 5, 6)


def test_other_messages_of_icmp_have_no_identifier() -> None:
    """Only an echo is between two sides."""
    source, destination = ENDS[4]
    frame = bytearray(bytes(Packet(source=source, destination=destination, transport=Echo(identifier=5, version=4))))
    frame[34] = 3

    assert read_frame(bytes(frame)).source_port is None


@pytest.mark.parametrize(("letters", "flags"), [("S", 2), ("sa", 18), ("FA", 17), ("RPUEC", 236), ("", 0)])
def test_flags_are_read_by_letter(letters: str, flags: int) -> None:
    """In any case, and written back."""
    assert tcp_flags_of(letters) == flags
    assert tcp_flags_of(tcp_flags_of(letters).letters) == flags


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("protocol", {"protocol": L4Protocol.SCTP}),
        ("destinationIP", {"destination": ENDS[6][1]}),
        ("sourcePort", {"source_port": 0}),
        ("destinationPort", {"destination_port": 65536}),
        ("destinationPort", {"protocol": L4Protocol.ICMP}),
    ],
)
def test_a_packet_that_cannot_be_is_refused_by_field(field: str, change: dict[str, object]) -> None:
    """The wire name of what is wrong."""
    with pytest.raises(InvalidRequest) as refused:
        replace(made(4, L4Protocol.TCP), **change)  # type: ignore[arg-type]

    assert refused.value.field == field
    with pytest.raises(InvalidRequest, match="X is no TCP flag"):
        tcp_flags_of("SX")
