# SPDX-License-Identifier: Apache-2.0
"""What a start makes of store and data plane: whole writes, adopted slots, counted drift."""

from dataclasses import replace
from ipaddress import ip_address

import pytest
from msgspec import structs
from structlog.testing import capture_logs

from loxilb.errors import InvalidRequest, KernelError
from loxilb.kernel.fake import FakeDataPlane, FakeVipHost
from loxilb.model import LossPolicy, Selection
from loxilb.model.image import DropRule, EndpointFlags, Image, PutListener, RuleId
from loxilb.model.probe import Availability, EndpointKey, HostState
from loxilb.model.revision import DAEMON, LOG_LEVEL, Changes
from loxilb.plan import Drift, Limits, listeners_of
from loxilb.services.config.edits import normal
from tests.support.services import key, service
from tests.support.stored import FIRST, ME, NAMED, TOLD, VIP, Killed, Refusing, Stage, die, play


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


@pytest.mark.parametrize("loss", LossPolicy)
def test_an_endpoint_that_is_down_gets_no_flow_after_a_restart(loss):
    """Until a probe says that it is up; one that an operator has taken out is not for probes to bring back."""

    async def scene(stage: Stage) -> None:
        await stage.service.put(service(loss=loss))
        first, third = (EndpointKey(ip_address(one), "tcp", 8080) for one in ("31.31.31.1", "33.33.33.1"))
        await stage.service.keep(Changes(states={FIRST: HostState.YELLOW}), author=ME)
        await stage.service.set_availability({first: Availability.DRAINING, third: Availability.DOWN})
        before = stage.fake.observe()
        await stage.restart()

        assert stage.fake.observe() == before
        assert stage.service.found_down == {third}
        assert stage.service.drift == Drift()
        await stage.service.set_availability({third: Availability.UP})
        taking = {entry.address: entry.takes_flows for entry in stage.fake.observe().endpoints.values()}
        assert list(taking.values()) == [False, True, True]

    play(scene)


def test_an_endpoint_that_one_service_lost_is_down_for_all_of_its_services():
    """Also for one that is programmed as if it were up."""

    async def scene(stage: Stage) -> None:
        for port in (1, 2):
            await stage.service.put(service(of=key(port=port)))
        slot, entry = next(iter(stage.fake.observe().endpoints.items()))
        stage.fake._endpoints[slot] = structs.replace(entry, flags=EndpointFlags.NONE)
        await stage.restart()

        assert stage.service.found_down == {EndpointKey(entry.address, "tcp", entry.port)}
        taking = [one.takes_flows for one in stage.fake.observe().endpoints.values()]
        assert taking == [False, True, True] * 2

    play(scene)


def test_an_address_that_is_refused_keeps_no_other_service_down():
    """After a reboot into a host without IPv6, say; it is held once that is possible."""

    async def scene(stage: Stage) -> None:
        held, refused = ip_address("20.20.20.1"), ip_address("20.20.20.2")
        for address in (held, refused):
            await stage.service.put(service(of=key(str(address))))
        programmed = stage.fake.observe().listeners.keys()
        stage.host.release(held, refused)
        stage.host.refused = {refused}
        await stage.restart()

        assert len(programmed) == 2
        assert stage.fake.observe().listeners.keys() == programmed
        assert stage.service.owes_addresses
        assert stage.host.places.keys() == {held}
        with pytest.raises(KernelError):
            await stage.service.refresh_addresses()

        stage.host.refused = set()
        await stage.service.refresh_addresses()
        assert stage.host.places.keys() == {held, refused}
        await stage.restart()
        assert not stage.service.owes_addresses

    play(scene)


def test_after_a_reboot_everything_is_programmed_again():
    async def scene(stage: Stage) -> None:
        await stage.service.put(NAMED)
        stage.fake, stage.host = FakeDataPlane(), FakeVipHost()
        assert await stage.restart() == 1

        assert set(stage.fake.observe().listeners) == set(listeners_of(NAMED))
        assert stage.host.addresses == {ip_address("10.0.0.9")}
        assert (stage.service.drift, stage.service.is_new) == (Drift(), False)

    play(scene)


def test_a_crash_before_the_data_plane_is_finished_at_the_next_start():
    async def scene(stage: Stage) -> None:
        await stage.crash(stage.service.put(NAMED), after="store")
        assert (stage.fake.observe(), stage.store.load().pending) == (Image(), True)

        assert await stage.service.start() == 1
        assert set(stage.fake.observe().listeners) == set(listeners_of(NAMED))
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
        assert "write that was under way refused and taken back" in [one["event"] for one in logs]
        assert set(stage.fake.observe().listeners) == set(listeners_of(service()))
        assert stage.host.addresses == {VIP}

    play(scene)


def test_after_a_loss_of_power_an_unconfirmed_write_is_kept():
    """It may have been acknowledged: the confirmation is not synced."""

    async def scene(stage: Stage) -> None:
        await stage.service.put(service())
        await stage.crash(stage.service.put(service(of=key(port=1))), after="kernel")
        stage.fake, stage.host = FakeDataPlane(), FakeVipHost()
        stage.fake.fail_in(0)
        with pytest.raises(KernelError):
            await stage.restart()
        assert stage.store.load().pending
        assert await stage.restart() == 2
        assert not stage.store.load().pending

    play(scene)


def test_what_is_taken_back_leaves_no_state_of_an_endpoint():
    async def scene(stage: Stage) -> None:
        await stage.service.put(service())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stage.store, "confirm", die)
            patch.setattr(stage.store, "take_back", die)
            with pytest.raises(Killed):
                await stage.service.keep(Changes(states={FIRST: HostState.RED}), author=ME)
        stage.fake.fail_in(0)
        await stage.restart()
        (status,) = await stage.service.services()
        assert [one.state.value for one in status.endpoints] == ["active"] * 3

    play(scene)


def test_a_start_that_cannot_be_planned_touches_nothing():
    async def scene(stage: Stage) -> None:
        await stage.service.put(service())
        entry = next(iter(stage.fake.observe().rules.values()))
        (listener,) = listeners_of(service())
        stage.fake._rules[RuleId(77)] = entry
        stage.fake.apply([PutListener(listener=listener._replace(port=99), rule=RuleId(77))])
        before = stage.fake.observe()
        stage.limits = Limits(service_endpoints=1)
        with pytest.raises(InvalidRequest):
            await stage.restart()
        assert (stage.fake.observe(), stage.host.addresses) == (before, {VIP})

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
        unknown = gone._replace(port=99)
        stage.fake._listeners.pop(gone)
        stage.fake._rules[rules[2]] = structs.replace(entry, timeout=1)
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
        assert set(stage.fake.observe().listeners) == set(listeners_of(wide))

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


def test_a_rule_dropped_behind_our_back_is_missing():
    async def scene(stage: Stage) -> None:
        await stage.service.put(service())
        image = stage.fake.observe()
        for listener in image.listeners:
            stage.fake._listeners.pop(listener)
        stage.fake.apply([DropRule(rule=rule) for rule in image.rules])
        assert await stage.restart() == 1
        assert set(stage.fake.observe().listeners) == set(listeners_of(service()))

    play(scene)
