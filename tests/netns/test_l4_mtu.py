# SPDX-License-Identifier: Apache-2.0
"""Links of different sizes: senders are told the MTU of the way to the server, and of the way back."""

from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from tests.support.icmp_errors import IcmpError, ask_for_error
from tests.support.lab import Namespace, wait_for
from tests.support.lab_star import PORT, SERVERS4, SERVERS6, Star, server
from tests.support.traffic import digest_of, download, upload

pytestmark = pytest.mark.must_run
VIP4, VIP6 = "20.20.20.1", "2001::1"
OWN = {VIP4: "10.10.10.254", VIP6: "3ffe::2"}
FAR = {VIP4: "41.41.41.1", VIP6: "41::1"}
NEAR = {VIP4: SERVERS4[1], VIP6: SERVERS6[1]}
by_mode_and_offload = pytest.mark.parametrize(
    ("mode", "onoff"), [("default", "on"), ("default", "off"), ("onearm", "on"), ("fullnat", "off")]
)
SIZE, MTU = 2 << 20, 1300
by_vip = pytest.mark.parametrize("vip", [VIP4, VIP6], ids=["ipv4", "ipv6"])
by_mode = pytest.mark.parametrize("mode", ["default", "onearm", "fullnat"])


def transfers(star: Star, vip: str) -> tuple[str, str]:
    """Return the digests of what was sent both ways."""
    return star.client.call(lambda: (upload(vip, 2020, SIZE).digest, download(vip, 2020, SIZE)))


def forget_sizes(*spaces: Namespace) -> None:
    """Have the kernel forget the sizes it was told."""
    for space in spaces:
        space.run("ip", "route", "flush", "cache")
        space.run("ip", "-6", "route", "flush", "cache")


def too_big(sender: str, mtu: int) -> IcmpError:
    """Return fragmentation needed (RFC 1191), or packet too big (RFC 4443)."""
    return IcmpError(kind=2 if ":" in sender else 3, code=0 if ":" in sender else 4, sender=sender, mtu=mtu)


@pytest.fixture(scope="module")
def far_star(running_star: Star) -> Star:
    """Return the topology with one more server, behind the first one, on a link of 1300 bytes."""
    star, router, far = running_star, running_star.servers[0], running_star.lab.namespace("far")
    star.lab.link(router, "efar", far, "eth0")
    router.sysctl(net__ipv4__ip_forward=1, net__ipv6__conf__all__forwarding=1)
    router.sysctl(net__ipv4__icmp_ratelimit=0, net__ipv6__icmp__ratelimit=0)
    router.ip(f"link set efar mtu {MTU}", "addr add 41.41.41.254/24 dev efar", "addr add 41::fe/64 dev efar nodad")
    far.ip(f"link set eth0 mtu {MTU}", "addr add 41.41.41.1/24 dev eth0", "addr add 41::1/64 dev eth0 nodad")
    far.ip("route add default via 41.41.41.254", "route add default via 41::fe")
    star.lb.namespace.ip(f"route add 41.41.41.0/24 via {SERVERS4[0]}", f"route add 41::/64 via {SERVERS6[0]}")
    server(star.lab, far, "far").wait_line("serves", deadline=20)
    return star


def told_of_size(star: Star, vip: str) -> IcmpError:
    """Return the error about a datagram that is too large; earlier ones may have used up the client's share."""
    found: list[IcmpError] = []

    def asked() -> bool:
        with suppress(AssertionError):
            found.append(star.client.call(ask_for_error, vip, 2020, size=1400))
        return bool(found)

    wait_for(asked, what="an error, of which there is one a second")
    return found[0]


@by_vip
@by_mode
def test_a_router_behind_tells_the_client_its_size(far_star: Star, star: Star, vip: str, mode: str) -> None:
    """Its error, about a packet the client never sent, arrives as one about what it did send; TCP adapts."""
    flags = "" if mode == "default" else f"--mode={mode}"
    star.lb.create(vip, f"--tcp=2020:{PORT} {flags}", [f"{FAR[vip]}:1"])
    star.lb.create(vip, f"--udp=2020:{PORT} {flags}", [f"{FAR[vip]}:1"])
    forget_sizes(star.client)

    assert told_of_size(star, vip) == too_big(vip, MTU)
    forget_sizes(star.client)
    assert transfers(star, vip) == (digest_of(SIZE),) * 2


