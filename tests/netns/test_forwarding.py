# SPDX-License-Identifier: Apache-2.0
"""How packets are forwarded: routes, TTL, neighbours, interfaces that come and go."""

import socket
from functools import partial

import pytest

from tests.support.lab import wait_for
from tests.support.lab_star import PORT, SERVERS4, SERVERS6, Star, take_frames
from tests.support.traffic import ask, digest_of, download

pytestmark = pytest.mark.must_run
VIP4, VIP6 = "20.20.20.1", "2001::1"
FAMILIES = [(VIP4, SERVERS4[0]), (VIP6, SERVERS6[0])]
by_family = pytest.mark.parametrize(("vip", "server"), FAMILIES, ids=["ipv4", "ipv6"])


@by_family
def test_what_is_no_service_is_routed_as_ever(star: Star, vip: str, server: str) -> None:
    """Through the load balancer, client address kept, also in bulk and beside a service."""
    star.lb.create(vip, f"--tcp=2020:{PORT}", [f"{server}:1"])
    client = "3ffe::1" if ":" in server else "10.10.10.1"

    assert star.ask(server, PORT, source_port=6001).port == 6001
    assert star.ask_datagram(server, PORT, b"x" * 1400).client == client
    assert star.client.call(download, server, PORT, 5 << 20) == digest_of(5 << 20)
    assert "1 received" in star.client.run("ping", "-c1", "-W2", server)


@by_family
@pytest.mark.parametrize("through", ["service", "route"])
def test_each_packet_lives_one_hop_less(star: Star, vip: str, server: str, through: str) -> None:
    """The TTL or hop limit is one lower at the server; what has none left does not arrive."""
    star.lb.create(vip, f"--udp=2020:{PORT}", [f"{server}:1"])
    host, port = (vip, 2020) if through == "service" else (server, PORT)

    assert star.ask_datagram(host, port, ttl=9).ttl == 8
    assert star.ask_datagram(host, port, ttl=2).ttl == 1
    with pytest.raises(OSError):
        star.client.call(partial(star.ask_datagram, host, port, ttl=1))


@by_family
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_the_first_packet_to_an_unresolved_neighbour_arrives(star: Star, vip: str, server: str, protocol: str) -> None:
    """One SYN or one datagram, no neighbour known on either side; nothing leaks un-NATed."""
    star.lb.create(vip, f"--{protocol}=2020:{PORT}", [f"{server}:1"])
    star.client.run("ping", "-c1", "-W2", "3ffe::2" if ":" in vip else "10.10.10.254")
    leaks = star.client.call(frames_from, server)
    star.lb.namespace.run("ip", "neigh", "flush", "all")

    with leaks:
        # A lost SYN would be sent again after one second, a lost datagram never.
        answer = star.ask(vip, 2020, timeout=0.9) if protocol == "tcp" else star.ask_datagram(vip, 2020)
        assert answer.server == "server1"
        with pytest.raises(BlockingIOError):
            drop_until_leak(leaks, server)


def frames_from(_server: str) -> socket.socket:
    """Open a socket that sees what comes in on eth0."""
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.ntohs(0x0003))
    raw.bind(("eth0", 0))
    raw.setblocking(False)
    return raw


def drop_until_leak(raw: socket.socket, server: str) -> bytes:
    """Return the first packet with the server's own address as source; BlockingIOError without one."""
    family, where = (socket.AF_INET6, slice(8, 24)) if ":" in server else (socket.AF_INET, slice(12, 16))
    source = socket.inet_pton(family, server)
    while True:
        packet = raw.recv(2048)
        if packet[where] == source:
            return packet


def test_an_interface_added_while_running_serves_too(star: Star) -> None:
    """A client on a new link, and after that link is gone all else goes on."""
    star.lb.create(VIP4, f"--tcp=2020:{PORT}", [f"{SERVERS4[0]}:1"])
    late, lb = star.lab.namespace("late"), star.lb.namespace
    star.lab.link(lb, "elate", late, "eth0")
    take_frames(late)
    lb.ip("addr add 12.12.12.254/24 dev elate")
    late.ip("addr add 12.12.12.1/24 dev eth0", "route add default via 12.12.12.254")

    def answered() -> str:
        try:
            return late.call(ask, VIP4, 2020, timeout=0.5).client
        except OSError:
            return ""

    assert wait_for(answered, what="a client on the new interface is served") == "12.12.12.1"
    assert any(row[1] == "elate" for row in star.lb.rows("get port"))

    lb.ip("link del elate")

    wait_for(lambda: not any(row[1] == "elate" for row in star.lb.rows("get port")), what="port gone")
    assert star.names(VIP4, 2020, 2) == ["server1", "server1"]
    late.remove()


def test_a_route_that_changes_turns_live_flows(star: Star) -> None:
    """A server that moves to another link is followed by a connection that was there before."""
    moved = "35.35.35.1"
    for number in (0, 1):
        star.servers[number].ip(f"addr replace {moved}/32 dev lo")
    star.lb.namespace.ip(f"route replace {moved}/32 via {SERVERS4[0]}")
    star.lb.create(VIP4, f"--udp=2020:{PORT}", [f"{moved}:1"])
    assert star.names(VIP4, 2020, 2, udp=True, source_port=6100) == ["server1"] * 2

    star.lb.namespace.ip(f"route replace {moved}/32 via {SERVERS4[1]}")

    wait_for(lambda: star.names(VIP4, 2020, 1, udp=True, source_port=6100) == ["server2"], what="route followed")
