# SPDX-License-Identifier: Apache-2.0
"""Servers that are clients of the service they stand behind."""

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
