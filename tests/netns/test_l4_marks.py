# SPDX-License-Identifier: Apache-2.0
"""Services for marked packets, and services at several addresses, on real traffic."""

from collections.abc import Iterator

import pytest

from tests.support.lab import Lab
from tests.support.lab_star import PORT, SERVERS4, SERVERS6, Star, build
from tests.support.traffic import ask_on, connection

pytestmark = pytest.mark.must_run
VIPS, SERVERS = {4: "20.20.20.1", 6: "2001::1"}, {4: SERVERS4, 6: SERVERS6}
MARKED, OTHER = {4: "10.10.10.1", 6: "3ffe::1"}, {4: "10.10.10.2", 6: "3ffe::a2"}
NAMES = ["server1", "server2", "server3"]
by_version = pytest.mark.parametrize("version", [4, 6], ids=["ipv4", "ipv6"])
RULES = """
table netdev loxt {
    chain marks {
        type filter hook ingress device "eclient" priority 0;
        ip saddr 10.10.10.1 meta mark set 10
        ip6 saddr 3ffe::1 meta mark set 10
    }
}
"""


@pytest.fixture(scope="module")
def bridge_star(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Star]:
    """Return a topology whose client is behind a bridge; nft marks packets of one address at the bridge's port."""
    with Lab(folder=tmp_path_factory.mktemp("logs")) as lab:
        star = build(lab)
        star.lb.namespace.ip(
            "link add br0 address 02:00:00:00:77:01 type bridge",
            "link set br0 up",
            "addr flush dev eclient",
            "link set eclient master br0",
            "addr add 10.10.10.254/24 dev br0",
            "addr add 3ffe::2/64 dev br0 nodad",
        )
        star.client.ip("addr add 10.10.10.2/24 dev eth0", "addr add 3ffe::a2/64 dev eth0 nodad")
        star.lb.namespace.run("nft", "-f", "-", stdin=RULES)
        star.lb.start("--xdp", "off")
        yield star


def served(star: Star, version: int, source: str, count: int) -> list[str]:
    """Return which servers answered requests from an address."""

    def one() -> str:
        with connection(VIPS[version], 2020, source=source, timeout=1) as sock:
            return ask_on(sock).server

    return star.client.call(lambda: [one() for _ in range(count)])


@by_version
def test_the_mark_chooses_the_service(bridge_star: Star, version: int) -> None:
    """Marked packets take turns over all servers, the others go to one; then the marked service goes."""
    star, vip = bridge_star, VIPS[version]
    star.lb.create(vip, f"--tcp=2020:{PORT}", [f"{SERVERS[version][2]}:1"])
    star.lb.create(vip, f"--tcp=2020:{PORT} --mark=10", [f"{one}:1" for one in SERVERS[version]])

    assert served(star, version, MARKED[version], 6) == NAMES * 2
    assert served(star, version, OTHER[version], 2) == ["server3"] * 2

    table = star.lb.rows("get lb")
    assert sorted(row[table[0].index("MARK")] for row in table[1:] if row[0] == vip) == ["0", "10"]
    star.lb.loxicmd(f"delete lb {vip} --tcp=2020 --mark=10")
    assert served(star, version, MARKED[version], 2) == ["server3"] * 2
    star.lb.loxicmd(f"delete lb {vip} --tcp=2020")
    with pytest.raises(OSError):
        served(star, version, MARKED[version], 1)


@by_version
def test_marks_outlive_the_daemon(bridge_star: Star, version: int) -> None:
    """The next one finds both services as they were."""
    star, vip = bridge_star, VIPS[version]
    star.lb.create(vip, f"--tcp=2020:{PORT} --mark=10", [f"{SERVERS[version][1]}:1"])
    before = star.lb.api("GET", "/config/loadbalancer/all")

    star.lb.stop()
    assert served(star, version, MARKED[version], 2) == ["server2"] * 2
    star.lb.start("--xdp", "off")

    assert [one["serviceArguments"]["block"] for one in star.lb.api("GET", "/config/loadbalancer/all")["lbAttr"]] == [
        10
    ]
    assert len(before["lbAttr"]) == 1
    assert served(star, version, MARKED[version], 2) == ["server2"] * 2
    star.lb.loxicmd(f"delete lb {vip} --tcp=2020 --mark=10")


@by_version
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_service_at_several_addresses(star: Star, version: int, protocol: str) -> None:
    """They share one turn, are announced and shown, and go with the service; connected ones as well as far ones."""
    vip = VIPS[version]
    further = ["10.10.10.77", "21.21.21.1"] if version == 4 else ["21::1", "3ffe::77"]
    endpoints = [f"{one}:1" for one in SERVERS[version]]
    star.lb.create(vip, f"--{protocol}=2020:{PORT} --secips={','.join(further)}", endpoints)

    udp = protocol == "udp"
    names = [star.names(one, 2020, 1, udp=udp)[0] for one in (vip, *further, vip)]
    assert names == ["server1", "server2", "server3", "server1"]
    (entry,) = star.lb.api("GET", "/config/loadbalancer/all")["lbAttr"]
    assert [one["secondaryIP"] for one in entry["secondaryIPs"]] == further
    header, row, *_ = star.lb.rows("get lb -o wide")
    assert row[header.index("SEC IPS")] == ", ".join(further)

    star.lb.clear()
    with pytest.raises(OSError):
        star.names(further[0], 2020, 1, udp=udp)
    addresses = star.lb.namespace.run("ip", "address")
    assert not [one for one in (vip, *further) if f" {one}/" in addresses]
