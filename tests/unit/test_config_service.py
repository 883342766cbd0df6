# SPDX-License-Identifier: Apache-2.0
"""The configuration service over a kernel in memory."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from ipaddress import ip_address
from typing import Any

import pytest
from structlog.testing import capture_logs

from loxilb.errors import Conflict, InvalidRequest, KernelError, NotBuilt, NotFound
from loxilb.kernel.fake import FakeDataPlane, FakeLinks, FakeVipHost
from loxilb.model import Counter, IPAddress, L4Protocol, LinkKind, Mode, Port, Selection
from loxilb.model.image import Image, Op
from loxilb.model.port import IfIndex
from loxilb.plan import Limits, listeners_of
from loxilb.services.config import ConfigurationService
from loxilb.services.store import SqliteStore
from tests.support.services import key, service

VIP = ip_address("20.20.20.1")


class Stage:
    """A configuration service and the fakes it works on."""

    def __init__(self, fake: FakeDataPlane | None = None, limits: Limits | None = None) -> None:
        self.fake = fake or FakeDataPlane(limits)
        self.host = FakeVipHost()
        self.links = FakeLinks()
        self.hooks: dict[IfIndex, tuple[str, ...]] = {}
        self.service = ConfigurationService(
            data_plane=self.fake,
            vip_host=self.host,
            links=self.links,
            store=SqliteStore.open(None),
            limits=limits,
            hooks=self.hooks,
        )

    async def keys(self) -> list[str]:
        """Return address and port of every service."""
        found = [status.service.key for status in await self.service.services()]
        return [f"{one.address},{one.port},{one.protocol.value}" for one in found]


Play = Callable[[Stage], Coroutine[Any, Any, None]]


def play(scene: Play, stage: Stage | None = None) -> Stage:
    """Run a scene on a stage that is closed afterwards."""
    stage = stage or Stage()
    try:
        asyncio.run(scene(stage))
    finally:
        stage.service.close()
    return stage


def test_a_service_is_programmed_and_its_address_held():
    async def scene(stage: Stage) -> None:
        await stage.service.put(service())

    stage = play(scene)

    assert set(stage.fake.observe().listeners) == set(listeners_of(service()))
    assert stage.host.addresses == {VIP}


def test_deleting_it_leaves_nothing():
    async def scene(stage: Stage) -> None:
        await stage.service.put(service())
        await stage.service.delete(key())

        assert await stage.service.services() == []

    stage = play(scene)

    assert stage.fake.observe() == Image()
    assert stage.host.addresses == set()


def test_services_share_an_address():
    async def scene(stage: Stage) -> None:
        await stage.service.put(service())
        await stage.service.put(service(of=key(protocol=L4Protocol.UDP)))
        await stage.service.delete(key())
        assert stage.host.addresses == {VIP}

        await stage.service.delete(key(protocol=L4Protocol.UDP))
        assert stage.host.addresses == set()

    play(scene)


def test_secondary_addresses_are_held_like_the_first():
    async def scene(stage: Stage) -> None:
        further = tuple(map(ip_address, ("20.20.20.9", "10.0.0.2")))
        await stage.service.put(service(secondary_addresses=further))
        await stage.service.put(service(of=key("20.20.20.9", 80)))
        assert stage.host.addresses == {VIP, *further}

        with pytest.raises(Conflict) as caught:
            await stage.service.put(service(secondary_addresses=further[:1]))
        assert caught.value.code == "secIP modify error"
        await stage.service.put(service(secondary_addresses=further[::-1], inactive_timeout=30))
        await stage.service.delete(key())
        assert stage.host.addresses == {further[0]}

    play(scene)


class CountingHost(FakeVipHost):
    """Notes every call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def hold(self, *addresses: IPAddress) -> None:
        self.calls += [f"hold {address}" for address in addresses]
        super().hold(*addresses)

    def release(self, *addresses: IPAddress) -> None:
        self.calls += [f"release {address}" for address in addresses]
        super().release(*addresses)


