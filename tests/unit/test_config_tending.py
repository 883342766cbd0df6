# SPDX-License-Identifier: Apache-2.0
"""The configuration service over a kernel in memory: what time brings to endpoints."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from ipaddress import ip_address
from typing import Any

import pytest

from loxilb.errors import KernelError
from loxilb.kernel.fake import FakeDataPlane, FakeLinks, FakeVipHost
from loxilb.model import Counter, LossPolicy, Selection
from loxilb.model.image import DropEndpoint, EndpointId, Image, Op
from loxilb.model.probe import Availability, EndpointKey
from loxilb.plan import Limits, listeners_of
from loxilb.ports import EndpointState, EndpointView
from loxilb.services.config import ConfigurationService
from loxilb.services.reconcile import Reconciler
from loxilb.services.store import SqliteStore
from tests.support.services import key, service

CLIENT = ip_address("10.10.10.1")
(LISTENER,) = listeners_of(service())
ONE, TWO = "31.31.31.1,8080", "32.32.32.1,8080"
DEADLINE_S = 5


class Stage:
    """A configuration service with a clock of its own, and the fakes it works on."""

    def __init__(self, fake: FakeDataPlane | None = None) -> None:
        self.fake, self.now = fake or FakeDataPlane(), 100.0
        self.links = FakeLinks()
        self.service = ConfigurationService(
            data_plane=self.fake,
            vip_host=FakeVipHost(),
            links=self.links,
            store=SqliteStore.open(None),
            limits=self.fake.limits,
            steady=lambda: self.now,
        )
        self.service.wake_with(lambda: self.reconciler.ask("endpoints"))
        self.reconciler = Reconciler()
        self.reconciler.add("endpoints", self.service.tend)
        self.reconciler.ask("endpoints")

    def connect(self, port: int) -> EndpointId | None:
        """Open a flow."""
        return self.fake.connect(LISTENER, CLIENT, port)

    async def pass_time(self, seconds: float) -> float | None:
        """Let time pass, then do what it brings; returns the time to the next look."""
        self.now += seconds
        return await self.service.tend()

    async def views(self) -> tuple[list[EndpointView], list[EndpointView]]:
        """Return the endpoints that are shown, and the removed ones."""
        (status,) = await self.service.services()
        return list(status.endpoints), list(status.removed)


def play(scene: Callable[[Stage], Coroutine[Any, Any, None]], fake: FakeDataPlane | None = None) -> Stage:
    """Run a scene on a stage that is closed afterwards."""
    stage = Stage(fake)
    try:
        asyncio.run(scene(stage))
    finally:
        stage.service.close()
    return stage


async def removed_with_a_flow(stage: Stage, loss: LossPolicy = LossPolicy.DRAIN) -> None:
    """Have two endpoints with a flow each, and take the first away."""
    await stage.service.put(service((ONE, TWO), loss=loss))
    for port in (1, 2):
        stage.connect(port)
    await stage.service.detach(service((ONE,)))


def test_nothing_is_looked_at_while_nothing_is_to_come():
    async def scene(stage: Stage) -> None:
        await stage.service.put(service(slow_start=9, loss=LossPolicy.KEEP))
        assert await stage.pass_time(1_000) is None
        assert len(stage.fake.applied) == 1

    play(scene)


def test_a_removed_endpoint_stays_until_its_last_flow_has_ended():
    async def scene(stage: Stage) -> None:
        await removed_with_a_flow(stage, LossPolicy.KEEP)
        for _ in range(3):
            assert await stage.pass_time(1_000) == 1
        assert [stage.connect(port) for port in (3, 4)] == [2, 2]
        stage.fake.disconnect(CLIENT, 1)
        assert [await stage.pass_time(seconds) for seconds in (1, 1, 0.9, 0.2)] == [1, 1, 1, None]
        assert set(stage.fake.observe().endpoints) == {2}

    play(scene)


def test_a_moment_without_flows_is_not_the_end():
    """What was under way may still arrive."""

    async def scene(stage: Stage) -> None:
        await removed_with_a_flow(stage)
        flows, stage.fake._flows = stage.fake._flows, []
        await stage.pass_time(1)
        await stage.pass_time(1)
        stage.fake._flows = flows
        await stage.pass_time(0.5)
        stage.fake._flows = []
        for _ in range(2):
            await stage.pass_time(1)
        assert set(stage.fake.observe().endpoints) == {1, 2}
        await stage.pass_time(1)
        assert set(stage.fake.observe().endpoints) == {2}

    play(scene)


def test_at_the_deadline_it_goes_with_its_flows():
    async def scene(stage: Stage) -> None:
        await removed_with_a_flow(stage)
        assert await stage.pass_time(298.5) == 1
        assert await stage.pass_time(1) == pytest.approx(0.5)
        assert set(stage.fake.observe().endpoints) == {1, 2}
        assert await stage.pass_time(0.5) is None
        assert set(stage.fake.observe().endpoints) == {2}

    play(scene)


def test_it_is_shown_while_it_drains():
    async def scene(stage: Stage) -> None:
        await removed_with_a_flow(stage)
        stage.now += 10
        present, removed = await stage.views()
        assert [str(one.endpoint.address) for one in present] == ["32.32.32.1"]
        (one,) = removed
        assert (str(one.endpoint.address), one.state, one.flows, one.left) == (
            "31.31.31.1",
            EndpointState.DRAINING,
            1,
            290,
        )
        assert one.counter == Counter(packets=1, bytes=40)

    play(scene)


def test_taken_back_it_goes_on_counting():
    async def scene(stage: Stage) -> None:
        await removed_with_a_flow(stage)
        await stage.service.attach(service((ONE,)))
        present, removed = await stage.views()
        assert [(one.state.value, one.counter.packets) for one in present] == [("active", 1)] * 2
        assert removed == []
        assert await stage.pass_time(1_000) is None

    play(scene)


def test_one_that_fails_drains_until_the_deadline():
    async def scene(stage: Stage) -> None:
        await stage.service.put(service((ONE, TWO), loss=LossPolicy.DRAIN, drain_timeout=60))
        stage.connect(1)
        await stage.service.set_availability({EndpointKey(ip_address("31.31.31.1"), "tcp", 8080): Availability.DOWN})
        (one, _), _ = await stage.views()
        assert (one.state, one.flows, one.left) == (EndpointState.DRAINING, 1, 60)
        assert await stage.pass_time(0) == 60
        assert await stage.pass_time(60) is None
        (one, _), _ = await stage.views()
        assert (one.state, one.left) == (EndpointState.INACTIVE, None)

    play(scene)


def test_routes_that_change_do_not_touch_removed_endpoints():
    async def scene(stage: Stage) -> None:
        await removed_with_a_flow(stage)
        applied = len(stage.fake.applied)
        await stage.service.refresh_sources()
        assert len(stage.fake.applied) == applied

    play(scene)


def test_a_slow_start_is_followed_and_shown():
    async def scene(stage: Stage) -> None:
        await stage.service.put(service((ONE,), slow_start=100))
        await stage.service.attach(service((TWO,)))
        shares = []
        while wait := await stage.pass_time(0):
            shares.append((await stage.views())[0][1].share)
            stage.now += wait
        assert shares == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
        assert (await stage.views())[0][1].share == 1
        assert stage.fake.observe().rings == {1: (1, 2)}

    play(scene)


@pytest.mark.parametrize("selection", [Selection.RR, Selection.LC])
def test_a_new_daemon_goes_on_with_what_drains(selection):
    async def first(stage: Stage) -> None:
        await stage.service.put(service((ONE, TWO), loss=LossPolicy.DRAIN, selection=selection))
        stage.connect(1)
        await stage.service.detach(service((ONE,)))

    async def second(stage: Stage) -> None:
        assert await stage.service.start() == 1
        _, (removed,) = await stage.views()
        assert (removed.flows, removed.left) == (1, 300)
        await stage.pass_time(300)
        assert set(stage.fake.observe().endpoints) == {2}

    play(second, play(first).fake)


def test_a_refusal_of_the_kernel_is_tried_again():
    async def scene(stage: Stage) -> None:
        await removed_with_a_flow(stage)
        stage.fake.fail_in(0)
        with pytest.raises(KernelError):
            await stage.pass_time(300)
        assert await stage.pass_time(1) is None
        await stage.service.delete(key())
        assert stage.fake.observe() == Image()

    play(scene)


def test_a_slot_that_is_used_again_starts_anew():
    """That its last endpoint had no flow for long says nothing of the next one."""

    async def scene(stage: Stage) -> None:
        await removed_with_a_flow(stage)
        stage.fake.disconnect(CLIENT, 1)
        for _ in range(3):
            await stage.pass_time(1)
        assert set(stage.fake.observe().endpoints) == {2}
        await stage.service.attach(service(("33.33.33.1,80",), loss=LossPolicy.DRAIN))
        await stage.service.detach(service(("33.33.33.1,80",), loss=LossPolicy.DRAIN))
        assert set(stage.fake.observe().endpoints) == {1, 2}
        await stage.pass_time(1)
        assert set(stage.fake.observe().endpoints) == {1, 2}

    play(scene, FakeDataPlane(Limits(endpoints=2)))


class WatchedDataPlane(FakeDataPlane):
    """Counts how often it is asked for flows, and tells when an endpoint is dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.dropped = 0, threading.Event()

    def active_flows(self, endpoints: Iterable[EndpointId]) -> Mapping[EndpointId, int]:
        self.asked += 1
        return super().active_flows(endpoints)

    def apply(self, ops: Sequence[Op]) -> None:
        super().apply(ops)
        if any(isinstance(op, DropEndpoint) for op in ops):
            self.dropped.set()


