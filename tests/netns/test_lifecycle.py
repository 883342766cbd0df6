# SPDX-License-Identifier: Apache-2.0
"""Daemons start, stop, run beside each other, and go without a trace."""

import ctypes
import errno
import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from loxilb.kernel import netns
from tests.support.lab import BIN, Lab, wait_for
from tests.support.lab_star import PORT, SERVERS4, SERVERS6, Star, build
from tests.support.traffic import ask, ask_on, connection

pytestmark = pytest.mark.must_run
VIP4, VIP6 = "20.20.20.1", "2001::1"
NAMES = ["server1", "server2", "server3"]


@pytest.fixture
def fresh(lab: Lab) -> Star:
    """Return a topology without a daemon."""
    return build(lab)


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[Star, Star]]:
    """Return two topologies with the same addresses, a daemon running in each."""
    with Lab(folder=tmp_path) as one, Lab(folder=tmp_path) as other:
        stars = build(one), build(other)
        for star in stars:
            star.lb.start()
        yield stars


def create(star: Star, *flags: str) -> None:
    """Create a service for each IP version."""
    star.lb.create(VIP4, " ".join((f"--tcp=2020:{PORT}", *flags)), [f"{server}:1" for server in SERVERS4])
    star.lb.create(VIP6, " ".join((f"--tcp=2020:{PORT}", *flags)), [f"{server}:1" for server in SERVERS6])


def test_a_bare_start_says_what_it_took(fresh: Star) -> None:
    """One line says how long it was, interfaces, hooks and where the API listens."""
    fresh.lb.start()

    line = fresh.lb.ready_line

    found = re.search(r"ready in (\d+\.\d+) s: 4 interfaces \((.*)\), API http://0\.0\.0\.0:11111/netlox/v1", line)
    assert found, line
    assert {"eclient", "eserver1", "eserver2", "eserver3"} <= set(re.split(r"\W+", found[2]))


def test_two_load_balancers_hash_alike(two: tuple[Star, Star]) -> None:
    """The same flows go to the same servers, whichever load balancer they meet."""
    chosen = []
    for star in two:
        create(star, "--select=hash")
        chosen.append(
            star.client.call(
                lambda: [
                    ask(vip, 2020, source_port=port).server for vip in (VIP4, VIP6) for port in range(42000, 42020)
                ]
            )
        )

    assert chosen[0] == chosen[1]
    assert set(chosen[0]) == set(NAMES)


def test_daemons_in_two_namespaces_do_not_know_each_other(two: tuple[Star, Star]) -> None:
    """The same service in both; one goes, the other stays."""
    one, other = two
    for star in two:
        create(star)
    assert one.names(VIP4, 2020, 4) == [*NAMES, "server1"]
    assert other.names(VIP4, 2020, 3) == NAMES

    one.lb.down()

    assert other.names(VIP6, 2020, 3) == NAMES
    with pytest.raises(OSError):
        one.ask(VIP4, 2020, timeout=0.5)


@pytest.mark.kernel
def test_forwarding_goes_on_while_the_daemon_is_away(fresh: Star) -> None:
    """Stopped and started again: live connections, order and counters survive."""
    fresh.lb.start()
    create(fresh)

    def scenario() -> list[str]:
        with connection(VIP4, 2020) as sock:
            answers = [ask_on(sock)]
            assert fresh.lb.stop() == 0
            answers += [ask_on(sock), ask(VIP4, 2020), ask(VIP6, 2020)]
            fresh.lb.start()
            answers += [ask_on(sock), ask(VIP4, 2020)]
        return [answer.server for answer in answers]

    assert fresh.client.call(scenario) == ["server1", "server1", "server2", "server1", "server1", "server3"]
    assert {row[0] for row in fresh.lb.rows("get lb")[1:]} == {VIP4, VIP6}
    assert "forwarding will end" not in fresh.lb.log()


def test_a_mount_namespace_that_takes_the_pins_along_is_warned_of(fresh: Star) -> None:
    """As that of ``ip netns exec``: neither the start nor the end says that forwarding stays, and it does not."""
    space, command = fresh.lb.namespace, ("--config", "none", "--store", "none")
    fresh.lab.undo(space.run, BIN / "loxilb", "down", "--store", "none")
    daemon = fresh.lab.process(space, "ip", "netns", "exec", space.name, BIN / "loxilb", *command)
    daemon.wait_line("ready in", deadline=60)
    create(fresh)
    assert fresh.ask(VIP4, 2020).server == "server1"
    assert "forwarding will end with this mount namespace" in daemon.log.read_text()

    daemon.stop()

    assert "stopped; forwarding ends with this mount namespace" in daemon.log.read_text()
    wait_for(lambda: refuses(fresh), deadline=60, what="the kernel to let go of the programs")


def refuses(star: Star) -> bool:
    """Tell whether nobody answers at a service any more."""
    try:
        star.ask(VIP4, 2020, timeout=0.5)
    except OSError:
        return True
    return False


def tcx_programs(index: int) -> int:
    """Return how many TCX programs an interface has, by BPF_PROG_QUERY of bpf(2)."""
    total = 0
    for hook in (46, 47):  # BPF_TCX_INGRESS, BPF_TCX_EGRESS
        attributes = ctypes.create_string_buffer(struct.pack("=IIIIQI", index, hook, 0, 0, 0, 0), 64)
        libc = ctypes.CDLL(None, use_errno=True)
        result = libc.syscall(321, 16, attributes, len(attributes))
        if result != 0 and ctypes.get_errno() != errno.ENOENT:
            raise OSError(ctypes.get_errno(), "BPF_PROG_QUERY")
        total += struct.unpack_from("=I", attributes, 24)[0]
    return total


def traces(star: Star) -> dict[str, object]:
    """Return all that a daemon may change in a namespace and outside it."""
    space = star.lb.namespace
    identity = space.call(netns.identity)
    links = json.loads(space.run("ip", "-j", "-d", "address"))
    indexes = {link["ifname"]: link["ifindex"] for link in links}
    places = (Path("/sys/fs/bpf"), Path("/run/loxilb"))
    return {
        "addresses": {link["ifname"]: sorted(a["local"] for a in link["addr_info"]) for link in links},
        "states": {link["ifname"]: (link["operstate"], link.get("xdp"), link.get("mtu")) for link in links},
        "routes": sorted(space.run("ip", "route").splitlines() + space.run("ip", "-6", "route").splitlines()),
        "tcx": {name: space.call(tcx_programs, index) for name, index in indexes.items()},
        "queues": sorted(re.sub(r" \d+: ", " ", line) for line in space.run("tc", "qdisc").splitlines()),
        "forwarding": space.run("sysctl", "net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"),
        "files": [str(path) for place in places for path in place.rglob("*") if identity in path.parts],
    }


@pytest.mark.parametrize("xdp", ["off", "on"])
def test_down_leaves_no_trace(fresh: Star, xdp: str) -> None:
    """Programs, pins, addresses, switches: all as before the first start."""
    before = traces(fresh)
    fresh.lb.start("--xdp", xdp)
    create(fresh)
    fresh.lb.create("3ffe::99", "--tcp=2020:8080", [f"{SERVERS6[0]}:1"])
    running = traces(fresh)
    assert {key for key in before if before[key] != running[key]} >= {"addresses", "tcx", "forwarding", "files"}
    assert (before["states"] != running["states"]) == (xdp == "on")

    fresh.lb.down()

    assert traces(fresh) == before
