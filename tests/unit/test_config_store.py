# SPDX-License-Identifier: Apache-2.0
"""The configuration service and its store: in which order a write is carried out, and what a start makes of both."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from loxilb.errors import KernelError, NotFound, StoreError
from loxilb.kernel.fake import FakeDataPlane, FakeLinks, FakeVipHost
from loxilb.model import LossPolicy, Probe, Selection, Service
from loxilb.model.image import DropRule, Image, Op, PutListener, RuleId
from loxilb.model.probe import HealthCheck, HostState, MonitoredEndpoint, ProbeKind
from loxilb.model.revision import DAEMON, LOG_LEVEL, Author, Changes, Configured
from loxilb.plan import Drift, listeners_of
from loxilb.services.config import ConfigurationService
from loxilb.services.config.edits import normal
from loxilb.services.store import SqliteStore
from tests.support.services import key, service

VIP = ip_address("20.20.20.1")
ME = Author(address="10.0.0.1", agent="curl")
NAMED = normal(
    service(
        name="web",
        monitor=True,
        private_address=ip_address("10.0.0.9"),
        probe=Probe(kind="http", port=81, request="up", period=3),
    )
)
FIRST = "31.31.31.1_tcp_8080"
TOLD = MonitoredEndpoint(address=ip_address("31.31.31.1"), check=HealthCheck(kind=ProbeKind.TCP, port=1), name=FIRST)


class Refusing(SqliteStore):
    """A store whose disk can be full."""

    full = False

    def _put(self, documents: Any) -> None:
        if self.full:
            raise StoreError("cannot write the store: disk full")
        super()._put(documents)


class Stage:
    """A store, a kernel and a host that outlive configuration services."""

    def __init__(self) -> None:
        self.store = Refusing.open(None)
        self.fake, self.host = FakeDataPlane(), FakeVipHost()
        self.changes: list[Changes] = []
        self.service = self._new()

    def _new(self) -> ConfigurationService:
        made = ConfigurationService(
            data_plane=self.fake, vip_host=self.host, links=FakeLinks(), store=self.store, clock=lambda: 1000.0
        )
        made.watch_changes(self)
        return made

    def changed(self, changes: Changes) -> None:
        self.changes.append(changes)

    async def restart(self) -> int:
        self.service.close()
        self.service = self._new()
        return await self.service.start()

    async def crash(self, attempt: Coroutine[Any, Any, object], *, after: str) -> None:
        """End in the middle of a write: nothing runs after the step named, not even what takes it back."""
        target, name = {"store": (self.fake, "apply"), "kernel": (self.store, "confirm")}[after]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(target, name, _die)
            patch.setattr(self.store, "take_back", _die)
            with pytest.raises(_Killed):
                await attempt
        self.service._worker.shutdown()
        self.service = self._new()

    async def shown(self) -> list[Service]:
        return [status.service for status in await self.service.services()]


class _Killed(BaseException):
    pass


def _die(*_arguments: object) -> None:
    raise _Killed


def play(scene: Callable[[Stage], Coroutine[Any, Any, None]]) -> Stage:
    async def whole() -> Stage:
        stage = Stage()
        await stage.service.start()
        try:
            await scene(stage)
        finally:
            stage.service.close()
        return stage

    return asyncio.run(whole())


def test_a_write_is_stored_before_the_data_plane_has_it(monkeypatch):
    seen: list[Configured] = []

    async def scene(stage: Stage) -> None:
        apply = stage.fake.apply

        def note(ops: Sequence[Op]) -> None:
            seen.append(stage.store.load())
            apply(ops)

        monkeypatch.setattr(stage.fake, "apply", note)
        await stage.service.put(NAMED, author=ME)

    stage = play(scene)

    assert seen == [Configured(services={NAMED.key: NAMED}, revision=1, pending=True)]
    assert stage.store.load() == replace(seen[0], pending=False)
    (revision,) = stage.store.revisions(10)
    assert (revision.author, revision.time, revision.summary) == (ME, 1000.0, "create service 20.20.20.1:2020/tcp")


@pytest.mark.parametrize("operation", range(5))
def test_what_the_data_plane_refuses_is_taken_back(operation):
    async def scene(stage: Stage) -> None:
        await stage.service.put(service(of=key("20.20.20.9")))
        before = stage.store.load()
        stage.fake.fail_in(operation)
        with pytest.raises(KernelError):
            await stage.service.put(NAMED)

        assert stage.store.load() == before
        assert await stage.shown() == [normal(service(of=key("20.20.20.9")))]

    play(scene)


def test_what_the_host_refuses_is_taken_back():
    async def scene(stage: Stage) -> None:
        stage.host.refused = {VIP}
        with pytest.raises(KernelError):
            await stage.service.put(service())
        assert stage.store.load() == Configured()

    assert play(scene).fake.observe() == Image()


def test_what_the_store_refuses_never_reaches_the_data_plane():
    async def scene(stage: Stage) -> None:
        await stage.service.put(service())
        before, free, applied = stage.fake.observe(), stage.service._ledger.free, len(stage.fake.applied)
        told = len(stage.changes)
        stage.store.full = True
        for attempt in (
            stage.service.put(service(of=key(port=1))),
            stage.service.delete(key()),
            stage.service.delete_all(),
            stage.service.set_parameter(LOG_LEVEL, "info"),
            stage.service.keep(Changes(endpoints={FIRST: TOLD}), author=ME),
        ):
            with pytest.raises(StoreError, match="disk full"):
                await attempt

        assert (stage.fake.observe(), stage.service._ledger.free) == (before, free)
        assert len(stage.fake.applied) == applied
        assert len(stage.changes) == told
        stage.store.full = False
        await stage.service.put(service(of=key(port=1)))
        assert len(await stage.shown()) == 2

    play(scene)


def test_what_cannot_be_taken_back_now_is_before_the_next_write():
    async def scene(stage: Stage) -> None:
        await stage.service.put(service())
        record = stage.store.record

        def fill(*arguments: Any) -> int:
            number = record(*arguments)
            stage.store.full = True
            return number

        stage.fake.fail_in(0)
        with pytest.MonkeyPatch.context() as patch, capture_logs() as logs, pytest.raises(KernelError):
            patch.setattr(stage.store, "record", fill)
            await stage.service.put(NAMED)
        assert [one["event"] for one in logs if one["log_level"] == "error"] == ["refused write still in the store"]
        with pytest.raises(StoreError):
            await stage.service.put(service(of=key(port=1)))
        stage.store.full = False
        await stage.service.put(service(of=key(port=1)))

        assert set(stage.store.load().services) == {key(), key(port=1)}
        assert [one.number for one in await stage.service.revisions(10)] == [3, 1]

    play(scene)


def test_everything_survives_a_restart():
    changes = Changes(endpoints={FIRST: TOLD}, states={FIRST: HostState.RED})

    async def scene(stage: Stage) -> None:
        await stage.service.put(NAMED)
        await stage.service.keep(changes, author=ME)
        await stage.service.set_parameter(LOG_LEVEL, "trace", author=ME)
        stage.changes.clear()
        before = stage.fake.observe()
        assert await stage.restart() == 1

        assert await stage.shown() == [NAMED]
        assert stage.changes == [replace(changes, parameters={LOG_LEVEL: "trace"})]
        assert stage.fake.observe().listeners == before.listeners
        assert stage.service.drift == Drift()
        assert stage.host.addresses == {ip_address("10.0.0.9")}

    play(scene)


def test_an_endpoint_out_of_service_gets_no_flow_after_a_restart():
    async def scene(stage: Stage) -> None:
        await stage.service.put(service())
        await stage.service.keep(Changes(states={FIRST: HostState.RED}), author=ME)
        await stage.restart()
        (status,) = await stage.service.services()
        assert [one.state.value for one in status.endpoints] == ["inactive", "active", "active"]

    play(scene)


def test_after_a_reboot_everything_is_programmed_again():
    async def scene(stage: Stage) -> None:
        await stage.service.put(NAMED)
        stage.fake, stage.host = FakeDataPlane(), FakeVipHost()
        assert await stage.restart() == 1

        assert set(stage.fake.observe().listeners) == listeners_of(NAMED)
        assert stage.host.addresses == {ip_address("10.0.0.9")}
        assert (stage.service.drift, stage.service.is_new) == (Drift(), False)

    play(scene)


def test_a_crash_before_the_data_plane_is_finished_at_the_next_start():
    async def scene(stage: Stage) -> None:
        await stage.crash(stage.service.put(NAMED), after="store")
        assert (stage.fake.observe(), stage.store.load().pending) == (Image(), True)

        assert await stage.service.start() == 1
        assert set(stage.fake.observe().listeners) == listeners_of(NAMED)
        assert not stage.store.load().pending

    play(scene)


def test_a_crash_before_the_answer_leaves_store_and_data_plane_alike():
    async def scene(stage: Stage) -> None:
        await stage.service.put(NAMED)
        await stage.crash(stage.service.delete(NAMED.key), after="kernel")
        assert await stage.service.start() == 0
        assert (stage.fake.observe(), stage.store.load().services) == (Image(), {})

    play(scene)


def test_a_write_under_way_that_the_data_plane_refuses_is_taken_back_at_the_start():
    async def scene(stage: Stage) -> None:
        await stage.service.put(service())
        await stage.crash(stage.service.put(service(of=key(port=1))), after="store")
        stage.fake.fail_in(0)
        with capture_logs() as logs:
            assert await stage.service.start() == 1

        assert await stage.shown() == [normal(service())]
        assert "last write taken back, it was never acknowledged" in [one["event"] for one in logs]
        assert set(stage.fake.observe().listeners) == listeners_of(service())
        assert stage.host.addresses == {VIP}

    play(scene)


def test_an_acknowledged_write_is_never_taken_back_at_the_start():
    async def scene(stage: Stage) -> None:
        await stage.service.put(service())
        stage.fake = FakeDataPlane()
        stage.fake.fail_in(0)
        with pytest.raises(KernelError):
            await stage.restart()
        assert set(stage.store.load().services) == {key()}
        assert await stage.restart() == 1

    play(scene)


def test_drift_is_counted_repaired_and_said():
    async def scene(stage: Stage) -> None:
        for number in range(1, 5):
            await stage.service.put(service(of=key(port=number), name=str(number)))
        rules = {listener.port: rule for listener, rule in stage.fake.observe().listeners.items()}
        kept = stage.fake.observe().endpoints
        (gone,) = listeners_of(service(of=key(port=1)))
        entry = stage.fake.observe().rules[rules[2]]
        unknown = replace(gone, port=99)
        stage.fake._listeners.pop(gone)
        stage.fake._rules[rules[2]] = replace(entry, timeout=1)
        stage.fake._rules[RuleId(77)] = entry
        stage.fake.apply([PutListener(listener=unknown, rule=RuleId(77))])
        with capture_logs() as logs:
            assert await stage.restart() == 4

        image = stage.fake.observe()
        assert stage.service.drift == Drift(missing=1, unknown=2, different=1)
        assert {one["missing"] for one in logs if "brought in line" in one["event"]} == {1}
        assert {listener.port for listener in image.listeners} == {1, 2, 3, 4}
        assert [status.service.name for status in await stage.service.services()] == ["1", "2", "3", "4"]
        assert image.rules[rules[2]].timeout == 240
        assert {slot: one for slot, one in image.endpoints.items() if one.rule in (rules[2], rules[3])}.items() <= (
            kept.items()
        )

    play(scene)


def test_a_port_of_a_range_that_is_missing_is_drift():
    async def scene(stage: Stage) -> None:
        wide = service(of=key(port=1, port_max=4))
        await stage.service.put(wide)
        stage.fake._listeners.pop(sorted(listeners_of(wide))[2])
        await stage.restart()
        assert stage.service.drift == Drift(different=1)
        assert set(stage.fake.observe().listeners) == listeners_of(wide)

    play(scene)


def test_health_is_no_drift():
    async def scene(stage: Stage) -> None:
        await stage.service.put(service(selection=Selection.PRIORITY))
        await stage.service.keep(Changes(states={FIRST: HostState.RED}), author=ME)
        await stage.restart()
        await stage.service.keep(Changes(states={FIRST: None}), author=ME)
        await stage.restart()
        assert stage.service.drift == Drift()

    play(scene)


def test_an_endpoint_that_drains_is_no_drift():
    async def scene(stage: Stage) -> None:
        await stage.service.put(service(loss=LossPolicy.DRAIN))
        (listener,) = listeners_of(service())
        for port in range(4000, 4003):
            stage.fake.connect(listener, ip_address("10.10.10.1"), port)
        await stage.service.detach(service(("31.31.31.1,8080",), loss=LossPolicy.DRAIN))
        before = stage.fake.observe().endpoints
        await stage.restart()

        assert len(before) == 3
        assert stage.fake.observe().endpoints == before
        assert stage.service.drift == Drift()

    play(scene)


def test_with_an_empty_store_the_services_of_the_data_plane_are_taken_over():
    async def scene(stage: Stage) -> None:
        await stage.service.put(NAMED)
        stage.store = Refusing.open(None)
        assert await stage.restart() == 1

        (found,) = stage.store.load().services.values()
        assert (found.endpoints, found.name, found.key.address) == (NAMED.endpoints, "", ip_address("10.0.0.9"))
        (revision,) = stage.store.revisions(10)
        assert (revision.author, revision.summary) == (
            DAEMON,
            "take over from the data plane: create service 10.0.0.9:2020/tcp",
        )
        assert not stage.service.is_new

    play(scene)


def test_new_is_only_what_never_had_anything():
    async def scene(stage: Stage) -> None:
        assert stage.service.is_new
        await stage.service.put(service())
        await stage.service.delete(key())
        await stage.restart()
        assert not stage.service.is_new

    play(scene)


def test_rolling_back_is_a_write_like_any_other():
    async def scene(stage: Stage) -> None:
        await stage.service.put(service(name="one"))
        await stage.service.put(service(("34.34.34.1,80",), of=key(port=2)))
        await stage.service.keep(Changes(endpoints={FIRST: TOLD}), author=ME)
        await stage.service.set_parameter(LOG_LEVEL, "info")
        await stage.service.put(service(name="two", selection=Selection.LC))
        state = stage.store.load()
        stage.changes.clear()
        await stage.service.rollback(1, author=ME)

        assert await stage.shown() == [normal(service(name="one"))]
        assert set(stage.fake.observe().listeners) == listeners_of(service())
        assert stage.changes[-1].endpoints == {FIRST: None}
        assert stage.changes[-1].parameters == {LOG_LEVEL: None}
        newest = (await stage.service.revisions(1))[0]
        assert newest.summary.startswith("roll back to 1: change service 20.20.20.1:2020/tcp; delete service")
        await stage.service.rollback(5)
        assert replace(stage.store.load(), revision=5) == state
        await stage.service.rollback(7)
        assert stage.store.load().revision == 7
        with pytest.raises(NotFound):
            await stage.service.rollback(99)

    play(scene)


def test_a_rollback_that_the_data_plane_refuses_changes_nothing():
    async def scene(stage: Stage) -> None:
        await stage.service.put(service())
        await stage.service.delete(key())
        before = stage.store.load()
        stage.fake.fail_in(2)
        with pytest.raises(KernelError):
            await stage.service.rollback(1)
        assert (stage.store.load(), await stage.shown()) == (before, [])

    play(scene)


def test_what_is_so_already_is_no_revision():
    async def scene(stage: Stage) -> None:
        for _ in range(2):
            await stage.service.keep(Changes(endpoints={FIRST: TOLD}, states={FIRST: HostState.RED}), author=ME)
            await stage.service.set_parameter(LOG_LEVEL, "info")
        await stage.service.keep(Changes(endpoints={"other": None}, states={"other": None}), author=ME)
        assert stage.store.load().revision == 2

    play(scene)


def test_what_was_said_of_an_endpoint_ends_with_its_last_user():
    async def scene(stage: Stage) -> None:
        for port in (1, 2):
            await stage.service.put(service(of=key(port=port)))
        await stage.service.keep(
            Changes(states={FIRST: HostState.RED, "32.32.32.1_tcp_8080": HostState.RED}), author=ME
        )
        await stage.service.keep(Changes(endpoints={FIRST: TOLD}), author=ME)
        await stage.service.delete(key(port=1))
        assert len(stage.store.load().states) == 2
        await stage.service.put(service(("33.33.33.1,8080",), of=key(port=2)))
        assert set(stage.store.load().states) == {FIRST}
        await stage.service.keep(Changes(endpoints={FIRST: None}), author=ME)
        assert stage.store.load().states == {}
        assert stage.service._journal.states == {}

    play(scene)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5), st.sampled_from(["", "refuse", "store", "kernel"]))))
def test_store_and_data_plane_agree_after_every_start(steps: list[tuple[int, int, str]]) -> None:
    """Whatever is written, refused and cut off: no acknowledged write is lost, and both sides say the same."""

    async def scene(stage: Stage) -> None:
        for port, size, fate in steps:
            wanted = service([f"31.31.31.{number},80" for number in range(size)], of=key(port=port + 1), name=str(size))
            known = {one.key: one for one in await stage.shown()}
            there = known.get(wanted.key) == normal(wanted)
            attempt = stage.service.delete(wanted.key) if there else stage.service.put(wanted)
            after = {name: one for name, one in known.items() if name != wanted.key}
            after |= {} if there else {wanted.key: normal(wanted)}
            if fate in ("store", "kernel"):
                await stage.crash(attempt, after=fate)
                await stage.service.start()
            elif fate == "refuse":
                stage.fake.fail_in(0)
                with pytest.raises(KernelError):
                    await attempt
                after = known
            else:
                await attempt
            assert {one.key: one for one in await stage.shown()} == after == stage.store.load().services
            assert set(stage.fake.observe().listeners) == {one for s in after.values() for one in listeners_of(s)}

    play(scene)


def test_a_rule_dropped_behind_our_back_is_missing():
    async def scene(stage: Stage) -> None:
        await stage.service.put(service())
        image = stage.fake.observe()
        for listener in image.listeners:
            stage.fake._listeners.pop(listener)
        stage.fake.apply([DropRule(rule=rule) for rule in image.rules])
        assert await stage.restart() == 1
        assert set(stage.fake.observe().listeners) == listeners_of(service())

    play(scene)
