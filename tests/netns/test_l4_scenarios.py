# SPDX-License-Identifier: Apache-2.0
"""Services without endpoints, spans of ports, and clients that are remembered, on real traffic."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address

import pytest

from tests.support.icmp_errors import ask_for_error
from tests.support.lab import Namespace
from tests.support.lab_star import PORT, SERVERS4, SERVERS6, Star, evenly
from tests.support.traffic import ask, ask_datagram, ask_on, connection

pytestmark = pytest.mark.must_run
VIP4, VIP6 = "20.20.20.1", "2001::1"
NAMES = ["server1", "server2", "server3"]
FAMILIES = [(VIP4, SERVERS4), (VIP6, SERVERS6)]
by_family = pytest.mark.parametrize(("vip", "servers"), FAMILIES, ids=["ipv4", "ipv6"])
_AT_ONCE_S = 0.9
"""Less than what passes until a SYN is sent again: the first one was answered."""


def listener(space: Namespace) -> socket.socket:
    """Open a socket that sees every frame that comes in on eth0 of a namespace."""

    def opened() -> socket.socket:
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.ntohs(0x0003))
        raw.bind(("eth0", 0))
        raw.setblocking(False)
        return raw

    return space.call(opened)


def addresses_in(raw: socket.socket) -> Iterator[str]:
    """Yield source and destination of the packets that a listener has seen."""
    while True:
        try:
            packet, (*_, kind, _, _) = raw.recvfrom(2048)
        except BlockingIOError:
            return
        places = ((8, 24), (24, 40)) if packet[0] >> 4 == 6 else ((12, 16), (16, 20))
        if kind != socket.PACKET_OUTGOING and packet[0] >> 4 in (4, 6):
            yield from (str(ip_address(packet[start:end])) for start, end in places)


@contextmanager
def nothing_for(star: Star, *addresses: str) -> Iterator[None]:
    """Check that no packet from or to these addresses comes to a server."""
    ears = [listener(server) for server in star.servers]
    try:
        yield
        seen = {address for raw in ears for address in addresses_in(raw)}
    finally:
        for raw in ears:
            raw.close()
    assert not seen & set(addresses), seen


@by_family
@pytest.mark.parametrize(
    ("mode", "why"),
    [
        ("default", "weights of zero"),
        ("default", "out of service"),
        ("onearm", "weights of zero"),
        ("fullnat", "out of service"),
    ],
)
def test_without_a_live_endpoint_nothing_gets_through(
    star: Star, vip: str, servers: tuple[str, ...], why: str, mode: str
) -> None:
    """Refused at once, and not a packet of it is seen behind, translated or not (a route would take it there)."""
    flags = "" if mode == "default" else f"--mode={mode}"
    weight = 0 if why == "weights of zero" else 1
    endpoints = [f"{server}:{weight}" for server in servers]
    for protocol in ("tcp", "udp"):
        star.lb.create(vip, f"--{protocol}=2020:{PORT} --select=priority {flags}", endpoints)
    host_states(star, servers, "red" if weight else "green")
    client = "3ffe::1" if ":" in vip else "10.10.10.1"

    with nothing_for(star, vip, client):
        for _ in range(3):
            with pytest.raises(ConnectionRefusedError):
                star.ask(vip, 2020, timeout=_AT_ONCE_S)
        began = time.monotonic()
        told = star.client.call(ask_for_error, vip, 2020)
        assert time.monotonic() - began < _AT_ONCE_S
        assert (told.sender, told.kind, told.code) == ((vip, 1, 4) if ":" in vip else (vip, 3, 3))
    host_states(star, servers, "green")


def host_states(star: Star, servers: tuple[str, ...], state: str) -> None:
    """Tell what an operator thinks of the servers."""
    for server in servers:
        star.lb.api("POST", "/config/endpointhoststate", {"hostName": server, "state": state})


def test_a_host_whose_states_change_is_followed_at_once(star: Star) -> None:
    """Yellow, red and green, of one endpoint after the other: new connections go to the green ones alone."""
    star.lb.create(VIP4, f"--tcp=2020:{PORT}", evenly(SERVERS4))

    for red, yellow in ((0, 1), (1, 2), (2, 0)):
        green = ({0, 1, 2} - {red, yellow}).pop()
        for number, state in ((red, "red"), (yellow, "yellow"), (green, "green")):
            host_states(star, SERVERS4[number : number + 1], state)
        assert set(star.names(VIP4, 2020, 4)) == {NAMES[green]}
    host_states(star, SERVERS4, "green")
    assert set(star.names(VIP4, 2020, 6)) == set(NAMES)


@by_family
def test_a_span_of_target_ports_is_an_endpoint_for_each(star: Star, vip: str, servers: tuple[str, ...]) -> None:
    """Two ports of three servers are six endpoints; a port that nobody listens on refuses, as the server does."""
    star.lb.create(vip, f"--tcp=2020:{PORT}-{PORT + 1}", evenly(servers))
    assert len(star.lb.rows("get lb -o wide")) == 1 + 6

    def outcome() -> str:
        try:
            return ask(vip, 2020, timeout=_AT_ONCE_S).server
        except ConnectionRefusedError:
            return "refused"

    seen = star.client.call(lambda: [outcome() for _ in range(12)])

    assert sorted(seen) == sorted(["refused"] * 6 + NAMES * 2)


@by_family
@pytest.mark.parametrize("mode", ["onearm", "fullnat"])
def test_a_span_of_ports_is_served_in_every_mode(star: Star, vip: str, servers: tuple[str, ...], mode: str) -> None:
    """One service for TCP and one for UDP: the turn goes on from port to port."""
    for protocol in ("tcp", "udp"):
        star.lb.create(vip, f"--{protocol}=3000-3009:{PORT} --mode={mode}", evenly(servers))

    def turns(udp: bool) -> list[str]:
        return [(ask_datagram if udp else ask)(vip, port).server for port in range(3000, 3009)]

    for udp in (False, True):
        assert star.client.call(turns, udp) == NAMES * 3
    with pytest.raises(OSError):
        star.ask(vip, 3010, timeout=0.3)


@by_family
@pytest.mark.parametrize("mode", ["default", "onearm", "fullnat"])
def test_ping_is_served_in_every_mode(star: Star, vip: str, servers: tuple[str, ...], mode: str) -> None:
    """Several echoes of one program are one flow; sizes from none to a full packet."""
    star.lb.create(vip, "--icmp" + ("" if mode == "default" else f" --mode={mode}"), evenly(servers))

    for size in (0, 56, 1400):
        shown = star.client.run("ping", "-c4", "-i0.002", "-W2", "-s", str(size), vip)
        assert "4 received" in shown
        assert "DUP" not in shown


@by_family
def test_each_service_remembers_its_own_clients(star: Star, vip: str, servers: tuple[str, ...]) -> None:
    """TCP and UDP of one address are two services, as in the original: turns of one are none of the other's."""
    for protocol in ("tcp", "udp"):
        star.lb.create(vip, f"--{protocol}=2020:{PORT} --select=persist", evenly(servers))
    one, other = ("3ffe::1", "3ffe::77/64") if ":" in vip else ("10.10.10.1", "10.10.10.77/24")
    star.client.ip(f"addr add {other} dev eth0")

    def scenario() -> list[str]:
        def by_tcp() -> str:
            with connection(vip, 2020, source=one) as sock:
                return ask_on(sock).server

        first = ask_datagram(vip, 2020, source=other.partition("/")[0]).server
        again = [[ask_datagram(vip, 2020, source=one).server, by_tcp()] for _ in range(2)]
        return [first, *again[0], *again[1]]

    seen = star.client.call(scenario)

    star.client.ip(f"addr del {other} dev eth0")
    assert seen == ["server1", "server2", "server1", "server2", "server1"]


