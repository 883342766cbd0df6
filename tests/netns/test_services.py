# SPDX-License-Identifier: Apache-2.0
"""Services on real traffic: which server answers, and what it sees of the client."""

from collections import Counter
from functools import partial

import pytest

from tests.support.lab_star import PORT, SERVERS4, SERVERS6, Star, evenly
from tests.support.traffic import ask, ask_on, connection, digest_of, download, upload

pytestmark = pytest.mark.must_run
VIP4, VIP6 = "20.20.20.1", "2001::1"
BULK = 50 << 20
NAMES = ["server1", "server2", "server3"]
FAMILIES = [(VIP4, SERVERS4), (VIP6, SERVERS6)]


@pytest.mark.parametrize("vip", [VIP4, "10.10.10.254", "10.10.10.99", "10.10.10.3"])
def test_tcp_is_balanced_in_strict_order(star: Star, vip: str) -> None:
    """An address elsewhere, one of an interface, one in a connected subnet, one that lo has already."""
    if vip == "10.10.10.3":
        star.lb.namespace.ip(f"addr replace {vip}/32 dev lo")
    star.lb.create(vip, f"--tcp=2020:{PORT}", evenly(SERVERS4))

    assert star.names(vip, 2020, 12) == NAMES * 4


@pytest.mark.parametrize("port", [1000, 1111, 2000])
def test_a_range_of_ports_is_one_service(star: Star, port: int) -> None:
    """First, middle and last port; the ones beside are not part of it."""
    star.lb.create("20.20.20.2", f"--tcp=1000-2000:{PORT}", evenly(SERVERS4))

    assert star.names("20.20.20.2", port, 12) == NAMES * 4
    for outside in (999, 2001):
        with pytest.raises(OSError):
            star.ask("20.20.20.2", outside, timeout=0.5)


@pytest.mark.kernel
@pytest.mark.parametrize(("vip", "servers"), FAMILIES, ids=["ipv4", "ipv6"])
def test_udp_is_balanced_in_strict_order(star: Star, vip: str, servers: tuple[str, ...]) -> None:
    """Each datagram from a port of its own is a flow of its own."""
    star.lb.create(vip, f"--udp=2020:{PORT}", evenly(servers))

    assert star.names(vip, 2020, 12, udp=True) == NAMES * 4


@pytest.mark.kernel
def test_tcp_over_ipv6_is_balanced_in_strict_order(star: Star) -> None:
    """Also beside an IPv4 service of the same port."""
    star.lb.create(VIP6, f"--tcp=2020:{PORT}", evenly(SERVERS6))
    star.lb.create(VIP4, f"--tcp=2020:{PORT}", evenly(SERVERS4))

    assert star.names(VIP6, 2020, 12) == NAMES * 4
    assert star.names(VIP4, 2020, 3) == NAMES


@pytest.mark.parametrize("vip", ["3ffe::2", "3ffe::99"])
def test_a_connected_ipv6_address_serves(star: Star, vip: str) -> None:
    """The interface's own, and one that only the service has."""
    star.lb.create(vip, f"--tcp=2020:{PORT}", evenly(SERVERS6))

    assert star.names(vip, 2020, 6) == NAMES * 2


@pytest.mark.parametrize(("vip", "servers"), FAMILIES, ids=["ipv4", "ipv6"])
@pytest.mark.parametrize(
    ("mode", "seen"),
    [
        ("", ("10.10.10.1", "3ffe::1")),
        ("--mode=onearm", ("31.31.31.254", "4ffe::2")),
        ("--mode=fullnat", (VIP4, VIP6)),
    ],
    ids=["default", "onearm", "fullnat"],
)
def test_the_mode_decides_what_the_server_sees(
    star: Star, vip: str, servers: tuple[str, ...], mode: str, seen: tuple[str, str]
) -> None:
    """The client, the load balancer's address towards the server, or the service's address; TCP and UDP."""
    star.lb.create(vip, f"--tcp=2020:{PORT} {mode}", evenly(servers[:1]))
    star.lb.create(vip, f"--udp=2020:{PORT} {mode}", evenly(servers[:1]))

    clients = {star.ask(vip, 2020).client, star.ask_datagram(vip, 2020).client}

    assert clients == {seen[vip == VIP6]}


@pytest.mark.parametrize("mode", ["", "--mode=onearm", "--mode=fullnat"], ids=["default", "onearm", "fullnat"])
@pytest.mark.parametrize(("vip", "servers"), FAMILIES, ids=["ipv4", "ipv6"])
def test_large_transfers_arrive_whole(star: Star, vip: str, servers: tuple[str, ...], mode: str) -> None:
    """50 MB each way, compared by digest."""
    star.lb.create(vip, f"--tcp=2020:{PORT} {mode}", evenly(servers))
    expected = digest_of(BULK)

    assert star.client.call(download, vip, 2020, BULK) == expected
    assert star.client.call(upload, vip, 2020, BULK).digest == expected


