# SPDX-License-Identifier: Apache-2.0
"""Headers that the kernel keeps out of direct reach: of a large frame only the Ethernet header is in place."""

import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address

import pytest

from tests.support.lab import Lab
from tests.support.lab_star import PORT, SERVERS4, SERVERS6, Star, build
from tests.support.packets import FRAGMENT, UDP, Packet, Udp, finished, ipv4, ipv6

pytestmark = pytest.mark.must_run
VIPS, CLIENTS, SERVERS = {4: "20.20.20.1", 6: "2001::1"}, {4: "10.10.10.1", 6: "3ffe::1"}, {4: SERVERS4, 6: SERVERS6}
SIZE = 6000  # more than a page: only then does packet(7) leave the data in pages of their own
CUT = 5000
DESTINATION_OPTIONS, LENGTH = 60, 80
EXPERIMENT = 0x1E  # an option to skip where it is not known (RFC 4727, RFC 8200 section 4.2)
by_version = pytest.mark.parametrize("version", [4, 6], ids=["ipv4", "ipv6"])


@pytest.fixture(scope="module")
def wide_star(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Star]:
    """Return a topology with large frames on the way to the first server, served by TC alone."""
    with Lab(folder=tmp_path_factory.mktemp("logs")) as lab:
        star = build(lab, servers=1)
        star.client.ip("link set eth0 mtu 9000")
        star.servers[0].ip("link set eth0 mtu 9000")
        star.lb.namespace.ip("link set eclient mtu 9000", "link set eserver1 mtu 9000")
        star.lb.start("--xdp", "off")
        for version in (4, 6):
            star.lb.create(VIPS[version], f"--udp=2020:{PORT}", [f"{SERVERS[version][0]}:1"])
        yield star


def datagram(star: Star, version: int, port: int) -> Packet:
    """Return a large datagram of the client to the service, with all options that IPv4 has room for."""
    return Packet(
        dmac=star.lb.namespace.mac("eclient"),
        smac=star.client.mac("eth0"),
        source=ip_address(CLIENTS[version]),
        destination=ip_address(VIPS[version]),
        transport=Udp(sport=port, dport=2020, payload=bytes(range(250)) * (SIZE // 250)),
        options=b"\x01" * 40 if version == 4 else b"",
    )


def extended(packet: Packet, following: int, data: bytes) -> bytes:
    """Return the frame of a packet with ``data`` behind its headers: IPv4 options, or IPv6 destination options."""
    if packet.source.version == 4:
        return bytes(packet)[:14] + ipv4(packet, following, len(data)) + data
    header = bytes((following, LENGTH // 8 - 1, EXPERIMENT, LENGTH - 4)) + bytes(LENGTH - 4)
    return bytes(packet)[:14] + ipv6(packet, DESTINATION_OPTIONS, LENGTH + len(data)) + header + data


def pieces(packet: Packet) -> list[bytes]:
    """Return two fragments of a packet, both with its options."""
    segment = finished(packet.source, packet.destination, packet.transport)
    parts = [(0, segment[:CUT], 1), (CUT, segment[CUT:], 0)]
    if packet.source.version == 4:
        return [extended(replace(packet, fragment=more << 13 | at // 8), UDP, data) for at, data, more in parts]
    return [
        extended(packet, FRAGMENT, bytes((UDP, 0)) + (at | more).to_bytes(2, "big") + b"loxb" + data)
        for at, data, more in parts
    ]


def ask_by_frames(frames: list[bytes], version: int, sock: socket.socket) -> str:
    """Send frames as they are; returns which server answered to the socket."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind(("eth0", 0))
        for frame in frames:
            raw.send(frame)
    seen, _, payload = sock.recv(1 << 16).partition(b"\n")
    assert len(payload) == SIZE
    name: str = json.loads(seen)["server"]
    return name


@by_version
@pytest.mark.parametrize("fragmented", [False, True], ids=["whole", "fragments"])
def test_headers_out_of_reach_are_read(wide_star: Star, version: int, fragmented: bool) -> None:
    """The datagram is served like any other; fragments follow their first one."""

    def exchange() -> str:
        with socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind((CLIENTS[version], 0))
            sock.settimeout(3)
            packet = datagram(wide_star, version, sock.getsockname()[1])
            segment = finished(packet.source, packet.destination, packet.transport)
            return ask_by_frames(pieces(packet) if fragmented else [extended(packet, UDP, segment)], version, sock)

    assert wide_star.client.call(exchange) == "server1"
