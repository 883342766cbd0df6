# SPDX-License-Identifier: Apache-2.0
"""What a client is told when its packet cannot be served: at once, and by whom."""

import time
from contextlib import ExitStack

import pytest

from tests.support.icmp_errors import IcmpError, ask_for_error, send_each, told
from tests.support.lab import wait_for
from tests.support.lab_star import PORT, SERVERS4, SERVERS6, Star, evenly
from tests.support.traffic import ask_on, connection

pytestmark = pytest.mark.must_run
VIP4, VIP6 = "20.20.20.1", "2001::1"
OWN = {VIP4: "10.10.10.254", VIP6: "3ffe::2"}
by_family = pytest.mark.parametrize(("vip", "server"), [(VIP4, SERVERS4[0]), (VIP6, SERVERS6[0])], ids=["ipv4", "ipv6"])
_AT_ONCE_S = 0.9
"""Less than what passes until a SYN is sent again: the first one was answered."""
_PATIENCE_S = 30.0


def port_unreachable(sender: str) -> IcmpError:
    """Return the error as RFC 792 and RFC 4443 number it."""
    return IcmpError(kind=1 if ":" in sender else 3, code=4 if ":" in sender else 3, sender=sender, mtu=0)


def expired(sender: str) -> IcmpError:
    """Return the time exceeded error."""
    return IcmpError(kind=3 if ":" in sender else 11, code=0, sender=sender, mtu=0)


def flows(star: Star) -> int:
    """Return how many flows there are, of both directions."""
    return len(star.lb.api("GET", "/config/conntrack/all")["ctAttr"])


@by_family
def test_a_service_without_a_server_refuses(star: Star, vip: str, server: str) -> None:
    """A reset for TCP, port unreachable from the service address for UDP and ping; later it serves."""
    for protocol in ("tcp", "udp"):
        star.lb.create(vip, f"--{protocol}=2020:{PORT} --select=priority", [f"{server}:0"])
    star.lb.create(vip, "--icmp --select=priority", [f"{server}:0"])

    with pytest.raises(ConnectionRefusedError):
        star.ask(vip, 2020, timeout=_AT_ONCE_S)
    assert star.client.call(ask_for_error, vip, 2020) == port_unreachable(vip)
    ping = star.client.run("ping", "-c1", "-W2", vip, check=False)
    assert f"From {vip} icmp_seq=1 Destination" in ping
    assert "Port" in ping or "port" in ping

    for protocol in ("tcp", "udp"):
        star.lb.create(vip, f"--{protocol}=2020:{PORT} --select=priority", evenly([server]))
    assert star.ask(vip, 2020).server == star.ask_datagram(vip, 2020).server == "server1"


def test_errors_are_limited_for_each_client(star: Star) -> None:
    """Six at once, as the kernel does (icmp_ratelimit); another client has six of its own, resets are not limited."""
    star.client.ip("addr add 10.10.10.61/24 dev eth0", "addr add 10.10.10.62/24 dev eth0")
    for protocol in ("tcp", "udp"):
        star.lb.create(VIP4, f"--{protocol}=2020:{PORT} --select=priority", [f"{SERVERS4[0]}:0"])

    with ExitStack() as stack:
        began = time.monotonic()
        crowds = [
            star.client.call(send_each, VIP4, 2020, source=source, count=12, stack=stack)
            for source in ("10.10.10.61", "10.10.10.62")
        ]
        wait_for(lambda: min(map(told, crowds)) >= 6, deadline=10, what="six errors for each client")
        for _ in range(20):
            with pytest.raises(ConnectionRefusedError):
                star.ask(VIP4, 2020, timeout=_AT_ONCE_S)
        passed = time.monotonic() - began
        counts = [told(crowd) for crowd in crowds]

    assert all(6 <= count <= 7 + passed for count in counts), counts
    star.client.ip("addr del 10.10.10.61/24 dev eth0", "addr del 10.10.10.62/24 dev eth0")