def test_an_address_is_touched_by_its_first_and_last_service_only():
    host = CountingHost()

    async def scene(stage: Stage) -> None:
        again = ConfigurationService(
            data_plane=stage.fake, vip_host=host, links=stage.links, store=SqliteStore.open(None)
        )
        for number in (1, 2):
            await again.put(service(of=key(port=number)))
        await again.put(service(of=key("20.20.20.2")))
        for number in (1, 2):
            await again.delete(key(port=number))
        again.close()

    play(scene)

    assert host.calls == ["hold 20.20.20.1", "hold 20.20.20.2", "release 20.20.20.1"]


@pytest.mark.parametrize(
    "foreign", [service(name="ipvs_20.20.20.1"), service(name="a-static-b"), service(of=key("0.0.0.0"))]
)
def test_some_addresses_are_not_held(foreign):
    async def scene(stage: Stage) -> None:
        await stage.service.put(foreign)
        assert stage.host.addresses == set()
        await stage.service.delete(foreign.key)

    play(scene)


def test_the_private_address_is_held_and_followed():
    async def scene(stage: Stage) -> None:
        await stage.service.put(service(private_address=ip_address("10.0.0.9")))
        assert stage.host.addresses == {ip_address("10.0.0.9")}

        await stage.service.put(service())
        assert stage.host.addresses == {VIP}

    play(scene)


def test_an_address_that_was_there_before_stays():
    async def scene(stage: Stage) -> None:
        stage.host = FakeVipHost([VIP])
        again = ConfigurationService(
            data_plane=stage.fake, vip_host=stage.host, links=stage.links, store=SqliteStore.open(None)
        )
        await again.put(service())
        await again.delete(key())
        again.close()

    assert play(scene).host.addresses == {VIP}


def test_an_identical_service_is_a_conflict_and_changes_nothing():
    async def scene(stage: Stage) -> None:
        await stage.service.put(service())
        with pytest.raises(Conflict):
            await stage.service.put(service())

    assert len(play(scene).fake.applied) == 1


def test_a_name_alone_changes_without_touching_the_data_plane():
    async def scene(stage: Stage) -> None:
        await stage.service.put(service())
        await stage.service.put(service(name="new"))

        (status,) = await stage.service.services()
        assert status.service.name == "new"

    assert len(play(scene).fake.applied) == 1


def test_attach_and_detach_keep_the_counters_of_the_others():
    async def scene(stage: Stage) -> None:
        await stage.service.put(service(("31.31.31.1,8080", "32.32.32.1,8080")))
        (listener,) = listeners_of(service())
        stage.fake.connect(listener, ip_address("10.10.10.1"), 4000)
        await stage.service.attach(service(("33.33.33.1,8080",)))
        stage.fake.connect(listener, ip_address("10.10.10.1"), 4001)
        await stage.service.detach(service(("31.31.31.1,8080",)))

        (status,) = await stage.service.services()
        assert [str(one.address) for one in status.service.endpoints] == ["32.32.32.1", "33.33.33.1"]
        assert [one.counter for one in status.endpoints] == [Counter(packets=1, bytes=40), Counter()]
        assert [one.state.value for one in status.endpoints] == ["active", "active"]

    play(scene)


def test_detaching_the_last_endpoint_deletes():
    async def scene(stage: Stage) -> None:
        await stage.service.put(service())
        await stage.service.detach(service())

    stage = play(scene)

    assert stage.fake.observe() == Image()
    assert stage.host.addresses == set()


def test_what_is_missing_is_not_found():
    async def scene(stage: Stage) -> None:
        with pytest.raises(NotFound) as caught:
            await stage.service.delete(key())
        assert caught.value.code == "no-rule error"
        with pytest.raises(NotFound) as caught:
            await stage.service.detach(service())
        assert caught.value.code == "lbrule not-exists error"

    play(scene)


def test_deleting_by_name_and_all():
    async def scene(stage: Stage) -> None:
        for number in range(1, 5):
            await stage.service.put(service(of=key(port=number), name="even" if number % 2 == 0 else "odd"))

        assert await stage.service.delete_named("even") == 2
        assert await stage.keys() == ["20.20.20.1,1,tcp", "20.20.20.1,3,tcp"]
        assert await stage.service.delete_named("none") == 0
        assert await stage.service.delete_all() == 2
        assert await stage.service.delete_all() == 0

    assert play(scene).fake.observe() == Image()


