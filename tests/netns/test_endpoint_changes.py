# SPDX-License-Identifier: Apache-2.0
"""Endpoints that come and go, on real traffic: what is open stays open, or ends as the rule says."""

import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.lab import wait_for
from tests.support.lab_star import PORT, SERVERS4, SERVERS6, Star
from tests.support.traffic import ask, ask_on, connection

pytestmark = pytest.mark.must_run
VIP4, VIP6 = "20.20.20.1", "2001::1"
NAMES = ["server1", "server2", "server3"]
MANY = 100
by_family = pytest.mark.parametrize(("vip", "servers"), [(VIP4, SERVERS4), (VIP6, SERVERS6)], ids=["ipv4", "ipv6"])


def put(star: Star, vip: str, endpoints: list[tuple[str, int]], **arguments: object) -> None:
    """Create or replace a rule; an endpoint is address and weight."""
    wanted = {"externalIP": vip, "port": 2020, "protocol": "tcp"} | arguments
    places = [{"endpointIP": one, "targetPort": PORT, "weight": weight} for one, weight in endpoints]
    star.lb.api("POST", "/config/loadbalancer", {"serviceArguments": wanted, "endpoints": places})


def evenly(servers: tuple[str, ...]) -> list[tuple[str, int]]:
    """Return endpoints of equal weight."""
    return [(one, 1) for one in servers]


def shown(star: Star) -> list[list[str]]:
    """Return address, state and counters of each endpoint, removed ones last."""
    return [[row[10], *row[13:]] for row in star.lb.rows("get lb -o wide")[1:]]


def is_open(sock: socket.socket) -> str:
    """Return who answers on an open connection; empty when it was reset."""
    try:
        return ask_on(sock).server
    except ConnectionError:
        return ""


def test_each_step_of_a_rule_that_is_made_again_is_followed(star: Star) -> None:
    """One endpoint, two, one, two: new connections match the set, and those to the first go on."""

    def scene() -> list[object]:
        seen: list[object] = []
        with ExitStack() as stack:
            for count in (1, 2, 1, 2):
                put(star, VIP4, evenly(SERVERS4[:count]))
                if not seen:
                    first = stack.enter_context(connection(VIP4, 2020))
                seen += [Counter(ask(VIP4, 2020).server for _ in range(6)), ask_on(first).server]
        return seen

    both = {"server1": 3, "server2": 3}
    assert star.client.call(scene) == [{"server1": 6}, "server1", both, "server1"] * 2


CHANGES: list[dict[str, object]] = [
    {"mode": 2},
    {"mode": 1},
    {"sel": 4},
    {"sel": 1},
    {"sel": 2},
    {"sel": 3, "persistTimeout": 60},
    {"inactiveTimeOut": 100},
    {"monitor": True, "probeTimeout": 1},
    {"monitor": True, "probetype": "http", "probeport": PORT, "probeTimeout": 1},
    {"onEndpointLoss": "drain", "drainTimeout": 60, "slowStart": 60},
    {"name": "other"},
    {},
]


@by_family
def test_whatever_is_changed_an_open_connection_survives(star: Star, vip: str, servers: tuple[str, ...]) -> None:
    """Fields of the rule, weights, endpoints that come and go beside; the counter goes on."""

    def scene() -> list[str]:
        put(star, vip, evenly(servers[:1]))
        with connection(vip, 2020) as sock:
            seen = [ask_on(sock).server]
            for number, change in enumerate(CHANGES):
                others = evenly(servers[1 : 2 + number % 2])
                put(star, vip, [(servers[0], 2 + number), *others], **change)
                seen.append(ask_on(sock).server)
        return seen

    assert star.client.call(scene) == ["server1"] * (1 + len(CHANGES))
    packets = int(shown(star)[0][-1].partition(":")[0])
    assert packets >= 3 + 2 * (1 + len(CHANGES))


@by_family
def test_what_is_removed_may_drain(star: Star, vip: str, servers: tuple[str, ...]) -> None:
    """The connection goes on, new ones go elsewhere; after its end the endpoint goes."""
    states: list[str] = []

    def scene() -> list[object]:
        put(star, vip, evenly(servers), onEndpointLoss="drain", drainTimeout=60)
        with connection(vip, 2020) as sock:
            seen: list[object] = [ask_on(sock).server]
            put(star, vip, evenly(servers[1:]), onEndpointLoss="drain", drainTimeout=60)
            seen += [is_open(sock), Counter(ask(vip, 2020).server for _ in range(6)), is_open(sock)]
            states.extend(row[1] for row in shown(star))
        return seen

    seen = star.client.call(scene)
    assert seen == ["server1", "server1", {"server2": 3, "server3": 3}, "server1"]
    assert states[:2] == ["-", "-"]
    assert states[2].startswith("draining, 1 flow, ")
    wait_for(lambda: len(shown(star)) == 2, deadline=10, what=f"the end of what drained: {shown(star)}")


