# SPDX-License-Identifier: Apache-2.0
"""Interfaces that come by the hundred, change their name, move away and back, and join a bridge."""

import re
from collections.abc import Iterator

import pytest

from tests.support.lab import Lab, run, wait_for
from tests.support.lab_star import PORT, SERVERS4, Star, build

pytestmark = pytest.mark.must_run
PAIRS = 250
_PATIENCE_S = 60.0


@pytest.fixture
def star(lab: Lab) -> Iterator[Star]:
    """Return a running load balancer."""
    built = build(lab, servers=1)
    built.lb.start("--loglevel", "info")
    yield built


def events(star: Star, event: str) -> list[str]:
    """Return the interfaces that the log names for an event."""
    return re.findall(rf'event="{event}" .*?interface=(\S+)', star.lb.log())


def test_five_hundred_interfaces_are_taken_and_left(star: Star) -> None:
    """They come and go in one go; what went with them was removed by nobody else."""
    names = [f"p{number}" for number in range(PAIRS)]
    star.lb.namespace.ip(*(f"link add {name} type veth peer name {name}b" for name in names))

    wait_for(lambda: len(events(star, "interface taken")) >= 2 * PAIRS, deadline=_PATIENCE_S)

    star.lb.namespace.ip(*(f"link del {name}" for name in names))
    wait_for(lambda: len(events(star, "interface left")) >= 2 * PAIRS, deadline=_PATIENCE_S)
    assert star.lb.api("GET", "/status/reconciler")["repairAttr"] == []
    assert "removed by somebody else" not in star.lb.log()
    assert "not followed" not in star.lb.log()


def test_a_new_name_is_followed(star: Star) -> None:
    """Whatever the interface was called when it was taken."""
    star.lb.namespace.ip("link add old type veth peer name far")
    wait_for(lambda: "old" in events(star, "interface taken"), deadline=_PATIENCE_S)
    star.lb.namespace.ip("link set old name new")
    wait_for(lambda: events(star, "interface renamed") == ["new"], deadline=_PATIENCE_S)

    star.lb.namespace.ip("link del new")

    wait_for(lambda: {"new", "far"} <= set(events(star, "interface left")), deadline=_PATIENCE_S)


def test_an_interface_that_moves_away_is_left(star: Star, lab: Lab) -> None:
    """And taken again when it comes back."""
    other = lab.namespace("other")
    star.lb.namespace.ip("link add guest type veth peer name far")
    wait_for(lambda: "guest" in events(star, "interface taken"), deadline=_PATIENCE_S)

    star.lb.namespace.ip(f"link set guest netns {other.name}")
    wait_for(lambda: "guest" in events(star, "interface left"), deadline=_PATIENCE_S)
    run(["ip", "-n", other.name, "link", "set", "guest", "netns", star.lb.namespace.name])

    wait_for(lambda: events(star, "interface taken").count("guest") == 2, deadline=_PATIENCE_S)


def test_a_bridge_is_served_and_not_its_ports(star: Star) -> None:
    """A port that joins one is left; services work through the bridge; a port that leaves it is taken again."""
    star.lb.namespace.ip(
        "link add br0 type bridge",
        "link set br0 up",
        "link set eclient master br0",
        "address del 10.10.10.254/24 dev eclient",
        "address add 10.10.10.254/24 dev br0",
    )
    wait_for(lambda: "eclient" in events(star, "interface left"), deadline=_PATIENCE_S)
    wait_for(lambda: "br0" in events(star, "interface taken"), deadline=_PATIENCE_S)
    star.lb.create("20.20.20.1", f"--tcp=2020:{PORT}", [f"{SERVERS4[0]}:1"])

    assert star.names("20.20.20.1", 2020, 2) == ["server1", "server1"]

    before = events(star, "interface taken").count("eclient")
    star.lb.namespace.ip("link set eclient nomaster")
    wait_for(lambda: events(star, "interface taken").count("eclient") == before + 1, deadline=_PATIENCE_S)


def test_a_device_that_refuses_xdp_is_served_by_tc(lab: Lab) -> None:
    """Frames of its MTU do not fit into a page; with --xdp on the log says so."""
    star = build(lab, servers=1)
    star.lb.namespace.ip("link add large type veth peer name far", "link set large mtu 9000", "link set far mtu 9000")

    star.lb.start("--xdp", "on", "--loglevel", "info")

    assert {"large", "far"} <= set(events(star, "XDP refused"))
    assert {"large", "far", "eclient"} <= set(events(star, "interface taken"))
    assert "eclient" not in events(star, "XDP refused")
