# SPDX-License-Identifier: Apache-2.0
"""Selections that remember: least connections and persistence, on real traffic."""

import json
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.lab import wait_for
from tests.support.lab_star import PORT, SERVERS4, SERVERS6, Star, evenly
from tests.support.traffic import ask, ask_datagram, ask_on, connection

pytestmark = pytest.mark.must_run
VIP4, VIP6 = "20.20.20.1", "2001::1"
NAMES = ["server1", "server2", "server3"]
CLIENTS = {VIP4: ("10.10.10.1", "10.10.10.12", "10.10.10.13"), VIP6: ("3ffe::1", "3ffe::12", "3ffe::13")}
by_family = pytest.mark.parametrize(("vip", "servers"), [(VIP4, SERVERS4), (VIP6, SERVERS6)], ids=["ipv4", "ipv6"])


@by_family
def test_lc_prefers_the_server_with_the_fewest_connections(star: Star, vip: str, servers: tuple[str, ...]) -> None:
    """Connections that are closed do not count; idle ones that are held do, until they are closed too."""
    star.lb.create(vip, f"--tcp=2020:{PORT} --select=lc", evenly(servers))

    def scenario() -> list[list[str]]:
        seen = [[ask(vip, 2020).server for _ in range(12)]]
        with ExitStack() as stack:
            held = [stack.enter_context(connection(vip, 2020)) for _ in range(4)]
            seen.append([ask_on(sock).server for sock in held])
            seen.append([ask(vip, 2020).server for _ in range(12)])
            held.append(stack.enter_context(connection(vip, 2020)))
            seen.append([ask(vip, 2020).server for _ in range(12)])
        seen.append([ask(vip, 2020).server for _ in range(3)])
        return seen

    alone, held, beside_four, beside_five, after = star.client.call(scenario)
    assert alone == ["server1"] * 12
    assert held == [*NAMES, "server1"]
    assert beside_four == ["server2"] * 12
    assert beside_five == ["server3"] * 12
    assert after == ["server1"] * 3


def test_lc_counts_right_when_remembered_flows_are_forgotten(star: Star) -> None:
    """Each connection was taken off the count once: when it closed, not again when its flow went."""
    star.lb.create(VIP4, f"--tcp=2020:{PORT} --select=lc", evenly(SERVERS4))
    assert star.names(VIP4, 2020, 6) == ["server1"] * 6

    wait_for(lambda: len(star.lb.rows("get ct")) == 1, deadline=10, what="flows gone")

    def held() -> list[str]:
        with ExitStack() as stack:
            return [ask_on(stack.enter_context(connection(VIP4, 2020))).server for _ in range(6)]

    assert star.client.call(held) == NAMES * 2


def test_lc_counts_a_connection_closed_by_both_sides_no_more(star: Star) -> None:
    """FIN and FIN leave a remembered flow behind, which is no burden."""
    star.lb.create(VIP4, f"--tcp=2020:{PORT} --select=lc", evenly(SERVERS4))

    def closed_in_order() -> str:
        with connection(VIP4, 2020) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
            data = b""
            while chunk := sock.recv(1 << 16):
                data += chunk
            sock.shutdown(1)
        return str(json.loads(data.partition(b"\r\n\r\n")[2])["server"])

    assert [star.client.call(closed_in_order) for _ in range(6)] == ["server1"] * 6


def test_lc_follows_datagram_flows_until_they_end(star: Star) -> None:
    """Three flows, one a server; when they have timed out the first server is next again."""
    star.lb.create(VIP4, f"--udp=2020:{PORT} --select=lc --inatimeout=1", evenly(SERVERS4))

    assert star.names(VIP4, 2020, 4, udp=True) == [*NAMES, "server1"]
    wait_for(lambda: len(star.lb.rows("get ct")) == 1, deadline=10, what="flows gone")
    assert star.names(VIP4, 2020, 1, udp=True) == ["server1"]


@pytest.fixture
def clients(star: Star) -> Iterator[Star]:
    """Return the topology with three addresses of each version on the client."""
    added = [(address, 24 if "." in address else 64) for group in CLIENTS.values() for address in group[1:]]
    star.client.ip(*(f"addr add {address}/{length} dev eth0" for address, length in added))
    yield star
    star.client.ip(*(f"addr del {address}/{length} dev eth0" for address, length in added))


@by_family
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_persist_keeps_each_client_at_its_server(
    clients: Star, vip: str, servers: tuple[str, ...], protocol: str
) -> None:
    """New clients take turns, and come back to where they were, in any order, from any port."""
    clients.lb.create(vip, f"--{protocol}=2020:{PORT} --select=persist", evenly(servers))

    def asked(source: str) -> str:
        if protocol == "udp":
            return ask_datagram(vip, 2020, source=source).server
        with connection(vip, 2020, source=source) as sock:
            return ask_on(sock).server

    def scenario() -> list[list[str]]:
        order = CLIENTS[vip]
        return [[asked(source) for source in sources] for sources in (order, order[::-1], order, order[::-1])]

    assert clients.client.call(scenario) == [NAMES, NAMES[::-1]] * 2


def test_persist_survives_changes_to_other_servers_but_not_to_ones_own(clients: Star) -> None:
    """A server that goes takes its clients along to others; a client of another one stays."""
    one, other = CLIENTS[VIP4][:2]
    clients.lb.create(VIP4, f"--udp=2020:{PORT} --select=persist", evenly(SERVERS4[:2]))

    def asked() -> list[str]:
        return [ask_datagram(VIP4, 2020, source=source).server for source in (one, other)]

    assert clients.client.call(asked) == ["server1", "server2"]
    clients.lb.loxicmd(f"create lb {VIP4} --udp=2020:{PORT} --endpoints={SERVERS4[2]}:1 --attachEP")
    assert clients.client.call(asked) == ["server1", "server2"]
    clients.lb.loxicmd(f"create lb {VIP4} --udp=2020:{PORT} --endpoints={SERVERS4[0]}:1 --detachEP")
    moved = clients.client.call(asked)
    assert moved[1] == "server2"
    assert moved[0] in ("server2", "server3")
    assert clients.client.call(asked) == moved


def test_persist_forgets_a_client_that_stays_away(star: Star) -> None:
    """Its time is that of the service; a datagram flow that ends a second later tells that it has passed."""
    key = {"externalIP": VIP4, "port": 2020, "protocol": "udp"}
    arguments = key | {"sel": 3, "persistTimeout": 1, "inactiveTimeOut": 2}
    endpoints = [{"endpointIP": address, "targetPort": PORT, "weight": 1} for address in SERVERS4]
    star.lb.api("POST", "/config/loadbalancer", {"serviceArguments": arguments, "endpoints": endpoints})
    (shown,) = star.lb.api("GET", "/config/loadbalancer/all")["lbAttr"]
    assert shown["serviceArguments"] == arguments
    assert star.names(VIP4, 2020, 3, udp=True) == ["server1"] * 3

    wait_for(lambda: len(star.lb.rows("get ct")) == 1, deadline=10, what="flows gone")

    assert star.names(VIP4, 2020, 2, udp=True) == ["server2"] * 2
