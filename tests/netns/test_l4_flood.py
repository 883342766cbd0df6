# SPDX-License-Identifier: Apache-2.0
"""A flood of SYNs from random sources, beside connections and clients with real sockets."""

import errno
import random
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import cycle, takewhile

import pytest

from tests.support.lab_star import PORT, SERVERS4, SERVERS6, Star
from tests.support.packets import SYN, Packet, Tcp
from tests.support.traffic import ask, ask_on, connection

pytestmark = pytest.mark.must_run
FAMILIES = pytest.mark.parametrize(
    ("vip", "servers"), [("20.20.20.1", SERVERS4), ("2001::1", SERVERS6)], ids=["ipv4", "ipv6"]
)
LIVE, FRAMES, LIMIT = 100, 8000, 50
PATIENCE_S = 30.0  # a full queue loses a SYN now and then, and the next one comes a second later, or three
BURST = 400  # beside one handshake: a tenth of the half-open IPv6 flows, that many never displace it


def syns(star: Star, vip: str) -> list[bytes]:
    """Return SYNs of sources that nobody answers for."""
    source, there = random.Random(5), ip_address(vip)
    mac = star.lb.namespace.mac("eclient")

    def address() -> IPv4Address | IPv6Address:
        number = source.getrandbits(24)
        return IPv4Address("40.0.0.0") + number if there.version == 4 else IPv6Address("40::") + number

    return [
        bytes(
            Packet(
                dmac=mac,
                source=address(),
                destination=there,
                transport=Tcp(sport=source.randrange(1024, 65536), dport=2020, flags=SYN),
            )
        )
        for _ in range(FRAMES)
    ]


def sent(raw: socket.socket, frame: bytes) -> None:
    """Send a frame, or lose it where the link is full: the flood is what it takes."""
    try:
        raw.send(frame)
    except OSError as error:
        if error.errno != errno.ENOBUFS:
            raise


@contextmanager
def flooded(star: Star, frames: Iterable[bytes]) -> Iterator[None]:
    """Send frames from the client's link meanwhile."""
    done = threading.Event()

    def flood() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind(("eth0", 0))
            for frame in takewhile(lambda _: not done.is_set(), frames):
                sent(raw, frame)

    thread = threading.Thread(target=star.client.call, args=(flood,))
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@FAMILIES
@pytest.mark.parametrize("limit", [0, LIMIT], ids=["unlimited", "limited"])
def test_live_connections_and_new_clients_go_on(star: Star, vip: str, servers: tuple[str, ...], limit: int) -> None:
    """No connection is lost. New clients get through as well: a service with a limit protects its endpoints, and so
    it is another service's clients that do not notice, however fast the flood is. Without a limit the oldest half-open
    flow gives way: a handshake has the time in which a flood fills the table. There is room for half of this one.
    """
    endpoints = [f"{address}:1" for address in servers]
    star.lb.create(vip, f"--tcp=2020:{PORT} --halfopen={limit}", endpoints)
    star.lb.create(vip, f"--tcp=3030:{PORT}", endpoints)
    frames = syns(star, vip)

    def held_and_new() -> list[str]:
        with ExitStack() as stack:
            held = [stack.enter_context(connection(vip, 2020, timeout=PATIENCE_S)) for _ in range(LIVE)]
            before = [ask_on(sock).server for sock in held]
            for begin in range(0, FRAMES, BURST):
                with flooded(star, cycle(frames) if limit else frames[begin : begin + BURST]):
                    ask(vip, 3030 if limit else 2020, timeout=PATIENCE_S)
            with flooded(star, cycle(frames)):
                assert [ask_on(sock).server for sock in held] == before
            assert [ask_on(sock).server for sock in held] == before
        return before

    assert len(star.client.call(held_and_new)) == LIVE
    shown = star.lb.api("GET", "/config/loadbalancer/all")["lbAttr"][0]["serviceArguments"]
    assert shown.get("halfOpenLimit", 0) == limit
