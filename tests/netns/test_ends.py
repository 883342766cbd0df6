# SPDX-License-Identifier: Apache-2.0
"""Connections that end before their time: both ends are told by a reset, and nothing goes astray."""

import resource
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import pytest

from tests.support.lab import wait_for
from tests.support.lab_star import PORT, SERVERS4, SERVERS6, Star, evenly
from tests.support.traffic import family_of

pytestmark = pytest.mark.must_run
VIP4, VIP6 = "20.20.20.1", "2001::1"
TARGET = 9090
by_family = pytest.mark.parametrize(("vip", "servers"), [(VIP4, SERVERS4), (VIP6, SERVERS6)], ids=["ipv4", "ipv6"])
by_mode = pytest.mark.parametrize("mode", ["default", "onearm", "fullnat"])
_PATIENCE_S = 30.0
"""Much less than the four minutes after which an idle connection ends by itself."""
_CROWD = 2_000


@dataclass
class Ends:
    """Listening sockets at every server, and the connections made through them."""

    star: Star
    stack: ExitStack
    listeners: list[socket.socket] = field(default_factory=list)

    def connect(self, vip: str, server: int = 0, port: int = 2020) -> tuple[socket.socket, socket.socket]:
        """Connect through the service; returns both ends, that of the client first."""
        sock = self.stack.enter_context(self.star.client.call(socket.socket, family_of(vip)))
        sock.settimeout(_PATIENCE_S)
        sock.connect((vip, port))
        return sock, self.stack.enter_context(self._accept(server))

    def _accept(self, server: int) -> socket.socket:
        """Return the next connection that is no probe: those come from ports below 1024."""
        while True:
            accepted, (_, port, *_) = self.listeners[server].accept()
            if port >= 1024:
                return accepted
            accepted.close()


@contextmanager
def many_descriptors() -> Iterator[None]:
    """Let this process open as many files as it may: a crowd takes two for each connection."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def ends(star: Star) -> Iterator[Ends]:
    """Return the servers' listening sockets."""
    with many_descriptors(), ExitStack() as stack:
        made = Ends(star, stack)
        for number in star.servers:
            listener = number.call(
                socket.create_server, ("::", TARGET), family=socket.AF_INET6, dualstack_ipv6=True, backlog=4096
            )
            listener.settimeout(_PATIENCE_S)
            made.listeners.append(stack.enter_context(listener))
        yield made


def service(star: Star, vip: str, servers: list[str] | tuple[str, ...], more: str = "") -> None:
    """Create a service, or replace it."""
    star.lb.create(vip, f"--tcp=2020:{TARGET} {more}", evenly(servers))


def silent(sock: socket.socket, seconds: float) -> None:
    """Check that nothing comes for some time."""
    sock.settimeout(seconds)
    with pytest.raises(TimeoutError):
        sock.recv(1)


def told(sock: socket.socket) -> None:
    """Check that a reset comes."""
    sock.settimeout(_PATIENCE_S)
    with pytest.raises(ConnectionResetError):
        sock.recv(1)


def flows(star: Star) -> list[list[str]]:
    """Return the flows as the command line shows them."""
    return star.lb.rows("get ct")[1:]


@by_family
def test_an_idle_connection_is_reset_at_both_ends(ends: Ends, star: Star, vip: str, servers: tuple[str, ...]) -> None:
    """In every mode, and not before its time; the scenarios lbtimeout and lb6timeout."""
    for port, mode in enumerate(("default", "onearm", "fullnat"), 2020):
        star.lb.create(vip, f"--tcp={port}:{TARGET} --inatimeout=3 --mode={mode}", evenly(servers[:1]))
    pairs = [ends.connect(vip, port=port) for port in (2020, 2021, 2022)]
    for client, server in pairs:
        client.sendall(b"there")
        assert server.recv(5) == b"there"
        server.sendall(b"back")
        assert client.recv(4) == b"back"

    silent(pairs[0][0], 1.5)
    for pair in pairs:
        for sock in pair:
            told(sock)
    assert flows(star) == []


@by_family
@by_mode
def test_connections_of_a_removed_endpoint_are_reset(
    ends: Ends, star: Star, vip: str, servers: tuple[str, ...], mode: str
) -> None:
    """At both ends; those of the endpoint that stays do not notice."""
    service(star, vip, servers[:2], f"--mode={mode}")
    gone, stays = ends.connect(vip), ends.connect(vip, 1)

    service(star, vip, servers[1:2], f"--mode={mode}")

    for sock in gone:
        told(sock)
    stays[0].sendall(b"there")
    assert stays[1].recv(5) == b"there"
    again = ends.connect(vip, 1)
    again[1].sendall(b"back")
    assert again[0].recv(4) == b"back"


@by_family
def test_connections_of_a_deleted_service_are_reset(ends: Ends, star: Star, vip: str, servers: tuple[str, ...]) -> None:
    """And its port is closed: whoever comes is refused by the host, nothing reaches a server."""
    service(star, vip, servers[:1])
    star.lb.create(vip, f"--tcp=2021:{PORT}", evenly(servers[:1]))
    both = ends.connect(vip)

    star.lb.loxicmd(f"delete lb {vip} --tcp 2020")

    for sock in both:
        told(sock)
    with pytest.raises(ConnectionRefusedError):
        ends.connect(vip)
    assert star.ask(vip, 2021).server == "server1"


@by_family
@pytest.mark.parametrize("download", [False, True], ids=["upload", "download"])
def test_a_transfer_under_way_is_reset_at_both_ends(
    ends: Ends, star: Star, vip: str, servers: tuple[str, ...], download: bool
) -> None:
    """Whose ends expect more than was seen of them, even when the service and its address are gone."""
    service(star, vip, servers[:1])
    client, server = ends.connect(vip)
    source, sink = (server, client) if download else (client, server)
    under_way = threading.Event()
    failures: list[BaseException] = []

    def work(sock: socket.socket, step: str) -> None:
        sock.settimeout(_PATIENCE_S)
        try:
            while sock.send(bytes(1 << 16)) if step == "send" else sock.recv(1 << 16):
                if step == "recv":
                    under_way.set()
        except OSError as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=pair) for pair in ((source, "send"), (sink, "recv"))]
    for thread in threads:
        thread.start()
    assert under_way.wait(_PATIENCE_S)
    star.lb.loxicmd(f"delete lb {vip} --tcp 2020")
    for thread in threads:
        thread.join(_PATIENCE_S)
        assert not thread.is_alive()

    assert [type(error) for error in failures] == [ConnectionResetError] * 2


def test_every_connection_of_many_is_reset(ends: Ends, star: Star) -> None:
    """Thousands that end at the same moment."""
    service(star, VIP4, SERVERS4[:1])
    many = [ends.connect(VIP4) for _ in range(_CROWD)]

    service(star, VIP4, SERVERS4[1:2])

    for pair in many:
        for sock in pair:
            told(sock)
    assert "lost=" not in star.lb.log()
    wait_for(lambda: not flows(star), deadline=_PATIENCE_S, what="the end of all flows")
