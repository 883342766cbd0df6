# SPDX-License-Identifier: Apache-2.0
"""A flood of SYNs from random sources, beside connections and clients with real sockets."""

import errno
import random
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from tests.support.lab_star import PORT, SERVERS4, SERVERS6, Star
from tests.support.packets import SYN, Packet, Tcp
from tests.support.traffic import ask, ask_on, connection

pytestmark = pytest.mark.must_run
FAMILIES = pytest.mark.parametrize(
    ("vip", "servers"), [("20.20.20.1", SERVERS4), ("2001::1", SERVERS6)], ids=["ipv4", "ipv6"]
)
LIVE, FRAMES, LIMIT = 100, 4000, 50


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
def flooded(star: Star, frames: list[bytes]) -> Iterator[None]:
    """Send frames from the client's link again and again."""
    done = threading.Event()

    def flood() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind(("eth0", 0))
            while True:
                for frame in frames:
                    sent(raw, frame)
                    if done.is_set():
                        return

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
    it is another service's clients that do not notice.
    """
    endpoints = [f"{address}:1" for address in servers]
    star.lb.create(vip, f"--tcp=2020:{PORT} --halfopen={limit}", endpoints)
    star.lb.create(vip, f"--tcp=3030:{PORT}", endpoints)
    frames = syns(star, vip)

    def held_and_new() -> list[str]:
        with ExitStack() as stack:
            held = [stack.enter_context(connection(vip, 2020)) for _ in range(LIVE)]
            before = [ask_on(sock).server for sock in held]
            with flooded(star, frames):
                for _ in range(20):
                    ask(vip, 3030 if limit else 2020)
            assert [ask_on(sock).server for sock in held] == before
        return before

    assert len(star.client.call(held_and_new)) == LIVE
    shown = star.lb.api("GET", "/config/loadbalancer/all")["lbAttr"][0]["serviceArguments"]
    assert shown.get("halfOpenLimit", 0) == limit
