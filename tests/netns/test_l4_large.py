# SPDX-License-Identifier: Apache-2.0
"""Datagrams of 32 kB, which travel in fragments, there and back through every mode, over links of any size."""

from collections.abc import Iterator

import pytest

from tests.support.lab_star import PORT, SERVERS4, SERVERS6, Star, evenly
from tests.support.traffic import ask_datagram

pytestmark = pytest.mark.must_run
VIP4, VIP6 = "20.20.20.1", "2001::1"
NAMES = ["server1", "server2", "server3"]
SIZE, MTU = 32_000, 1300
by_family = pytest.mark.parametrize(("vip", "servers"), [(VIP4, SERVERS4), (VIP6, SERVERS6)], ids=["ipv4", "ipv6"])
by_mode = pytest.mark.parametrize("mode", ["default", "onearm", "fullnat"])
_VIPS = (f"{VIP4}/32", f"{VIP6}/128")


def large(star: Star, vip: str, port: int, count: int) -> list[str]:
    """Return who sent back ``count`` large datagrams, each of a flow of its own and with bytes of its own."""
    return star.client.call(
        lambda: [ask_datagram(vip, port, (b"%08d" % one) * (SIZE // 8)).server for one in range(count)]
    )


@by_family
@by_mode
def test_every_mode(star: Star, vip: str, servers: tuple[str, ...], mode: str) -> None:
    """Each datagram goes to the next server, whole, and comes back whole; more through one flow."""
    flags = "" if mode == "default" else f"--mode={mode}"
    star.lb.create(vip, f"--udp=2020:{PORT} {flags}", evenly(servers))

    assert large(star, vip, 2020, 6) == NAMES * 2
    payload = bytes(range(256)) * 250
    assert {star.ask_datagram(vip, 2020, payload, source_port=7000).server for _ in range(4)} == {"server1"}


@by_family
def test_direct_server_return(star: Star, vip: str, servers: tuple[str, ...]) -> None:
    """All fragments of a datagram get to the same server."""
    for server in star.servers:
        server.ip(*(f"addr add {one} dev lo" for one in _VIPS))
    star.lb.create(vip, f"--udp={PORT}:{PORT} --select=hash --mode=dsr", evenly(servers))

    seen = large(star, vip, PORT, 12)

    for server in star.servers:
        server.ip(*(f"addr del {one} dev lo" for one in _VIPS))
    assert set(seen) <= set(NAMES)
    assert len(set(seen)) >= 2


def test_ping(star: Star) -> None:
    """An echo of 32 kB, too."""
    star.lb.create(VIP4, "--icmp", evenly(SERVERS4))
    star.lb.create(VIP6, "--icmp", evenly(SERVERS6))

    for vip in (VIP4, VIP6):
        assert "1 received" in star.client.run("ping", "-c1", "-W3", "-s", str(SIZE), vip)


@pytest.fixture(params=["server1", "client"])
def narrow(star: Star, request: pytest.FixtureRequest) -> Iterator[Star]:
    """Return the topology with one link that is smaller than the fragments that come from beyond the load balancer."""
    ends = [(star.lb.namespace, f"e{request.param}")]
    ends.append((star.client if request.param == "client" else star.servers[0], "eth0"))
    for space, device in ends:
        space.ip(f"link set {device} mtu {MTU}")
    yield star
    for space, device in ends:
        space.ip(f"link set {device} mtu 1500")


@by_mode
def test_routers_may_fragment_again_over_ipv4(narrow: Star, mode: str) -> None:
    """The load balancer is the router before the small link."""
    flags = "" if mode == "default" else f"--mode={mode}"
    narrow.lb.create(VIP4, f"--udp=2020:{PORT} {flags}", evenly(SERVERS4[:1]))

    assert large(narrow, VIP4, 2020, 3) == ["server1"] * 3
