# SPDX-License-Identifier: Apache-2.0
"""Processes on the load balancer's own host use its services (``--localsockpolicy``)."""

import errno
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest

from loxilb.kernel import abi
from loxilb.kernel.bpf import libbpf, maps
from tests.support.lab import Lab, wait_for
from tests.support.lab_star import PORT, SERVERS4, SERVERS6, Star, build, evenly, server
from tests.support.pinned import directory, opened_pin
from tests.support.traffic import Answer, ask, ask_datagram, ask_on, connection, family_of

pytestmark = pytest.mark.must_run
VIP4, VIP6 = "20.20.20.1", "2001::1"
OWN4, OWN6 = "10.10.10.254", "3ffe::2"
NAMES = ["server1", "server2", "server3"]
# What a client asks for, the service it means, and its servers: also an IPv4 address through an IPv6 socket.
FORMS = {
    "ipv4": (VIP4, VIP4, SERVERS4),
    "ipv6": (VIP6, VIP6, SERVERS6),
    "mapped": (f"::ffff:{VIP4}", VIP4, SERVERS4),
}
by_form = pytest.mark.parametrize(("asked", "vip", "servers"), FORMS.values(), ids=FORMS)
by_family = pytest.mark.parametrize(("vip", "servers"), [(VIP4, SERVERS4), (VIP6, SERVERS6)], ids=["ipv4", "ipv6"])


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Star]:
    """Return a topology whose load balancer serves its own host, which runs a server too."""
    with Lab(folder=tmp_path_factory.mktemp("logs")) as lab:
        star = build(lab)
        server(lab, star.lb.namespace, "own").wait_line("serves", deadline=20)
        star.lb.start("--localsockpolicy")
        yield star


@pytest.fixture
def star(running: Star) -> Iterator[Star]:
    """Return the topology with no service in it."""
    yield running
    running.lb.clear()


def here(star: Star, work: Callable[[], Any]) -> Any:
    """Do something as a process on the load balancer's host."""
    return star.lb.namespace.call(work)


def detach(star: Star, vip: str, protocol: str, address: str) -> None:
    """Take one endpoint from a service."""
    star.lb.loxicmd(f"create lb {vip} --{protocol}=2020:{PORT} --endpoints={address}:1 --detachEP")


def counted(star: Star, reason: abi.Reason) -> int:
    """Return how often the data plane gave a reason."""

    def read() -> int:
        with opened_pin(directory().map_path("reasons")) as reasons:
            raw = maps.lookup(reasons, maps.index_key(reason), 8 * libbpf.possible_cpus())
        assert raw is not None
        return sum(memoryview(raw).cast("Q"))

    return int(here(star, read))


def datagrams(host: str) -> socket.socket:
    """Open a datagram socket that can send to ``host``."""
    sock = socket.socket(family_of(host), socket.SOCK_DGRAM)
    sock.settimeout(3)
    return sock


def exchange(sock: socket.socket, host: str, port: int = 2020) -> tuple[str, tuple[str, int]]:
    """Send a datagram to a service; returns which server answered, and from where the answer seems to be."""
    sock.sendto(b"ping", (host, port))
    data, source = sock.recvfrom(1 << 16)
    return data.split(b'"')[3].decode(), source[:2]


@pytest.mark.kernel
@pytest.mark.newer
@by_form
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_connections_from_the_host_take_turns(
    star: Star, asked: str, vip: str, servers: tuple[str, ...], protocol: str
) -> None:
    """Each server sees the host's own address towards it, and the choice is counted."""
    star.lb.create(vip, f"--{protocol}=2020:{PORT}", evenly(servers))
    before = counted(star, abi.Reason.FORWARD_SOCKET)
    one = ask if protocol == "tcp" else ask_datagram

    answers: list[Answer] = here(star, lambda: [one(asked, 2020) for _ in range(6)])

    assert [answer.server for answer in answers] == NAMES * 2
    assert [answer.client for answer in answers] == [
        address.removesuffix("1") + ("254" if vip == VIP4 else "2") for address in servers
    ] * 2
    assert counted(star, abi.Reason.FORWARD_SOCKET) == before + 6
    assert star.names(vip, 2020, 3, udp=protocol == "udp") == NAMES