def test_what_drains_ends_at_its_time_and_what_is_kept_does_not(star: Star) -> None:
    """A connection to each of two endpoints: after a second the one to drain is over."""

    def scene() -> list[str]:
        put(star, VIP4, evenly(SERVERS4[:2]), onEndpointLoss="keep")
        put(star, VIP4, evenly(SERVERS4[:2]), onEndpointLoss="drain", drainTimeout=1, port=2021)
        with connection(VIP4, 2020) as kept, connection(VIP4, 2021) as drained:
            seen = [is_open(kept), is_open(drained)]
            put(star, VIP4, evenly(SERVERS4[1:2]), onEndpointLoss="keep")
            put(star, VIP4, evenly(SERVERS4[1:2]), onEndpointLoss="drain", drainTimeout=1, port=2021)
            seen += [is_open(drained)]
            wait_for(lambda: len(shown(star)) == 3, deadline=10, what=f"the end of what drained: {shown(star)}")
            wait_for(lambda: not is_open(drained), deadline=10, what="the end of its connection")
            seen += [is_open(kept)]
        return seen

    assert star.client.call(scene) == ["server1"] * 4


def test_a_restart_ends_nothing(star: Star, request: pytest.FixtureRequest) -> None:
    """The next daemon finds what drains, and takes it back when it is wanted again."""
    xdp = request.node.callspec.params["running_star"]

    def again() -> list[list[str]]:
        star.lb.stop()
        star.lb.start("--xdp", xdp)
        return shown(star)

    def scene() -> list[object]:
        put(star, VIP4, evenly(SERVERS4[:2]), onEndpointLoss="drain")
        with connection(VIP4, 2020) as sock:
            seen: list[object] = [is_open(sock)]
            put(star, VIP4, evenly(SERVERS4[1:2]), onEndpointLoss="drain")
            seen += [[row[0] for row in again()], is_open(sock), ask(VIP4, 2020).server]
            put(star, VIP4, evenly(SERVERS4[:2]), onEndpointLoss="drain")
            seen += [is_open(sock), [row[1] for row in shown(star)]]
        return seen

    assert star.client.call(scene) == [
        "server1",
        [SERVERS4[1], SERVERS4[0]],
        "server1",
        "server2",
        "server1",
        ["-", "-"],
    ]


@pytest.mark.parametrize("sel", [0, 2], ids=["rr", "priority"])
def test_a_new_endpoint_starts_slowly(star: Star, sel: int) -> None:
    """One of 21 at first; in the end a third, exactly."""
    put(star, VIP4, evenly(SERVERS4[:2]), sel=sel, slowStart=5)
    assert Counter(star.names(VIP4, 2020, 10)) == {"server1": 5, "server2": 5}

    put(star, VIP4, evenly(SERVERS4), sel=sel, slowStart=5)
    first = Counter(star.names(VIP4, 2020, 21))
    states = [row[1] for row in shown(star)]
    assert first["server3"] <= 3
    assert states[:2] == ["-", "-"]
    assert states[2].startswith("active, ")

    wait_for(lambda: shown(star)[2][1] == "-", deadline=20, what="the full share")
    assert Counter(star.names(VIP4, 2020, 30)) == dict.fromkeys(NAMES, 10)


@pytest.fixture
def addresses(star: Star) -> Iterator[list[str]]:
    """Return a hundred addresses on each server, in the order in which a rule keeps them."""
    found = [[f"35.{35 + server}.{host}.1" for host in range(MANY)] for server in range(3)]
    for server, namespace in enumerate(star.servers):
        namespace.ip(*(f"addr add {address}/32 dev lo" for address in found[server]))
        star.lb.namespace.ip(f"route add 35.{35 + server}.0.0/16 via {SERVERS4[server]}")
    yield [address for group in zip(*found, strict=True) for address in group]
    for server, namespace in enumerate(star.servers):
        star.lb.namespace.ip(f"route del 35.{35 + server}.0.0/16")
        namespace.ip(*(f"addr del {address}/32 dev lo" for address in found[server]))


def test_a_rule_of_three_hundred_endpoints_reaches_all(star: Star, addresses: list[str]) -> None:
    """In strict order, sorted by the last octet first; each has had one connection in the end."""
    put(star, VIP4, evenly(tuple(addresses)))

    assert star.names(VIP4, 2020, 3 * MANY) == NAMES * MANY
    (rule,) = star.lb.api("GET", "/config/loadbalancer/all")["lbAttr"]
    assert [one["endpointIP"] for one in rule["endpoints"]] == addresses
    assert {int(one["counter"].partition(":")[0]) > 0 for one in rule["endpoints"]} == {True}
    assert star.names(VIP4, 2020, 3) == NAMES
