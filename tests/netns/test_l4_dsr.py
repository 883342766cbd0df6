# SPDX-License-Identifier: Apache-2.0
"""Direct server return: servers own the service address and answer the client themselves."""

from collections import Counter
from collections.abc import Iterator

import pytest

from tests.support.icmp_errors import ask_for_error
from tests.support.lab_star import PORT, SERVERS4, SERVERS6, Star
from tests.support.traffic import ask, ask_on, connection, digest_of, download, upload

pytestmark = pytest.mark.must_run
VIP4, VIP6 = "20.20.20.1", "2001::1"
NAMES = {"server1", "server2", "server3"}
by_family = pytest.mark.parametrize(("vip", "servers"), [(VIP4, SERVERS4), (VIP6, SERVERS6)], ids=["ipv4", "ipv6"])
RULE = f"--{{}}={PORT}:{PORT} --select=hash --mode=dsr"
_VIPS = (f"{VIP4}/32", f"{VIP6}/128")


@pytest.fixture
def dsr(star: Star) -> Iterator[Star]:
    """Return the topology with the service addresses on every server's loopback, not answered for."""
    for server in star.servers:
        server.sysctl(net__ipv4__conf__all__arp_ignore=1, net__ipv4__conf__all__arp_announce=2)
        server.ip(*(f"addr add {one} dev lo" for one in _VIPS))
    yield star
    for server in star.servers:
        server.ip(*(f"addr del {one} dev lo" for one in _VIPS))


@by_family
@pytest.mark.parametrize("udp", [False, True], ids=["tcp", "udp"])
def test_one_client_port_stays_at_one_server(dsr: Star, vip: str, servers: tuple[str, ...], udp: bool) -> None:
    """Twelve connections from one port go to one server, many ports to all; each server sees the client itself."""
    dsr.lb.create(vip, RULE.format("udp" if udp else "tcp"), [f"{one}:1" for one in servers])

    same = dsr.names(vip, PORT, 12, udp=udp, source_port=55001)
    spread = [dsr.names(vip, PORT, 1, udp=udp, source_port=port)[0] for port in range(41_000, 41_040)]

    assert len(same) == 12
    assert len(set(same)) == 1
    assert set(spread) == NAMES
    assert min(Counter(spread).values()) >= 4
    seen = dsr.ask_datagram(vip, PORT, source_port=6000) if udp else dsr.ask(vip, PORT, source_port=6000)
    assert (seen.client, seen.port) == ("3ffe::1" if ":" in vip else "10.10.10.1", 6000)


@by_family
def test_a_packet_keeps_its_hop_count(dsr: Star, vip: str, servers: tuple[str, ...]) -> None:
    """The load balancer acts as a switch would: nothing of the IP packet changes."""
    dsr.lb.create(vip, RULE.format("udp"), [f"{servers[0]}:1"])

    assert dsr.ask_datagram(vip, PORT, ttl=9).ttl == 9


@by_family
def test_bulk_goes_both_ways(dsr: Star, vip: str, servers: tuple[str, ...]) -> None:
    """Segments that offloads merge or leave unfinished included."""
    dsr.lb.create(vip, RULE.format("tcp"), [f"{one}:1" for one in servers])

    assert dsr.client.call(download, vip, PORT, 5 << 20) == digest_of(5 << 20)
    assert dsr.client.call(upload, vip, PORT, 5 << 20).digest == digest_of(5 << 20)


def packets(star: Star, action: str) -> list[int]:
    """Return how many packets the TCP flows of a direction have seen."""
    header, *rows = star.lb.rows("get ct")
    act, count = header.index("ACT"), header.index("PACKETS")
    return [int(row[count]) for row in rows if row[act].startswith(action)]


def test_answers_need_not_come_by(dsr: Star) -> None:
    """Servers and client share a second network, and the way back leads through it."""
    switch = dsr.lab.namespace("switch")
    switch.ip("link add br0 type bridge", "link set br0 up")
    for number, space in enumerate((dsr.client, *dsr.servers)):
        dsr.lab.link(switch, f"p{number}", space, "eth1")
        switch.ip(f"link set p{number} master br0")
        space.ip(f"addr add 11.11.11.{number or 254}/24 dev eth1")
        space.sysctl(net__ipv4__conf__all__rp_filter=0, net__ipv4__conf__eth1__rp_filter=0)
    for server in dsr.servers:
        server.ip("route add 10.10.10.0/24 via 11.11.11.254")
    dsr.lb.create(VIP4, RULE.format("tcp"), [f"{one}:1" for one in SERVERS4])

    def scenario() -> tuple[set[str], list[int], list[int]]:
        with connection(VIP4, PORT, source_port=55001) as sock:
            first = {ask_on(sock).server for _ in range(3)}
            counted = packets(dsr, "ddsr"), packets(dsr, "sdsr")
            return first | {ask_on(sock).server}, *counted

    servers, forward, back = dsr.client.call(scenario)

    assert len(servers) == 1
    assert servers <= NAMES
    assert len(forward) == 1
    assert forward[0] >= 5
    assert back == [0]
    assert dsr.client.call(lambda: ask(VIP4, PORT, source_port=55001).server) in servers
    for server in dsr.servers:
        server.ip("route del 10.10.10.0/24")
    switch.remove()


@by_family
def test_a_server_learns_the_size_of_the_way_back(dsr: Star, vip: str, servers: tuple[str, ...]) -> None:
    """What the load balancer, its router here, says to the service's address reaches the server that asked for it."""
    dsr.lb.create(vip, RULE.format("tcp"), [f"{one}:1" for one in servers])
    for space, device in ((dsr.lb.namespace, "eclient"), (dsr.client, "eth0")):
        space.ip(f"link set {device} mtu 1300")
    for server in dsr.servers:
        server.run("ip", "-6" if ":" in vip else "-4", "route", "flush", "cache")

    fetched = [dsr.client.call(download, vip, PORT, 1 << 20) for _ in range(6)]

    for space, device in ((dsr.lb.namespace, "eclient"), (dsr.client, "eth0")):
        space.ip(f"link set {device} mtu 1500")
    assert set(fetched) == {digest_of(1 << 20)}


@by_family
def test_a_client_learns_of_a_smaller_link_to_the_server(dsr: Star, vip: str, servers: tuple[str, ...]) -> None:
    """No packet is lost in silence, though nothing but its MACs would have changed."""
    dsr.lb.create(vip, RULE.format("udp"), [f"{servers[0]}:1"])
    dsr.lb.namespace.ip("link set eserver1 mtu 1300")
    dsr.client.run("ip", "-6" if ":" in vip else "-4", "route", "flush", "cache")

    told = dsr.client.call(ask_for_error, vip, PORT, size=1400)

    dsr.lb.namespace.ip("link set eserver1 mtu 1500")
    dsr.client.run("ip", "-6" if ":" in vip else "-4", "route", "flush", "cache")
    assert (told.kind, told.code, told.mtu) == ((2, 0, 1300) if ":" in vip else (3, 4, 1300))


def test_answers_that_come_by_are_counted(dsr: Star) -> None:
    """The load balancer is the servers' router here."""
    dsr.lb.create(VIP4, RULE.format("tcp"), [f"{one}:1" for one in SERVERS4])

    def scenario() -> tuple[list[int], list[int]]:
        with connection(VIP4, PORT) as sock:
            ask_on(sock)
            return packets(dsr, "ddsr"), packets(dsr, "sdsr")

    forward, back = dsr.client.call(scenario)

    assert len(forward) == len(back) == 1
    assert forward[0] >= 3
    assert back[0] >= 2