def test_services_come_in_the_order_of_their_keys():
    async def scene(stage: Stage) -> None:
        places = [("2001::1", 1), ("20.20.20.10", 1), ("20.20.20.9", 2), ("20.20.20.9", 1)]
        for vip, port in places:
            endpoints = ("4ffe::1,80",) if ":" in vip else ("31.31.31.1,80",)
            await stage.service.put(service(endpoints, of=key(vip, port)))
        await stage.service.put(service(of=key("20.20.20.9", 1, L4Protocol.UDP)))

        assert await stage.keys() == [
            "20.20.20.9,1,tcp",
            "20.20.20.9,2,tcp",
            "20.20.20.9,1,udp",
            "20.20.20.10,1,tcp",
            "2001::1,1,tcp",
        ]

    play(scene)


@pytest.mark.parametrize("broken", [service(selection=Selection.N2), service(of=key(port=2020, port_max=2021))])
def test_a_refused_request_changes_nothing(broken):
    async def scene(stage: Stage) -> None:
        await stage.service.put(service())
        with pytest.raises((NotBuilt, Conflict)):
            await stage.service.put(broken)
        assert await stage.keys() == ["20.20.20.1,2020,tcp"]

    assert len(play(scene).fake.applied) == 1


def test_a_limit_is_an_error_and_the_next_request_works():
    async def scene(stage: Stage) -> None:
        await stage.service.put(service())
        with pytest.raises(InvalidRequest) as caught:
            await stage.service.put(service(of=key("20.20.20.2")))
        assert caught.value.code == "rule-hwm error"
        await stage.service.delete(key())
        await stage.service.put(service(of=key("20.20.20.2")))

    play(scene, Stage(limits=Limits(rules=1)))


@pytest.mark.parametrize("operation", range(7))
def test_when_the_data_plane_refuses_nothing_has_changed(operation):
    async def scene(stage: Stage) -> None:
        stage.fake.fail_in(operation)
        with pytest.raises(KernelError):
            await stage.service.put(service(("31.31.31.1,80", "32.32.32.1,80"), of=key(port=1, port_max=3)))
        assert await stage.keys() == []
        assert stage.host.addresses == set()
        await stage.service.put(service())

    stage = play(scene, Stage(limits=Limits(rules=1, endpoints=3, ring=3)))

    assert set(stage.fake.observe().rules) == {1}
    assert stage.host.addresses == {VIP}


def test_when_the_address_is_refused_the_data_plane_is_as_before():
    async def scene(stage: Stage) -> None:
        await stage.service.put(service(("31.31.31.1,8080",), of=key("20.20.20.9")))
        before = stage.fake.observe()
        stage.host.refused = {VIP}
        with pytest.raises(KernelError):
            await stage.service.put(service())

        assert stage.fake.observe() == before
        assert await stage.keys() == ["20.20.20.9,2020,tcp"]
        stage.host.refused = set()
        await stage.service.put(service())

    assert play(scene).host.addresses == {VIP, ip_address("20.20.20.9")}


def test_when_the_address_cannot_be_released_the_service_stays():
    async def scene(stage: Stage) -> None:
        await stage.service.put(service())
        stage.host.refused = {VIP}
        with pytest.raises(KernelError):
            await stage.service.delete(key())

        assert await stage.keys() == ["20.20.20.1,2020,tcp"]
        assert set(stage.fake.observe().listeners) == set(listeners_of(service()))
        stage.host.refused = set()
        await stage.service.delete(key())

    assert play(scene).fake.observe() == Image()


def test_of_two_addresses_the_held_one_is_given_back_when_the_other_is_refused():
    async def scene(stage: Stage) -> None:
        await stage.service.put(service(private_address=ip_address("10.0.0.9")))
        stage.host.refused = {ip_address("10.0.0.9")}
        with pytest.raises(KernelError):
            await stage.service.put(service(private_address=ip_address("10.0.0.8")))

        (status,) = await stage.service.services()
        assert status.service.private_address == ip_address("10.0.0.9")

    assert play(scene).host.addresses == {ip_address("10.0.0.9")}