@by_family
@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
def test_traceroute_shows_the_load_balancer(star: Star, vip: str, server: str, tcp: bool) -> None:
    """The first hop is its address towards the client."""
    star.lb.create(vip, f"--{'tcp' if tcp else 'udp'}=2020:{PORT}", evenly([server]))

    assert star.client.call(ask_for_error, vip, 2020, tcp=tcp, ttl=1) == expired(OWN[vip])


def test_an_address_that_comes_later_is_the_one_shown(star: Star) -> None:
    """The programs know the addresses of now."""
    star.lb.create(VIP4, f"--udp=2020:{PORT}", evenly(SERVERS4[:1]))
    star.lb.namespace.ip("addr del 10.10.10.254/24 dev eclient", "addr add 10.10.10.253/24 dev eclient")
    star.client.ip("route replace default via 10.10.10.253")

    def shown() -> bool:
        try:
            return star.client.call(ask_for_error, VIP4, 2020, ttl=1) == expired("10.10.10.253")
        except AssertionError:
            return False

    wait_for(shown, what="the new address is shown")
    star.lb.namespace.ip("addr del 10.10.10.253/24 dev eclient", "addr add 10.10.10.254/24 dev eclient")
    star.client.ip("route replace default via 10.10.10.254")


@by_family
@pytest.mark.parametrize("mode", ["default", "onearm", "fullnat"])
def test_a_closed_port_of_a_server_is_told(star: Star, vip: str, server: str, mode: str) -> None:
    """The server's own error reaches the client as one about the packet that the client sent; TCP as a reset."""
    for number in star.servers:
        number.sysctl(net__ipv4__icmp_ratelimit=0, net__ipv6__icmp__ratelimit=0)
    word = "" if mode == "default" else f"--mode={mode}"
    for protocol in ("udp", "tcp"):
        star.lb.create(vip, f"--{protocol}=2020:9999 {word}", evenly([server]))

    assert star.client.call(ask_for_error, vip, 2020) == port_unreachable(vip)
    with pytest.raises(ConnectionRefusedError):
        star.ask(vip, 2020, timeout=_AT_ONCE_S)


@by_family
def test_an_idle_connection_ends(star: Star, vip: str, server: str) -> None:
    """Not while it is used; and who uses it after that is told by a reset."""
    star.lb.create(vip, f"--tcp=2020:{PORT} --inatimeout=5", evenly([server]))

    def scenario() -> float:
        with connection(vip, 2020, timeout=_PATIENCE_S) as sock:
            used_until = time.monotonic() + 6
            wait_for(lambda: ask_on(sock) and time.monotonic() > used_until, deadline=_PATIENCE_S, what="use")
            used = time.monotonic()
            ask_on(sock)
            assert flows(star) == 2
            wait_for(lambda: flows(star) == 0, deadline=_PATIENCE_S, what="flow gone")
            lived = time.monotonic() - used
            with pytest.raises(ConnectionResetError):
                ask_on(sock)
        return lived

    assert star.client.call(scenario) > 4


def test_a_new_timeout_holds_for_flows_that_are_there(star: Star) -> None:
    """The default of four minutes becomes one second."""
    star.lb.create(VIP4, f"--tcp=2020:{PORT}", evenly(SERVERS4[:1]))

    def scenario() -> None:
        with connection(VIP4, 2020, timeout=_PATIENCE_S) as sock:
            ask_on(sock)
            star.lb.create(VIP4, f"--tcp=2020:{PORT} --inatimeout=1", evenly(SERVERS4[:1]))
            wait_for(lambda: flows(star) == 0, deadline=_PATIENCE_S, what="flow gone")

    star.client.call(scenario)


@by_family
def test_a_server_that_no_route_leads_to_is_told(star: Star, vip: str, server: str) -> None:
    """The client's system says so, with the second SYN where it was still busy with the first; it does not time out."""
    away = "7ffe::77" if ":" in vip else "77.77.77.77"
    star.lb.create(vip, f"--tcp=2020:{PORT}", evenly([away]))

    with pytest.raises(OSError, match="unreachable"):
        star.ask(vip, 2020, timeout=_PATIENCE_S)
    star.lb.create(vip, f"--tcp=3030:{PORT}", evenly([server]))
    assert star.ask(vip, 3030).server == "server1"
