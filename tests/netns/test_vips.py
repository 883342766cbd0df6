# SPDX-License-Identifier: Apache-2.0
"""Service addresses follow their subnets: what a neighbour hears, and whom it reaches."""

import socket
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from loxilb.kernel.netlink import Network
from loxilb.model import IPAddress
from tests.support.lab import Lab, Namespace, wait_for
from tests.support.lab_star import LoadBalancer
from tests.support.pair import Pair, announced, answers, sniff, until

pytestmark = pytest.mark.must_run
V4, V6 = ip_address("10.10.10.77"), ip_address("3ffe::77")
LAST4, LAST6 = ip_address("10.10.10.78"), ip_address("3ffe::78")
SUBNETS = ("10.10.10.254/24", "3ffe::2/64")
REPEATS = 3
both = pytest.mark.parametrize("address", [V4, V6], ids=["v4", "v6"])


def connect(namespace: Namespace) -> None:
    """Give eth1 its subnets."""
    namespace.ip(*(f"addr replace {subnet} dev eth1 nodad" for subnet in SUBNETS))


def disconnect(namespace: Namespace) -> None:
    """Take them away."""
    namespace.ip(*(f"addr del {subnet} dev eth1" for subnet in SUBNETS))


def hear(raw: socket.socket, address: IPAddress, count: int = 1) -> list[bytes]:
    """Return the next frames that announce an address; TimeoutError when they do not come."""
    return until(raw, lambda frame: announced(frame) == address.packed, count)


def hear_next(raw: socket.socket) -> bytes:
    """Return the next address of a service that is announced."""
    known = {one.packed for one in (V4, V6, LAST4, LAST6)}
    (frame,) = until(raw, lambda frame: announced(frame) in known, 1)
    return announced(frame)


@pytest.fixture
def ears(pair: Pair) -> Iterator[socket.socket]:
    """Return a socket that hears what the neighbour hears."""
    with sniff(pair.peer, "eth1") as raw:
        yield raw


@both
def test_a_subnet_that_comes_later_is_told_of_the_address(pair: Pair, ears: socket.socket, address: IPAddress) -> None:
    """Announced three times and answered, though it was taken before."""
    disconnect(pair.here)
    pair.network.hold(address)
    pair.network.refresh()
    assert f"{address}/{address.max_prefixlen}" in pair.addresses()["lo"]

    connect(pair.here)
    pair.network.refresh()

    for frame in hear(ears, address, REPEATS):
        assert frame[6:12] == pair.here.mac("eth1")
    wait_for(lambda: pair.answers(address), what="answer")
    assert (f"{V6}/128" in pair.addresses()["eth1"]) == (address == V6)


def test_each_of_many_is_told_once_before_any_is_told_again(pair: Pair, ears: socket.socket) -> None:
    """More than are sent at once: the others follow, and their repetitions after them."""
    crowd = [V4 + at for at in range(1, 150)]
    pair.network.hold(*crowd)

    heard = [announced(frame) for frame in until(ears, lambda frame: announced(frame) != b"", len(crowd))]

    assert sorted(heard) == sorted(one.packed for one in crowd)


@both
def test_a_link_that_was_down_is_told_again(pair: Pair, ears: socket.socket, address: IPAddress) -> None:
    """The switch behind it may have forgotten; the kernel has thrown the IPv6 addresses away."""
    pair.network.hold(address)
    hear(ears, address, REPEATS)

    pair.here.ip("link set eth1 down")
    pair.network.refresh()
    assert f"{address}/{address.max_prefixlen}" in pair.addresses()["lo"]
    pair.here.ip("link set eth1 up")
    connect(pair.here)
    pair.network.refresh()

    hear(ears, address, REPEATS)
    wait_for(lambda: pair.answers(address), what="answer")


@both
def test_a_flap_too_short_to_be_seen_is_noticed(pair: Pair, ears: socket.socket, address: IPAddress) -> None:
    """Down and up again between two looks: the kernel counts it."""
    pair.network.hold(address)
    hear(ears, address, REPEATS)

    pair.here.ip("link set eth1 down", "link set eth1 up", "addr replace 3ffe::2/64 dev eth1 nodad")
    pair.network.refresh()

    hear(ears, address)
    wait_for(lambda: pair.answers(address), what="answer")