@by_form
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["tcp", "udp"])
def test_a_connected_socket_names_the_service_as_its_peer(
    star: Star, asked: str, vip: str, servers: tuple[str, ...], kind: int
) -> None:
    """By getpeername and, for datagrams, by what recvfrom says; another connection is another choice."""
    protocol = "tcp" if kind == socket.SOCK_STREAM else "udp"
    star.lb.create(vip, f"--{protocol}=2020:{PORT}", evenly(servers))

    def scenario() -> None:
        with socket.socket(family_of(asked), kind) as sock:
            sock.settimeout(3)
            sock.connect((asked, 2020))
            assert sock.getpeername()[:2] == (asked, 2020)
            if protocol == "tcp":
                assert ask_on(sock).server == "server1"
                return
            sock.send(b"ping")
            assert sock.recvfrom(1 << 16)[1][:2] == (asked, 2020)
            assert [exchange(sock, asked) for _ in range(2)] == [("server1", (asked, 2020))] * 2
            sock.connect((asked, 2020))
            assert exchange(sock, asked)[0] == "server2"
            plain = "127.0.0.1" if vip == VIP4 else "::1"
            sock.connect((f"::ffff:{plain}" if asked != vip else plain, 9))
            assert sock.getpeername()[1] == 9

    here(star, scenario)


@by_form
def test_a_socket_that_only_sends_hears_from_the_service(
    star: Star, asked: str, vip: str, servers: tuple[str, ...]
) -> None:
    """It stays with one server, as a flow does; each service it uses answers under its own name."""
    star.lb.create(vip, f"--udp=2020:{PORT}", evenly(servers))
    star.lb.create(vip, f"--udp=2021:{PORT}", [f"{servers[2]}:1"])

    def scenario() -> None:
        with datagrams(asked) as sock, datagrams(asked) as other:
            for _ in range(3):
                assert exchange(sock, asked) == ("server1", (asked, 2020))
                assert exchange(other, asked) == ("server2", (asked, 2020))
                assert exchange(sock, asked, 2021) == ("server3", (asked, 2021))
            direct = servers[2] if asked == vip else f"::ffff:{servers[2]}"
            assert exchange(sock, direct, PORT) == ("server3", (direct, PORT))

    here(star, scenario)


@by_family
def test_a_socket_that_only_sends_goes_elsewhere_when_its_server_goes(
    star: Star, vip: str, servers: tuple[str, ...]
) -> None:
    """Without an error; and back to nowhere when there is none left."""
    star.lb.create(vip, f"--udp=2020:{PORT}", evenly(servers[:2]))
    sock: socket.socket = here(star, lambda: datagrams(vip))
    with sock:
        assert exchange(sock, vip)[0] == "server1"
        detach(star, vip, "udp", servers[0])
        assert exchange(sock, vip) == ("server2", (vip, 2020))
        star.lb.clear()
        star.lb.create(vip, f"--udp=2020:{PORT}", [f"{servers[2]}:1"])
        assert exchange(sock, vip) == ("server3", (vip, 2020))


@by_family
def test_connections_to_a_server_that_goes_end(star: Star, vip: str, servers: tuple[str, ...]) -> None:
    """At both ends, TCP and UDP; those to other servers stay."""
    for protocol in ("tcp", "udp"):
        star.lb.create(vip, f"--{protocol}=2020:{PORT}", evenly(servers))
    with ExitStack() as stack:

        def opened() -> list[socket.socket]:
            made = [stack.enter_context(connection(vip, 2020)) for _ in range(3)]
            made += [stack.enter_context(datagrams(vip)) for _ in range(3)]
            for sock in made[3:]:
                sock.connect((vip, 2020))
            return made

        sockets: list[socket.socket] = here(star, opened)
        assert [ask_on(sock).server for sock in sockets[:3]] == NAMES
        detach(star, vip, "tcp", servers[1])
        detach(star, vip, "udp", servers[1])

        with pytest.raises(ConnectionAbortedError):
            sockets[1].recv(1)
        with pytest.raises(ConnectionAbortedError):
            sockets[4].recv(1)
        established = f"ss -Htn state established sport = :{PORT} src [{servers[1]}]".split()
        wait_for(lambda: not star.servers[1].run(*established), what="reset at the server")
        assert [ask_on(sock).server for sock in (sockets[0], sockets[2])] == ["server1", "server3"]
        for sock, name in ((sockets[3], "server1"), (sockets[5], "server3")):
            sock.send(b"ping")
            assert name.encode() in sock.recv(1 << 16)


