# SPDX-License-Identifier: Apache-2.0
"""Service addresses follow the interfaces: where they are on link, and when that is looked at."""

import asyncio
from dataclasses import replace
from ipaddress import ip_address, ip_interface

import pytest

from loxilb.errors import KernelError
from loxilb.kernel.fake import FakeDataPlane, FakeNetwork
from loxilb.kernel.netlink.subnets import connected
from loxilb.model import LinkKind, Mode, Port
from loxilb.model.port import IfIndex
from loxilb.services.config import ConfigurationService
from loxilb.services.store import SqliteStore
from tests.support.services import key, service

V4, V6 = ip_address("20.20.20.1"), ip_address("2001::1")
ENDPOINT, SOURCE = ip_address("31.31.31.1"), ip_address("31.31.31.254")


def port(index: int, *addresses: str, up: bool = True, carrier: bool = True, master: int = 0) -> Port:
    return Port(
        index=IfIndex(index),
        name=f"eth{index}",
        kind=LinkKind.VETH,
        mac=b"\2" * 6,
        mtu=1500,
        up=up,
        carrier=carrier,
        master=IfIndex(master) if master else None,
        addresses=tuple(map(ip_interface, addresses)),
    )


@pytest.mark.parametrize(
    ("ports", "preferred", "found"),
    [
        ([], None, None),
        ([port(2, "20.20.21.1/24", "2001::1/64")], None, None),
        ([port(2, "20.20.20.9/24")], None, 2),
        ([port(2, "20.20.20.1/32")], None, None),
        ([port(2, "20.20.0.9/16"), port(3, "20.20.20.9/24"), port(4, "20.20.20.8/30")], None, 3),
        ([port(3, "20.20.20.9/24"), port(2, "20.20.20.8/24")], None, 2),
        ([port(3, "20.20.20.9/24"), port(2, "20.20.20.8/24")], 3, 3),
        ([port(3, "20.20.0.9/16"), port(2, "20.20.20.8/24")], 3, 2),
        ([port(2, "20.20.20.9/24", up=False)], None, None),
        ([port(2, "20.20.20.9/24", carrier=False)], None, None),
        ([port(2, "20.20.20.9/24", master=7)], None, None),
    ],
)
def test_an_address_is_on_link_by_the_longest_prefix_of_an_interface_that_works(ports, preferred, found):
    link = connected(V4, ports, preferred=preferred)

    assert (link.index if link else None) == found


class Stage:
    """A configuration service on a host with one interface."""

    def __init__(self, network: FakeNetwork | None = None, store: SqliteStore | None = None) -> None:
        self.network = network or FakeNetwork()
        if network is None:
            self.network.interfaces = [port(2)]
        self.store = store or SqliteStore.open(None)
        self.service = ConfigurationService(
            data_plane=FakeDataPlane(), vip_host=self.network, links=self.network, store=self.store
        )

    def connect(self, **fields: object) -> None:
        """Give the interface its subnets."""
        subnets = ip_interface("20.20.20.9/24"), ip_interface("2001::9/64")
        self.network.interfaces = [replace(port(2), addresses=subnets, **fields)]  # type: ignore[arg-type]


async def put_both(stage: Stage) -> None:
    await stage.service.put(service())
    await stage.service.put(service(("4ffe::1,80",), of=key(str(V6))))


@pytest.fixture
def stage():
    made = Stage()
    yield made
    made.service.close()


def test_a_subnet_that_comes_later_is_told_once(stage):
    async def scene() -> None:
        await put_both(stage)
        await stage.service.refresh_addresses()
        assert stage.network.announced == []
        stage.connect()
        await stage.service.refresh_addresses()
        await stage.service.refresh_addresses()

    asyncio.run(scene())

    assert stage.network.announced == [(V4, "eth2"), (V6, "eth2")]
    assert stage.network.places == {V4: 1, V6: 2}


@pytest.mark.parametrize("change", [{"carrier_changes": 2}, {"mac": b"\4" * 6}, {"index": IfIndex(3)}], ids=str)
def test_a_link_that_came_back_is_told_again(stage, change):
    async def scene() -> None:
        stage.connect()
        await put_both(stage)
        stage.connect(**change)
        await stage.service.refresh_addresses()

    asyncio.run(scene())

    assert stage.network.announced == [(V4, "eth2"), (V6, "eth2")] * 2


def test_a_change_of_routes_alone_is_no_reason_to_look(stage):
    async def scene() -> None:
        await put_both(stage)
        stage.connect()
        await stage.service.refresh_sources()

    asyncio.run(scene())

    assert stage.network.announced == []


def test_an_address_that_is_refused_keeps_nobody_else_back(stage):
    async def scene() -> None:
        await stage.service.put(service((f"{ENDPOINT},8080",), mode=Mode.ONEARM))
        await stage.service.put(service(("4ffe::1,80",), of=key("2001::2")))
        await stage.service.put(service(("4ffe::1,80",), of=key(str(V6))))
        stage.network.refused = {ip_address("2001::2")}
        stage.network.routes[ENDPOINT] = SOURCE
        stage.connect()
        with pytest.raises(KernelError, match="2001::2"):
            await stage.service.refresh_addresses()
        await stage.service.refresh_sources()

        (status, *_) = await stage.service.accounts()
        assert {entry.source for entry in status.slots.values()} == {SOURCE}
        stage.network.refused = set()
        await stage.service.refresh_addresses()

    asyncio.run(scene())

    assert [address for address, _ in stage.network.announced] == [V4, V6, ip_address("2001::2")]


def test_a_start_finds_a_subnet_that_came_while_nobody_looked(stage):
    asyncio.run(put_both(stage))
    stage.connect()

    async def scene(again: Stage) -> None:
        await again.service.start()

    asyncio.run(scene(later := Stage(stage.network, stage.store)))
    later.service.close()

    assert stage.network.places == {V4: 1, V6: 2}
    assert stage.network.announced == [(V4, "eth2"), (V6, "eth2")]