def test_sources_of_many_services_with_many_prefixes(star: Star) -> None:
    """Forty services with fifty prefixes each, the client among those of every second one."""
    own = ["10.10.10.0/31", "11.0.0.0/8"]
    for number in range(40):
        prefixes = [f"172.{16 + number % 16}.{one}.0/24" for one in range(48)] + (own if number % 2 else [])
        star.lb.api(
            "POST",
            "/config/loadbalancer",
            {
                "serviceArguments": {"externalIP": VIP4, "port": 4000 + number, "protocol": "tcp"},
                "endpoints": [{"endpointIP": SERVERS4[0], "targetPort": PORT, "weight": 1}],
                "allowedSources": [{"prefix": prefix} for prefix in prefixes],
            },
        )

    def served(port: int, timeout: float) -> bool:
        try:
            with connection(VIP4, port, timeout=timeout):
                return True
        except TimeoutError:
            return False

    assert star.client.call(lambda: [served(port, 3) for port in range(4001, 4040, 2)]) == [True] * 20
    assert star.client.call(lambda: [served(port, 0.05) for port in range(4000, 4040, 2)]) == [False] * 20


@by_family
def test_direct_server_return_keeps_the_port(star: Star, vip: str, servers: tuple[str, ...]) -> None:
    """Refused in the original's words."""
    arguments: dict[str, object] = {"externalIP": vip, "port": PORT, "protocol": "tcp", "mode": 3, "sel": 1}

    def post(target: int, **more: object) -> None:
        endpoints = [{"endpointIP": servers[0], "targetPort": target, "weight": 1}]
        star.lb.api("POST", "/config/loadbalancer", {"serviceArguments": arguments | more, "endpoints": endpoints})

    with pytest.raises(AssertionError, match=r"400 .*malformed-service dsr-port error"):
        post(PORT + 1)
    with pytest.raises(AssertionError, match=r"400 .*Only Hash Selection criteria allowed for DSR mode"):
        post(PORT, sel=0)
    assert star.lb.api("GET", "/config/loadbalancer/all")["lbAttr"] == []
    post(PORT)