def failure(work: Callable[[], object]) -> int | None:
    """Return the error number of what has to fail."""
    with pytest.raises(OSError) as caught:
        work()
    return caught.value.errno


@by_form
def test_a_service_without_a_live_endpoint_refuses(star: Star, asked: str, vip: str, servers: tuple[str, ...]) -> None:
    """At once and counted, connect and sendto alike."""
    for protocol in ("tcp", "udp"):
        star.lb.create(vip, f"--{protocol}=2020:{PORT} --select=priority", [f"{servers[0]}:0"])
    before = counted(star, abi.Reason.DROP_NO_ENDPOINT)

    def scenario() -> list[int | None]:
        with datagrams(asked) as sock:
            return [failure(lambda: ask(asked, 2020)), failure(lambda: sock.sendto(b"ping", (asked, 2020)))]

    assert here(star, scenario) == [errno.ECONNREFUSED] * 2
    assert counted(star, abi.Reason.DROP_NO_ENDPOINT) == before + 2


@by_family
def test_allowed_sources_mean_the_address_a_socket_is_bound_to(star: Star, vip: str, servers: tuple[str, ...]) -> None:
    """A socket bound to none counts as the service's own address, the kernel's choice towards an address of its own."""
    own = OWN4 if vip == VIP4 else OWN6
    length = 32 if vip == VIP4 else 128
    for port, allowed in ((2020, own), (2021, vip)):
        star.lb.create(vip, f"--tcp={port}:{PORT} --sources={allowed}/{length}", evenly(servers[:1]))
        star.lb.create(vip, f"--udp={port}:{PORT} --sources={allowed}/{length}", evenly(servers[:1]))
    before = counted(star, abi.Reason.DROP_SOURCE)

    def asked(port: int, source: str) -> list[str | int | None]:
        def over_tcp() -> str:
            with connection(vip, port, source=source) as sock:
                return ask_on(sock).server

        def over_udp() -> str:
            with datagrams(vip) as sock:
                sock.bind((source, 0))
                return exchange(sock, vip, port)[0]

        if (port == 2020) == (source == own):
            return [over_tcp(), over_udp()]
        return [failure(over_tcp), failure(over_udp)]

    assert here(star, lambda: [asked(port, source) for port in (2020, 2021) for source in (own, "")]) == [
        ["server1"] * 2,
        [errno.EPERM] * 2,
        [errno.EPERM] * 2,
        ["server1"] * 2,
    ]
    assert counted(star, abi.Reason.DROP_SOURCE) == before + 4


@by_family
def test_hash_is_of_what_the_socket_is_bound_to(star: Star, vip: str, servers: tuple[str, ...]) -> None:
    """The same address and port choose the same server, of any socket; others are spread."""
    own = OWN4 if vip == VIP4 else OWN6
    star.lb.create(vip, f"--tcp=2020:{PORT} --select=hash", evenly(servers))

    def asked(port: int) -> str:
        with connection(vip, 2020, source=own, source_port=port) as sock:
            return ask_on(sock).server

    fixed = here(star, lambda: [asked(43001) for _ in range(4)])
    assert len(set(fixed)) == 1
    assert set(here(star, lambda: [asked(port) for port in range(43002, 43030)])) == set(NAMES)
    assert set(here(star, lambda: [ask(vip, 2020).server for _ in range(40)])) == set(NAMES)