def test_routes_that_come_later_reach_onearm_endpoints():
    async def scene(stage: Stage) -> None:
        await stage.service.put(service(("31.31.31.1,8080",), mode=Mode.ONEARM))
        await stage.service.refresh_sources()
        assert len(stage.fake.applied) == 1

        stage.links.routes[ip_address("31.31.31.1")] = ip_address("31.31.31.254")
        await stage.service.refresh_sources()
        await stage.service.refresh_sources()

    with capture_logs() as events:
        stage = play(scene)

    assert [one["event"] for one in events].count("sources changed with the routes") == 1
    assert stage.fake.observe().endpoints[1].source == ip_address("31.31.31.254")  # type: ignore[index]
    assert len(stage.fake.applied) == 2


def test_a_flow_has_the_name_of_its_service():
    async def scene(stage: Stage) -> None:
        await stage.service.put(service(name="web"))
        (listener,) = listeners_of(service())
        for port in (4001, 4000):
            stage.fake.connect(listener, ip_address("10.10.10.1"), port)
        flows = await stage.service.flows()
        await stage.service.delete(key())
        orphans = await stage.service.flows()

        (copied,) = flows.page.columns
        columns = copied()
        assert columns.source_port.tolist() == [8080, 8080, 4000, 4001]
        assert {flows.names.get(rule) for rule in columns.rule.tolist()} == {"web"}
        assert orphans.names == {}

    play(scene)


def test_ports_say_where_the_data_plane_is_attached():
    async def scene(stage: Stage) -> None:
        stage.links.interfaces = [port(2, "eth1"), port(1, "eth0")]
        stage.hooks[IfIndex(1)] = ("tcx",)

        assert [(one.name, one.hooks) for one in await stage.service.ports()] == [
            ("eth0", ("tcx",)),
            ("eth1", ()),
        ]

    play(scene)


def port(index: int, name: str) -> Port:
    return Port(index=IfIndex(index), name=name, kind=LinkKind.VETH, mac=b"\2" * 6, mtu=1500, up=True, carrier=True)


def test_a_new_daemon_takes_over_what_the_old_one_left():
    async def first(stage: Stage) -> None:
        await stage.service.put(service(name="lost"))
        await stage.service.put(service(of=key(port=1, port_max=4), selection=Selection.HASH))

    async def second(stage: Stage) -> None:
        assert await stage.service.start() == 2
        assert stage.host.addresses == {VIP}
        assert await stage.keys() == ["20.20.20.1,1,tcp", "20.20.20.1,2020,tcp"]
        await stage.service.put(service(name="found"))
        await stage.service.delete_all()

    left = play(first).fake
    applied = len(left.applied)
    stage = play(second, Stage(left))

    assert len(stage.fake.applied) == applied + 1
    assert stage.fake.observe() == Image()
    assert stage.host.addresses == set()


class MeetingDataPlane(FakeDataPlane):
    """Notes when two threads are in ``apply`` at once; the first waits for a second for a moment."""

    def __init__(self) -> None:
        super().__init__()
        self.meeting = threading.Barrier(2)
        self.met = False

    def apply(self, ops: Sequence[Op]) -> None:
        try:
            self.meeting.wait(0.05)
            self.met = True
        except threading.BrokenBarrierError:
            self.meeting.reset()
        super().apply(ops)


def test_writes_come_one_after_the_other():
    meeting = MeetingDataPlane()

    async def scene(stage: Stage) -> None:
        await asyncio.gather(*(stage.service.attach(service((f"31.31.31.{one},80",))) for one in range(1, 6)))

        (status,) = await stage.service.services()
        assert len(status.service.endpoints) == 5

    play(scene, Stage(meeting))

    assert not meeting.met


class SlowDataPlane(FakeDataPlane):
    """Stops in ``apply`` until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.go_on = threading.Event(), threading.Event()

    def apply(self, ops: Sequence[Op]) -> None:
        self.entered.set()
        assert self.go_on.wait(5)
        super().apply(ops)


def test_the_loop_runs_while_the_kernel_works_and_a_lost_caller_leaves_nothing_half_done():
    slow = SlowDataPlane()

    async def scene(stage: Stage) -> None:
        write = asyncio.create_task(stage.service.put(service()))
        await asyncio.to_thread(slow.entered.wait, 5)
        write.cancel()
        with pytest.raises(asyncio.CancelledError):
            await write
        slow.go_on.set()

        assert await stage.keys() == ["20.20.20.1,2020,tcp"]

    assert play(scene, Stage(slow)).host.addresses == {VIP}