@pytest.mark.parametrize("mode", ["onearm", "fullnat"])
def test_two_clients_with_one_source_port_to_one_server_both_work(star: Star, mode: str) -> None:
    """Rewritten to one source address they would be one connection; a port is found for the second."""
    star.client.ip("addr replace 10.10.10.2/24 dev eth0")
    star.lb.create(VIP4, f"--tcp=2020:{PORT} --mode={mode}", evenly(SERVERS4[:1]))

    def both() -> list[tuple[str, int]]:
        one = partial(connection, VIP4, 2020, source_port=5555)
        with one(source="10.10.10.1") as first, one(source="10.10.10.2") as second:
            answers = [ask_on(sock) for sock in (first, second, first, second)]
        return [(answer.client, answer.port) for answer in answers]

    first, second, *again = star.client.call(both)

    assert again == [first, second]
    assert first[0] == second[0]
    assert first[1] == 5555 != second[1]


def test_many_clients_at_once_are_shared_evenly(star: Star) -> None:
    """Sixteen at a time; strict order gives each server the same number."""
    star.lb.create(VIP4, f"--tcp=2020:{PORT}", evenly(SERVERS4))

    assert Counter(star.crowd(VIP4, 2020, 300)) == dict.fromkeys(NAMES, 100)


def test_hash_sends_one_source_port_to_one_server(star: Star) -> None:
    """Twelve connections with one port go to one server; many ports go to all."""
    star.lb.create(VIP4, f"--tcp=2020:{PORT} --select=hash", evenly(SERVERS4))

    same = star.names(VIP4, 2020, 12, source_port=55001)
    spread = star.client.call(lambda: [ask(VIP4, 2020, source_port=port).server for port in range(41000, 41060)])

    assert same == [same[0]] * 12
    assert set(spread) == set(NAMES)
    assert min(Counter(spread).values()) >= 8


@pytest.mark.parametrize(
    ("weights", "shares"), [((80, 20), (80, 20)), ((40, 40, 20), (40, 40, 20)), ((5, 0, 1), (83, 0, 17))]
)
def test_weights_are_kept_exactly(star: Star, weights: tuple[int, ...], shares: tuple[int, ...]) -> None:
    """Over 100 connections, within one."""
    endpoints = [f"{address}:{weight}" for address, weight in zip(SERVERS4, weights, strict=False)]
    star.lb.create(VIP4, f"--tcp=2020:{PORT} --select=priority", endpoints)

    got = Counter(star.names(VIP4, 2020, 100))

    assert sum(got.values()) == 100
    for name, share in zip(NAMES, shares, strict=False):
        assert abs(got[name] - share) <= 1, got


@pytest.mark.parametrize(("vip", "servers"), FAMILIES, ids=["ipv4", "ipv6"])
def test_ping_is_balanced(star: Star, vip: str, servers: tuple[str, ...]) -> None:
    """Three pings from three programs are three flows, and every server answers one."""
    star.lb.create(vip, "--icmp", evenly(servers))
    before = [echoes(star, number) for number in range(3)]

    for _ in range(3):
        star.client.run("ping", "-c1", "-W2", vip)

    assert [echoes(star, number) - before[number] for number in range(3)] == [1, 1, 1]


def echoes(star: Star, number: int) -> int:
    """Return how many echo requests a server's kernel has seen, both versions."""
    text = star.servers[number].run("nstat", "-asz", "IcmpInEchos", "Icmp6InEchos")
    return sum(int(float(line.split()[1])) for line in text.splitlines() if line.startswith("Icmp"))


def test_endpoints_that_come_and_go_change_who_answers(star: Star) -> None:
    """One, two, one: after each change new connections follow at once."""
    star.lb.create(VIP4, f"--tcp=2020:{PORT}", evenly(SERVERS4[:1]))
    assert star.names(VIP4, 2020, 2) == ["server1"] * 2

    star.lb.loxicmd(f"create lb {VIP4} --tcp=2020:{PORT} --endpoints={SERVERS4[1]}:1 --attachEP")
    assert Counter(star.names(VIP4, 2020, 6)) == {"server1": 3, "server2": 3}

    star.lb.loxicmd(f"create lb {VIP4} --tcp=2020:{PORT} --endpoints={SERVERS4[0]}:1 --detachEP")
    assert star.names(VIP4, 2020, 2) == ["server2"] * 2


def test_a_deleted_service_serves_no_more(star: Star) -> None:
    """The address is given up, and what comes for it is refused."""
    star.lb.create(VIP4, f"--tcp=2020:{PORT}", evenly(SERVERS4))
    assert star.names(VIP4, 2020, 1) == ["server1"]

    star.lb.loxicmd(f"delete lb {VIP4} --tcp=2020")

    with pytest.raises(OSError):
        star.ask(VIP4, 2020, timeout=0.5)
    assert VIP4 not in star.lb.namespace.run("ip", "address", "show", "lo")