def test_the_loop_sleeps_until_something_is_to_come():
    """A removal wakes it, and it ends the flows at their time without being asked."""
    fake = WatchedDataPlane()

    async def scene(stage: Stage) -> None:
        task = asyncio.create_task(stage.reconciler.run())
        try:
            for _ in range(3):
                await stage.views() if fake.applied else await stage.service.put(lossy)
            assert fake.asked == 1
            await stage.service.detach(service((ONE,)))
            stage.now += 2
            assert await asyncio.to_thread(fake.dropped.wait, DEADLINE_S)
        finally:
            task.cancel()

    lossy = service((ONE, TWO), loss=LossPolicy.DRAIN, drain_timeout=1)
    play(scene, fake)

    assert set(fake.observe().endpoints) == {2}


def test_what_the_loop_does_itself_does_not_wake_it():
    fake = WatchedDataPlane()

    async def looks(stage: Stage, wanted: int) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while fake.asked < wanted:
                await stage.views()

    async def scene(stage: Stage) -> None:
        await stage.service.put(service((ONE,), slow_start=100))
        task = asyncio.create_task(stage.reconciler.run())
        try:
            await looks(stage, 1)
            await stage.service.attach(service((TWO,)))
            await looks(stage, 2)
            stage.now += 25
            stage.reconciler.ask("endpoints")
            await looks(stage, 3)
            for _ in range(3):
                await stage.views()
        finally:
            task.cancel()

    play(scene, fake)

    assert (len(fake.applied), fake.asked) == (3, 3)
