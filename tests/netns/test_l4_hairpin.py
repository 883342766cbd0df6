# SPDX-License-Identifier: Apache-2.0
"""Servers that are clients of the service they stand behind, and services behind services."""

import pytest

from tests.support.lab_star import PORT, SERVERS4, SERVERS6, Star
from tests.support.traffic import ask, ask_datagram, digest_of, download

pytestmark = pytest.mark.must_run
VIP4, VIP6 = "20.20.20.1", "2001::1"
FAMILIES = pytest.mark.parametrize(("vip", "servers"), [(VIP4, SERVERS4), (VIP6, SERVERS6)], ids=["ipv4", "ipv6"])
SIZE = 2 << 20


@FAMILIES
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_server_is_balanced_like_everybody_else(
    star: Star, vip: str, servers: tuple[str, ...], protocol: str
) -> None:
    """Its turn comes, too: it then sees the service as its client, and itself when another is chosen."""
    star.lb.create(vip, f"--{protocol}=2020:{PORT}", [f"{address}:1" for address in servers])
    one = ask if protocol == "tcp" else ask_datagram

    answers = star.servers[0].call(lambda: [one(vip, 2020) for _ in range(6)])

    assert [answer.server for answer in answers] == ["server1", "server2", "server3"] * 2
    assert [answer.client for answer in answers] == [vip, servers[0], servers[0]] * 2


@FAMILIES
def test_a_server_transfers_data_with_itself(star: Star, vip: str, servers: tuple[str, ...]) -> None:
    """Large segments, both directions of the flow on one link."""
    star.lb.create(vip, f"--tcp=2020:{PORT}", [f"{servers[0]}:1"])

    assert star.servers[0].call(lambda: download(vip, 2020, SIZE)) == digest_of(SIZE)


@FAMILIES
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_service_stands_behind_another(star: Star, vip: str, servers: tuple[str, ...], protocol: str) -> None:
    """Its endpoints answer, one after the other, and they are the ones that are counted."""
    inner = f"{vip.rpartition(':')[0]}:99" if ":" in vip else "20.20.20.99"
    star.lb.create(inner, f"--{protocol}=3030:{PORT}", [f"{address}:1" for address in servers[1:]])
    star.lb.create(vip, f"--{protocol}=2020:3030", [f"{inner}:1"])

    assert star.names(vip, 2020, 4, udp=protocol == "udp") == ["server2", "server3"] * 2

    entries = star.lb.api("GET", "/config/loadbalancer/all")["lbAttr"]
    used = {
        entry["serviceArguments"]["externalIP"]: [endpoint["counter"] != "0:0" for endpoint in entry["endpoints"]]
        for entry in entries
    }
    assert used == {vip: [False], inner: [True, True]}


@FAMILIES
def test_services_that_stand_behind_each_other_serve_nobody(star: Star, vip: str, servers: tuple[str, ...]) -> None:
    """The client is not answered, and the load balancer goes on."""
    inner = f"{vip.rpartition(':')[0]}:99" if ":" in vip else "20.20.20.99"
    star.lb.create(inner, "--tcp=3030:2020", [f"{vip}:1"])
    star.lb.create(vip, "--tcp=2020:3030", [f"{inner}:1"])

    with pytest.raises(TimeoutError):
        star.ask(vip, 2020, timeout=0.5)
    star.lb.create(inner, f"--tcp=4040:{PORT}", [f"{servers[0]}:1"])
    assert star.names(inner, 4040, 1) == ["server1"]
