# SPDX-License-Identifier: Apache-2.0
"""What every host does with service addresses: the one in memory, and the kernel's."""

import os
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import Protocol

import pytest

from loxilb.errors import KernelError
from loxilb.kernel.fake import FakeVipHost
from loxilb.kernel.netlink import Network
from loxilb.model import IPAddress, LinkKind, Port
from loxilb.model.port import IfIndex
from loxilb.ports import VipHost
from tests.support.lab import Lab
from tests.support.pair import Pair

V4, V6, FAR6 = map(ip_address, ("10.10.10.77", "3ffe::77", "2001::1"))


class Stage(Protocol):
    """A host with one interface ``eth1``, up and without addresses, and what may happen to it."""

    @property
    def host(self) -> VipHost:
        """Return the host under test."""

    def give(self, *addresses: str) -> None:
        """Give eth1 addresses."""

    def take(self, *addresses: str) -> None:
        """Take them away."""

    def down(self) -> None:
        """Take eth1 down; its IPv6 addresses go."""

    def up(self) -> None:
        """Bring it up."""

    def places(self) -> dict[IPAddress, str]:
        """Return where each held address is."""


class Memory:
    """The fake."""

    def __init__(self) -> None:
        self.host = FakeVipHost()
        eth1 = Port(index=IfIndex(2), name="eth1", kind=LinkKind.VETH, mac=b"\2" * 6, mtu=1500, up=True, carrier=True)
        self.host.interfaces = [eth1]

    def _change(self, **fields: object) -> None:
        self.host.interfaces = [replace(self.host.interfaces[0], **fields)]  # type: ignore[arg-type]

    def give(self, *addresses: str) -> None:
        self._change(addresses=(*self.host.interfaces[0].addresses, *map(ip_interface, addresses)))

    def take(self, *addresses: str) -> None:
        gone = {*map(ip_interface, addresses)}
        self._change(addresses=tuple(one for one in self.host.interfaces[0].addresses if one not in gone))

    def down(self) -> None:
        left = tuple(one for one in self.host.interfaces[0].addresses if one.version == 4)
        self._change(up=False, carrier=False, addresses=left)

    def up(self) -> None:
        self._change(up=True, carrier=True)

    def places(self) -> dict[IPAddress, str]:
        return {address: "lo" if place == 1 else "eth1" for address, place in self.host.places.items()}


class Kernel:
    """The kernel, in two namespaces."""

    def __init__(self, network: Network, pair: Pair) -> None:
        self.host, self._pair = network, pair

    def give(self, *addresses: str) -> None:
        self._pair.here.ip(*(f"addr add {one} dev eth1 nodad" for one in addresses))

    def take(self, *addresses: str) -> None:
        self._pair.here.ip(*(f"addr del {one} dev eth1" for one in addresses))

    def down(self) -> None:
        self._pair.here.ip("link set eth1 down")

    def up(self) -> None:
        self._pair.here.ip("link set eth1 up")

    def places(self) -> dict[IPAddress, str]:
        found = self._pair.addresses()
        held = ((name, ip_interface(one)) for name in found for one in found[name] if one not in ("::1/128",))
        return {one.ip: name for name, one in held if one.network.prefixlen == one.max_prefixlen}


@pytest.fixture(params=["fake", pytest.param("netlink", marks=pytest.mark.must_run)])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    """Return a host that holds nothing."""
    if request.param == "fake":
        yield Memory()
        return
    if os.geteuid() != 0:
        pytest.skip("rtnetlink needs root")
    with Lab(folder=tmp_path) as lab:
        here, peer = lab.namespace("here"), lab.namespace("peer")
        lab.link(here, "eth1", peer, "eth1")
        with here.call(Network.open) as network:
            yield Kernel(network, Pair(here, peer, network))


def test_an_address_is_taken_and_given_up(stage: Stage) -> None:
    stage.host.hold(V4)
    stage.host.hold(V4)
    assert stage.places() == {V4: "lo"}

    stage.host.release(V4)
    stage.host.release(V4)
    assert stage.places() == {}


def crowd() -> tuple[IPAddress, ...]:
    """Return addresses of both families, more than go into one message to the kernel."""
    return tuple(one for at in range(700) for one in (V4 + 1000 + at, V6 + 1000 + at))


def test_many_addresses_are_taken_and_given_up_at_once(stage: Stage) -> None:
    stage.give("3ffe::2/64")
    stage.host.hold(V4, *crowd(), V4)
    assert stage.places() == {V4: "lo"} | {one: "lo" if one.version == 4 else "eth1" for one in crowd()}

    stage.host.release(*crowd())
    assert stage.places() == {V4: "lo"}


def test_all_addresses_are_taken_or_none(stage: Stage) -> None:
    """No interface can have a multicast address of IPv6."""
    stage.host.hold(V4)
    with pytest.raises(KernelError, match="EADDRNOTAVAIL"):
        stage.host.hold(V4, *crowd(), ip_address("ff0e::1"))
    assert stage.places() == {V4: "lo"}

    stage.host.hold(*crowd())
    assert len(stage.places()) == 1 + len(crowd())


def test_only_ipv6_moves_to_a_subnet_that_comes(stage: Stage) -> None:
    for address in (V4, V6, FAR6):
        stage.host.hold(address)
    stage.host.refresh()
    assert set(stage.places().values()) == {"lo"}

    stage.give("10.10.10.254/24", "3ffe::2/64")
    stage.host.refresh()
    stage.host.refresh()

    assert stage.places() == {V4: "lo", V6: "eth1", FAR6: "lo"}


def test_an_address_stays_where_it_is_when_only_the_subnet_goes(stage: Stage) -> None:
    stage.give("3ffe::2/64")
    stage.host.hold(V6)

    stage.take("3ffe::2/64")
    stage.host.refresh()

    assert stage.places() == {V6: "eth1"}


def test_an_address_comes_back_when_its_interface_goes_down(stage: Stage) -> None:
    stage.give("10.10.10.254/24", "3ffe::2/64")
    stage.host.hold(V4)
    stage.host.hold(V6)

    stage.down()
    stage.host.refresh()
    assert stage.places() == {V4: "lo", V6: "lo"}

    stage.up()
    stage.give("3ffe::2/64")
    stage.host.refresh()
    assert stage.places() == {V4: "lo", V6: "eth1"}


def test_an_address_that_somebody_else_brings_stays_theirs(stage: Stage) -> None:
    stage.host.hold(V6)
    stage.give(f"{V6}/64")

    stage.host.refresh()
    assert stage.places() == {V6: "lo"}
    stage.host.release(V6)

    assert stage.places() == {}
    stage.host.hold(V6)
    assert stage.places() == {}


def test_releasing_finds_it_where_it_was_moved_to(stage: Stage) -> None:
    stage.host.hold(V6)
    stage.give("3ffe::2/64")
    stage.host.refresh()

    stage.host.release(V6)

    assert stage.places() == {}
