# SPDX-License-Identifier: Apache-2.0
"""Drops of real packets are seen as they happen, for several reasons, by all who watch."""

import json
import socket
from contextlib import suppress
from pathlib import Path
from signal import SIGINT
from subprocess import DEVNULL, Popen
from typing import Any, Self

import pytest

from tests.support.lab import BIN, wait_for
from tests.support.lab_star import PORT, SERVERS4, SERVERS6, Star

pytestmark = pytest.mark.must_run
VIPS = [("20.20.20.1", "10.10.10.1", SERVERS4[0]), ("2001::1", "3ffe::1", SERVERS6[0])]


class Watcher:
    """``loxicmd watch drops`` in the load balancer's namespace."""

    def __init__(self, star: Star, out: Path, *more: str) -> None:
        self._out = out
        heeding = ("env", "--default-signal=INT")  # a shell has what it runs in the background ignore interrupts
        command = star.lb.namespace.enter_command(*heeding, BIN / "loxicmd", "watch", "drops", "-t", "60", *more)
        with out.open("wb") as file:
            self.popen = Popen(command, stdout=file, stderr=DEVNULL)

    def __enter__(self) -> Self:
        """Enter."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it, if it has not ended."""
        self.popen.kill()
        self.popen.wait()

    def lines(self) -> list[str]:
        """Return what it printed by now, whole lines."""
        return self._out.read_text().split("\n")[:-1]

    def end(self) -> int:
        """Interrupt it as a user does; returns its exit code."""
        self.popen.send_signal(SIGINT)
        return self.popen.wait(30)


def knock(address: str, port: int) -> None:
    """Try to connect, without waiting for an answer."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as sock, suppress(BlockingIOError):
        sock.setblocking(False)
        sock.connect((address, port))


def test_drops_are_seen_while_they_happen(star: Star, tmp_path: Path) -> None:
    """Clients that are not allowed and services beyond their limit, both families; one watches a reason alone."""
    for vip, _, server in VIPS:
        star.lb.create(
            vip,
            f"--tcp=2020:{PORT} --sources=11.0.0.0/8" if ":" not in vip else f"--tcp=2020:{PORT} --sources=fd00::/64",
            [f"{server}:1"],
        )
    star.lb.create("20.20.20.2", f"--tcp=2020:{PORT} --halfopen=1", ["31.31.31.77:1"])
    star.lb.namespace.ip("route replace blackhole 99.0.0.0/24")
    star.lb.create("20.20.20.3", f"--tcp=2020:{PORT}", ["99.0.0.1:1"])
    with (
        Watcher(star, tmp_path / "every", "-o", "json") as every,
        Watcher(star, tmp_path / "some", "--reason", "half_open") as some,
    ):
        found: dict[tuple[str, str], Any] = {}

        def seen() -> bool:
            for vip in ("20.20.20.1", "2001::1", "20.20.20.2", "20.20.20.3"):
                star.client.call(knock, vip, 2020)
            for drop in map(json.loads, every.lines()):
                found[drop["reason"], drop["packet"]["destinationIP"]] = drop
            return len(found) >= 4 and bool(some.lines())

        wait_for(seen, deadline=60, what="a drop of each kind")
        codes = (every.end(), some.end())

    assert codes == (0, 0)
    assert set(found) == {
        ("drop_source", "20.20.20.1"),
        ("drop_source", "2001::1"),
        ("drop_half_open", "20.20.20.2"),
        ("drop_black_hole", "20.20.20.3"),
    }
    for vip, client, _ in VIPS:
        drop = found["drop_source", vip]
        packet = drop["packet"]
        assert (packet["sourceIP"], packet["destinationPort"], packet["flags"]) == (client, 2020, "S")
        assert (packet["protocol"], drop["interface"], packet["ttl"]) == ("tcp", "eclient", 64)
        assert (packet["destinationMAC"], packet["sourceMAC"]) == (
            star.lb.namespace.mac("eclient").hex(":"),
            star.client.mac("eth0").hex(":"),
        )
        assert drop["hook"] in ("tc", "xdp")
        assert drop["length"] > 60
    assert all(" drop_half_open " in line and " tcp 10.10.10.1:" in line for line in some.lines())
