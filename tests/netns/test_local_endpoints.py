# SPDX-License-Identifier: Apache-2.0
"""An endpoint on the load balancer's own host serves clients from outside."""

import socket
from collections.abc import Iterator

import pytest

from loxilb.kernel.bpf import attach, pins
from tests.support.icmp_errors import IcmpError, ask_for_error
from tests.support.lab import wait_for
from tests.support.lab_star import PORT, SERVERS4, SERVERS6, Star, server
from tests.support.traffic import ask_datagram, ask_on, connection, digest_of, download, upload

pytestmark = pytest.mark.must_run
VIP4, VIP6 = "20.20.20.1", "2001::1"
OWN = {VIP4: "10.10.10.254", VIP6: "3ffe::2"}
CLIENT = {VIP4: "10.10.10.1", VIP6: "3ffe::1"}
FIRST = {VIP4: SERVERS4[0], VIP6: SERVERS6[0]}
BULK = 4 << 20
by_family = pytest.mark.parametrize("vip", [VIP4, VIP6], ids=["ipv4", "ipv6"])
by_mode = pytest.mark.parametrize("mode", ["default", "onearm", "fullnat"])


@pytest.fixture(scope="module")
def hosting(running_star: Star) -> Star:
    """Return the topology with a server on the load balancer's host."""
    server(running_star.lab, running_star.lb.namespace, "own").wait_line("serves", deadline=20)
    return running_star


@pytest.fixture
def star(hosting: Star) -> Iterator[Star]:
    """Return it with no service in it."""
    yield hosting
    hosting.lb.clear()


def egress_hooks(star: Star) -> int:
    """Return how many interfaces have the program for replies of the host."""

    def read() -> int:
        linked = sum(hook == "egress" for hook, *_ in pins.PinDirectory(pins.find_bpffs(None)).links())
        return linked + sum(attach.has_egress_clsact(index) for index, _ in socket.if_nameindex())

    return star.lb.namespace.call(read)


def serve(star: Star, vip: str, protocol: str, *endpoints: str, port: int = PORT, more: str = "") -> None:
    """Create a service."""
    star.lb.create(vip, f"--{protocol}=2020:{port} {more}", [f"{address}:1" for address in endpoints])


@by_family
@by_mode
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_the_host_answers_under_the_service_address(star: Star, vip: str, mode: str, protocol: str) -> None:
    """In turn with another server, and sees the client in every mode."""
    serve(star, vip, protocol, OWN[vip], FIRST[vip], more=f"--mode={mode}")

    def asked() -> list[tuple[str, str]]:
        if protocol == "udp":
            answers = [ask_datagram(vip, 2020) for _ in range(4)]
        else:
            answers = []
            for _ in range(4):
                with connection(vip, 2020) as sock:
                    answers.append([ask_on(sock) for _ in range(3)][-1])
        return [(answer.server, answer.client) for answer in answers]

    found = star.client.call(asked)

    assert sorted(name for name, _ in found) == ["own", "own", "server1", "server1"]
    assert {client for name, client in found if name == "own"} == {CLIENT[vip]}


@by_family
def test_bulk_goes_both_ways(star: Star, vip: str) -> None:
    """Segments that the host's offloads put together are translated as well as single ones."""
    serve(star, vip, "tcp", OWN[vip])

    def scenario() -> tuple[str, str]:
        return download(vip, 2020, BULK), upload(vip, 2020, BULK).digest

    assert star.client.call(scenario) == (digest_of(BULK),) * 2


@pytest.mark.kernel
@by_family
@pytest.mark.parametrize("size", [1400, 32_000])
def test_datagrams_of_any_size_come_back(star: Star, vip: str, size: int) -> None:
    """Also in fragments; fragments of the host that are no reply leave as they are."""
    serve(star, vip, "udp", OWN[vip])

    assert star.ask_datagram(vip, 2020, bytes(range(250)) * (size // 250)).server == "own"
    assert star.ask_datagram(OWN[vip], PORT, bytes(range(250)) * (size // 250)).server == "own"


@by_family
def test_a_closed_port_of_the_host_is_told(star: Star, vip: str) -> None:
    """Its reset and its ICMP error come from the service address."""
    for protocol in ("tcp", "udp"):
        serve(star, vip, protocol, OWN[vip], port=9)

    with pytest.raises(ConnectionRefusedError):
        star.ask(vip, 2020, timeout=0.9)
    version6 = vip == VIP6
    assert star.client.call(ask_for_error, vip, 2020) == IcmpError(
        kind=1 if version6 else 3, code=4 if version6 else 3, sender=vip, mtu=0
    )


@by_family
def test_connections_are_followed_to_their_end(star: Star, vip: str) -> None:
    """Both directions are seen: established, counted, and closed."""
    serve(star, vip, "tcp", OWN[vip])

    def state() -> set[str]:
        rows = star.lb.rows("get ct")
        return {row[rows[0].index("STATE")] for row in rows[1:]}

    sock = star.client.call(lambda: socket.create_connection((vip, 2020), timeout=3))
    with sock:
        assert ask_on(sock).server == "own"
        assert state() == {"est"}
        (row,) = star.lb.rows("get lb -o wide")[1:]
        packets = int(row[-1].partition(":")[0])
        assert packets >= 6
    wait_for(lambda: "est" not in state(), what="closed")


def test_the_program_is_attached_only_while_it_is_needed(star: Star) -> None:
    """It follows services and addresses, of the loopback too, and is there when the answer comes."""
    assert egress_hooks(star) == 0
    serve(star, VIP4, "tcp", SERVERS4[0])
    assert egress_hooks(star) == 0
    serve(star, VIP6, "tcp", OWN[VIP6])
    assert egress_hooks(star) == 4
    star.lb.loxicmd(f"delete lb {VIP6} --tcp=2020")
    assert egress_hooks(star) == 0

    serve(star, VIP6, "udp", "7ffe::7")
    assert egress_hooks(star) == 0
    star.lb.namespace.ip("addr add 7ffe::7/128 dev lo nodad")
    wait_for(lambda: egress_hooks(star) == 4, what="attached")
    assert star.ask_datagram(VIP6, 2020).server == "own"
    star.lb.namespace.ip("addr del 7ffe::7/128 dev lo")
    wait_for(lambda: egress_hooks(star) == 0, what="detached")


def test_a_service_address_is_the_hosts_own(star: Star) -> None:
    """A server of the host on the very address of the service, at another port."""
    serve(star, VIP4, "tcp", VIP4)
    assert egress_hooks(star) == 4
    assert star.ask(VIP4, 2020).server == "own"