@by_family
def test_persist_takes_the_host_for_one_client(star: Star, vip: str, servers: tuple[str, ...]) -> None:
    """However many sockets it opens, bound to no address."""
    star.lb.create(vip, f"--tcp=2020:{PORT} --select=persist", evenly(servers))

    assert len(set(here(star, lambda: [ask(vip, 2020).server for _ in range(5)]))) == 1


@by_family
def test_lc_counts_connections_from_the_host_until_they_close(star: Star, vip: str, servers: tuple[str, ...]) -> None:
    """Beside those of other clients; a socket that connects again leaves its first server."""
    star.lb.create(vip, f"--udp=2020:{PORT} --select=lc", evenly(servers))
    star.lb.create(vip, f"--tcp=2020:{PORT} --select=lc", evenly(servers))

    def scenario() -> None:
        assert [ask(vip, 2020).server for _ in range(4)] == ["server1"] * 4
        with ExitStack() as stack:
            held = [stack.enter_context(connection(vip, 2020)) for _ in range(4)]
            assert [ask_on(sock).server for sock in held] == [*NAMES, "server1"]
            assert ask(vip, 2020).server == "server2"
        assert ask(vip, 2020).server == "server1"
        with datagrams(vip) as sock:
            for _ in range(3):
                sock.connect((vip, 2020))
                assert exchange(sock, vip)[0] == "server1"

    here(star, scenario)
    with star.client.call(lambda: socket.create_connection((vip, 2020), timeout=3)) as sock:
        assert ask_on(sock).server == "server1"
        assert here(star, lambda: ask(vip, 2020).server) == "server2"


@by_family
def test_an_endpoint_may_be_a_service_or_this_host(star: Star, vip: str, servers: tuple[str, ...]) -> None:
    """A service behind a service is followed, a ring of them refused; a server of this host is reached."""
    own = OWN4 if vip == VIP4 else OWN6
    second, third, fourth = (vip.removesuffix("1") + number for number in "234")
    for protocol, one in (("tcp", ask), ("udp", ask_datagram)):
        star.lb.create(vip, f"--{protocol}=2020:2021", [f"{second}:1"])
        star.lb.create(second, f"--{protocol}=2021:{PORT}", evenly(servers))
        star.lb.create(own, f"--{protocol}=2020:{PORT}", [f"{own}:1"])
        star.lb.create(third, f"--{protocol}=2020:2020", [f"{fourth}:1"])
        star.lb.create(fourth, f"--{protocol}=2020:2020", [f"{third}:1"])
        star.lb.create(second, f"--{protocol}={PORT}:{PORT}", [f"{second}:1"])

        def asked(host: str, port: int, one: Callable[..., Answer] = one) -> str:
            return str(here(star, lambda: one(host, port).server))

        assert [asked(vip, 2020) for _ in range(3)] == NAMES
        assert asked(own, 2020) == asked(second, PORT) == "own"
        assert failure(partial(asked, third, 2020)) == errno.ECONNREFUSED


@by_family
def test_every_mode_directs_the_socket(star: Star, vip: str, servers: tuple[str, ...]) -> None:
    """There is no packet to rewrite, so they are alike."""
    for number, mode in enumerate(("onearm", "fullnat", "dsr")):
        port = PORT if mode == "dsr" else 2020 + number
        selection = "--select=hash" if mode == "dsr" else ""
        star.lb.create(vip, f"--tcp={port}:{PORT} --mode={mode} {selection}", evenly(servers[1:2]))

    ports = (2020, 2021, PORT)
    assert here(star, lambda: [ask(vip, port).server for port in ports]) == ["server2"] * 3


def test_no_flow_is_kept_for_them(star: Star) -> None:
    """What needs no translation is not in the table of connections."""
    star.lb.create(VIP4, f"--tcp=2020:{PORT}", evenly(SERVERS4))
    held: socket.socket = here(star, lambda: socket.create_connection((VIP4, 2020), timeout=3))
    with held:
        assert ask_on(held).server == "server1"
        assert [row for row in star.lb.rows("get ct")[1:] if VIP4 in row] == []