@both
def test_a_new_link_layer_address_is_told(pair: Pair, ears: socket.socket, address: IPAddress) -> None:
    """Neighbours would go on sending to the old one; nothing repeats that one any more."""
    pair.network.hold(address)
    hear(ears, address)

    pair.here.ip("link set eth1 address 02:00:00:00:00:42")
    pair.network.refresh()

    new = bytes.fromhex("020000000042")
    until(ears, lambda frame: announced(frame) == address.packed and frame[6:12] == new, 1)
    assert {frame[6:12] for frame in hear(ears, address, REPEATS - 1)} == {new}


@both
def test_nothing_new_is_nothing_to_tell(pair: Pair, ears: socket.socket, address: IPAddress) -> None:
    """Refreshed again and again: the next to be heard is the next to be held."""
    last = LAST4 if address == V4 else LAST6
    pair.network.hold(address)
    pair.network.refresh()
    hear(ears, address, REPEATS)
    before = pair.addresses()

    pair.network.refresh()
    pair.network.refresh()
    pair.network.hold(last)

    assert hear_next(ears) == last.packed
    pair.network.release(last)
    assert pair.addresses() == before


def test_addresses_of_others_are_never_touched(pair: Pair, ears: socket.socket) -> None:
    """What the host had, and what it was given while we held the same; nor are those announced."""
    pair.here.ip("addr add 3ffe::9/128 dev lo", "addr add 10.10.10.9/32 dev lo")
    disconnect(pair.here)
    for address in (V4, V6, ip_address("3ffe::9"), ip_address("10.10.10.9")):
        pair.network.hold(address)
    pair.here.ip("addr add 10.10.10.77/24 dev eth1", "addr add 3ffe::77/64 dev eth1 nodad")
    before = pair.addresses()

    pair.network.refresh()
    assert pair.addresses() == before
    pair.network.hold(LAST4)
    assert hear_next(ears) == LAST4.packed
    pair.network.release(V4)
    pair.network.release(V6)

    assert {"10.10.10.77/24", "3ffe::77/64"} < {*pair.addresses()["eth1"]}
    assert {"10.10.10.9/32", "3ffe::9/128"} < {*pair.addresses()["lo"]}
    assert not {"10.10.10.77/32", "3ffe::77/128"} & {*pair.addresses()["lo"]}


@both
def test_a_later_process_moves_what_an_earlier_one_took(pair: Pair, ears: socket.socket, address: IPAddress) -> None:
    """Found by its mark, moved, announced, and removed from where it is then."""
    disconnect(pair.here)
    before = pair.addresses()
    pair.network.hold(address)
    connect(pair.here)

    with pair.here.call(Network.open) as later:
        later.refresh()
        hear(ears, address)
        assert (f"{V6}/128" in pair.addresses()["eth1"]) == (address == V6)
        assert f"{V6}/128" not in pair.addresses()["lo"]
    with pair.here.call(Network.open) as last:
        assert last.remove_all() == 1

    disconnect(pair.here)
    assert pair.addresses() == before


def test_an_address_left_in_two_places_is_put_into_one(pair: Pair) -> None:
    """A process may die between the two steps of a move."""
    pair.network.hold(V6)
    pair.here.ip(f"addr add {V6}/128 dev lo metric 11111 nodad")

    with pair.here.call(Network.open) as later:
        later.refresh()

    assert f"{V6}/128" in pair.addresses()["eth1"]
    assert f"{V6}/128" not in pair.addresses()["lo"]


def test_the_daemon_follows(lab: Lab) -> None:
    """Services are made first, the interface gets its subnets later, and loses its link."""
    here, peer = lab.namespace("lb"), lab.namespace("peer")
    lab.link(here, "eth1", peer, "eth1")
    peer.ip("addr add 10.10.10.1/24 dev eth1", "addr add 3ffe::1/64 dev eth1 nodad")
    here.ip("link set eth1 down")
    daemon = LoadBalancer(lab, here)
    daemon.start("--xdp", "off")
    for address, endpoint in ((V4, "31.31.31.1:1"), (V6, "4ffe::1:1")):
        daemon.create(str(address), "--tcp=2020:8080", [endpoint])

    with sniff(peer, "eth1") as ears:
        for _ in range(2):
            here.ip("link set eth1 up")
            connect(here)
            heard = {hear_next(ears)}
            while heard != {V4.packed, V6.packed}:
                heard.add(hear_next(ears))
            for address in (V4, V6):
                wait_for(lambda address=address: answers(peer, address), what="answer")  # type: ignore[misc]
            until(ears, lambda frame: announced(frame) == V6.packed, REPEATS - 1)
            here.ip("link set eth1 down")
    assert "error" not in daemon.log()