@by_vip
@by_mode
@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
def test_traceroute_goes_on_behind_the_load_balancer(
    far_star: Star, star: Star, vip: str, mode: str, tcp: bool
) -> None:
    """The hop behind is seen under the service address: the client knows no other."""
    flags = "" if mode == "default" else f"--mode={mode}"
    for protocol in ("udp", "tcp"):
        star.lb.create(vip, f"--{protocol}=2020:{PORT} {flags}", [f"{FAR[vip]}:1"])

    hops = [star.client.call(ask_for_error, vip, 2020, tcp=tcp, ttl=ttl) for ttl in (1, 2)]

    assert [hop.sender for hop in hops] == [OWN[vip], vip]
    assert {(hop.kind, hop.code) for hop in hops} == {(3, 0) if ":" in vip else (11, 0)}
    assert star.ask_datagram(vip, 2020, ttl=3).server == "far"


@pytest.fixture
def sized(onoff: str, star: Star) -> Iterator[Callable[[str], None]]:
    """Return a way to make one link of the load balancer smaller, at its own end; ends send whole segments or parts."""
    spaces = (star.client, star.servers[1])
    for space in spaces:
        space.run("ethtool", "-K", "eth0", "tso", onoff, "gso", onoff)
    devices: list[str] = []

    def shrink(device: str) -> None:
        devices.append(device)
        star.lb.namespace.ip(f"link set {device} mtu {MTU}")
        wait_for(lambda: str(MTU) in size_shown(star, device), what="the new size is known")

    yield shrink
    for device in devices:
        star.lb.namespace.ip(f"link set {device} mtu 1500")
    for space in spaces:
        space.run("ethtool", "-K", "eth0", "tso", "on", "gso", "on")
    forget_sizes(*spaces)


def size_shown(star: Star, device: str) -> str:
    """Return the size of a link as the daemon shows it."""
    header, *rows = star.lb.rows("get port -o wide")
    return next(row[header.index("MTU")] for row in rows if row[1] == device)


@by_vip
@by_mode_and_offload
def test_a_small_link_to_the_server(star: Star, sized: Callable[[str], None], vip: str, mode: str, onoff: str) -> None:
    """The load balancer itself tells the client."""
    sized("eserver2")
    flags = "" if mode == "default" else f"--mode={mode}"
    star.lb.create(vip, f"--tcp=2020:{PORT} {flags}", [f"{NEAR[vip]}:1"])
    star.lb.create(vip, f"--udp=2020:{PORT} {flags}", [f"{NEAR[vip]}:1"])
    forget_sizes(star.client)

    assert told_of_size(star, vip) == too_big(OWN[vip], MTU)
    forget_sizes(star.client)
    assert transfers(star, vip) == (digest_of(SIZE),) * 2
    assert f"mtu {MTU}" in sizes_known(star.client)


@by_vip
@by_mode_and_offload
def test_a_small_link_to_the_client(star: Star, sized: Callable[[str], None], vip: str, mode: str, onoff: str) -> None:
    """The server is told on the way back. Nothing large goes to a device smaller than its peer: it would be lost."""
    sized("eclient")
    flags = "" if mode == "default" else f"--mode={mode}"
    star.lb.create(vip, f"--tcp=2020:{PORT} {flags}", [f"{NEAR[vip]}:1"])
    forget_sizes(star.servers[1])

    assert star.client.call(download, vip, 2020, SIZE) == digest_of(SIZE)
    assert f"mtu {MTU}" in sizes_known(star.servers[1])


def sizes_known(space: Namespace) -> str:
    """Return what the kernel has been told of sizes."""
    return space.run("ip", "route", "show", "cache") + space.run("ip", "-6", "route", "show", "cache")
