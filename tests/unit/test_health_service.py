# SPDX-License-Identifier: Apache-2.0
"""When endpoints are probed and what services are told, on a virtual clock."""

import asyncio
from ipaddress import ip_address
from typing import Any

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from loxilb.errors import Conflict, InvalidRequest, NotFound
from loxilb.model import Probe, ServiceKey
from loxilb.model.probe import HealthCheck, HostState, ProbeKind
from loxilb.model.revision import Changes
from loxilb.ports import EndpointChoice
from tests.support.probed import (
    DOWN,
    DRAINING,
    ONE,
    OUT,
    THREE,
    TWO,
    UP,
    WATCHED,
    Stage,
    at,
    gaps,
    monitored,
    run,
)
from tests.support.services import key, service


def test_an_endpoint_of_thousands_of_services_costs_as_much_as_those_of_one():
    """What each service adds does not depend on how many there are: a start tells of all at once."""
    looks = 0

    class Counting(dict[ServiceKey, HealthCheck]):
        def values(self) -> Any:
            nonlocal looks
            looks += 1
            return super().values()

    async def scene(stage: Stage) -> None:
        record = stage.health._record(at(ONE).name, at(ONE))
        record.probing = Counting()
        many = [service(("31.31.31.1,8080",), of=key(port=port), monitor=True) for port in range(1, 2001)]
        await stage.use(*many)
        assert len(record.probing) == 2000
        await stage.drop(*many)
        assert await stage.names() == []

    run(scene)

    assert looks < 20


def test_the_first_probe_comes_soon_and_the_others_with_the_period():
    async def scene(stage: Stage) -> None:
        await stage.use(WATCHED)
        await asyncio.sleep(1000)

    stage = run(scene)

    for address in (ONE, TWO, THREE):
        times = stage.line.times[address]
        assert times[0] <= 1.01
        assert 99 <= len(times) <= 112
        assert all(9 <= gap <= 10.001 for gap in gaps(times))
        assert len({round(gap, 3) for gap in gaps(times)}) > 20
    assert stage.told == []
    assert stage.line.closed


def test_what_was_down_before_a_restart_is_up_with_the_first_success():
    """And stays down without one: nothing is told then."""

    async def scene(stage: Stage) -> None:
        stage.found_down = frozenset({at(ONE), at(TWO)})
        stage.line.dead.add(TWO)
        await stage.use(WATCHED)
        assert [up for _, _, up in await stage.shown()] == [False, False, True]
        await asyncio.sleep(5)

    stage = run(scene)

    assert [changes for _, changes in stage.told] == [{at(ONE): UP}]


def test_what_was_down_stays_so_while_anybody_wants_it_probed():
    """However many services come before the one that does."""

    async def scene(stage: Stage) -> None:
        stage.found_down = frozenset({at(ONE)})
        stage.line.dead.add(ONE)
        quiet = (service(of=key(port=port)) for port in range(1, 1500))
        await stage.use(*quiet, replace(WATCHED, key=key(port=1500)), service(of=key(port=1501)))
        await asyncio.sleep(5)

    assert run(scene).told == []


def test_what_was_down_and_is_probed_no_more_is_up():
    """Nothing would ever say otherwise."""

    async def scene(stage: Stage) -> None:
        stage.found_down = frozenset({at(ONE)})
        await stage.use(service())
        await asyncio.sleep(1)

    assert [changes for _, changes in run(scene).told] == [{at(ONE): UP}]


def test_what_is_added_after_a_restart_starts_up():
    """What was down concerns only what was there."""

    async def scene(stage: Stage) -> None:
        stage.found_down = frozenset({at(ONE)})
        await stage.use(WATCHED)
        await stage.drop(WATCHED)
        await stage.use(WATCHED)
        assert [up for _, _, up in await stage.shown()] == [True, True, True]

    run(scene)


def test_a_failure_is_repeated_at_once_and_told_once():
    async def scene(stage: Stage) -> None:
        await stage.use(WATCHED)
        await asyncio.sleep(25)
        stage.line.dead.add(TWO)
        stage.line.times.clear()
        await asyncio.sleep(60)

    stage = run(scene)

    first, second, third, *_ = stage.line.times[TWO]
    assert second - first == pytest.approx(0.1)
    assert third - second == pytest.approx(1.0)
    ((when, changes),) = stage.told
    assert when == pytest.approx(second)
    assert changes == {at(TWO): DOWN}
    assert max(gaps(stage.line.times[TWO])) <= 10.001


def test_one_that_answers_again_is_told_as_up():
    async def scene(stage: Stage) -> None:
        stage.line.dead.add(TWO)
        await stage.use(WATCHED)
        await asyncio.sleep(100)
        assert await stage.shown() == [
            ("31.31.31.1_tcp_8080", "tcp", True),
            ("32.32.32.1_tcp_8080", "tcp", False),
            ("33.33.33.1_tcp_8080", "tcp", True),
        ]
        stage.line.dead.clear()
        await asyncio.sleep(10.1)
        assert stage.states == {at(TWO): UP}

    run(scene)


def test_a_late_outcome_is_no_verdict():
    async def scene(stage: Stage) -> None:
        stage.line.dead.add(TWO)
        stage.line.late = True
        await stage.use(WATCHED)
        await asyncio.sleep(100)

    stage = run(scene)

    assert stage.told == []
    assert len(stage.line.times[TWO]) > 500


def test_thousands_are_probed_in_time_and_not_all_at_once():
    many = [f"10.{number >> 8}.{number & 255}.1,80" for number in range(4_000)]

    async def scene(stage: Stage) -> None:
        stage.line.cost = 0.1
        await stage.use(service(many, monitor=True, probe=Probe(period=10)))
        await asyncio.sleep(13.5)

    stage = run(scene)

    assert len(stage.line.times) == 4_000
    assert min(map(len, stage.line.times.values())) >= 2
    assert stage.line.busiest == 256


def test_changes_that_come_while_one_is_written_go_together():
    many = [f"10.{number >> 8}.{number & 255}.1,80" for number in range(500)]

    async def scene(stage: Stage) -> None:
        stage.slowness = 0.2
        stage.line.dead.update(ip_address(one.partition(",")[0]) for one in many)
        await stage.use(service(many, monitor=True))
        await asyncio.sleep(5)

    stage = run(scene)

    assert len(stage.states) == 500
    assert len(stage.told) <= 10


def test_what_the_kernel_refuses_is_tried_again():
    async def scene(stage: Stage) -> None:
        stage.refusals = 3
        stage.line.dead.add(ONE)
        await stage.use(WATCHED)
        await asyncio.sleep(20)

    with capture_logs() as logs:
        stage = run(scene)

    assert stage.states == {at(ONE): DOWN}
    assert sum(log["log_level"] == "error" for log in logs) == 3


def test_a_fault_of_a_probe_ends_nothing():
    async def scene(stage: Stage) -> None:
        await stage.health.put_endpoint(monitored(request="crash", period=5))
        await asyncio.sleep(60)

    with capture_logs() as logs:
        stage = run(scene)

    assert len(stage.line.times[ONE]) > 5
    assert all(log["event"] == "timed work hit a fault" for log in logs)


def test_endpoints_come_and_go_with_services():
    other = replace(WATCHED, key=key(port=99), endpoints=WATCHED.endpoints[:2])

    async def scene(stage: Stage) -> None:
        await stage.use(WATCHED, other)
        await stage.use(WATCHED.with_endpoints(WATCHED.endpoints[1:]))
        assert [name[:2] for name in await stage.names()] == ["31", "32", "33"]
        await stage.drop(other)
        assert [name[:2] for name in await stage.names()] == ["32", "33"]
        await stage.drop(WATCHED)
        assert await stage.names() == []
        stage.line.times.clear()
        await asyncio.sleep(100)
        assert stage.line.times == {}

    with capture_logs() as logs:
        run(scene)
    assert logs == []


def test_the_first_service_that_wants_probes_says_how():
    watched = [replace(WATCHED, key=key(port=port), probe=Probe(period=period)) for port, period in ((1, 7), (2, 9))]

    async def scene(stage: Stage) -> None:
        await stage.use(service(), *watched, service(of=key(port=3)))
        await asyncio.sleep(10)
        assert stage.line.checks[ONE].period == 7
        await stage.drop(watched[0])
        await asyncio.sleep(10)
        assert stage.line.checks[ONE].period == 9

    run(scene)


def test_a_service_that_does_not_ask_is_not_probed():
    async def scene(stage: Stage) -> None:
        await stage.use(service())
        await asyncio.sleep(100)
        assert await stage.shown() == [(f"{one}_tcp_8080", "none", True) for one in (ONE, TWO, THREE)]

    assert run(scene).line.times == {}


def test_one_that_is_down_and_not_probed_any_more_is_up():
    async def scene(stage: Stage) -> None:
        stage.line.dead.add(ONE)
        await stage.use(WATCHED)
        await asyncio.sleep(5)
        assert stage.states == {at(ONE): DOWN}
        await stage.use(replace(WATCHED, monitor=False))
        await asyncio.sleep(1)
        assert stage.states == {at(ONE): UP}

    run(scene)


def test_one_that_is_forgotten_while_down_is_up_for_whoever_comes():
    async def scene(stage: Stage) -> None:
        stage.line.dead.add(ONE)
        await stage.use(WATCHED)
        await asyncio.sleep(5)
        await stage.drop(WATCHED)
        await asyncio.sleep(1)
        assert stage.states == {at(ONE): UP}

    run(scene)


def test_another_check_does_not_raise_the_dead():
    async def scene(stage: Stage) -> None:
        stage.line.dead.add(ONE)
        await stage.use(WATCHED)
        await asyncio.sleep(5)
        await stage.health.put_endpoint(monitored(kind=ProbeKind.PING, name=f"{ONE}_tcp_8080", port=0))
        await asyncio.sleep(50)
        assert stage.line.checks[ONE].kind is ProbeKind.PING
        assert [state for _, changes in stage.told for state in changes.values()] == [DOWN]

    run(scene)


def test_what_an_operator_tells_overrules_the_services_and_stays():
    async def scene(stage: Stage) -> None:
        await stage.use(service())
        await stage.health.put_endpoint(monitored(period=5, retries=1))
        await stage.health.put_endpoint(monitored(period=7, retries=1))
        await asyncio.sleep(10)
        assert stage.line.checks == {ONE: monitored(period=7, retries=1).check}

        with pytest.raises(Conflict) as caught:
            await stage.health.delete_endpoint(EndpointChoice(address=ONE))
        assert caught.value.code == "LB Rule-referred"
        await stage.drop(service())
        assert await stage.names() == [f"{ONE}_tcp_8080"]
        await stage.health.delete_endpoint(EndpointChoice(address=ONE))
        assert await stage.names() == []

    run(scene)


def test_another_address_may_speak_for_an_endpoint():
    """A name in the form of a key ties the check to services, wherever the probe goes."""

    async def scene(stage: Stage) -> None:
        await stage.use(service())
        stage.line.dead.add(TWO)
        await stage.health.put_endpoint(monitored(TWO, name=f"{ONE}_tcp_8080", period=5))
        await asyncio.sleep(10)
        assert stage.states == {at(ONE): DOWN}

    run(scene)


def test_a_name_of_its_own_concerns_no_service():
    async def scene(stage: Stage) -> None:
        stage.line.dead.add(ONE)
        await stage.health.put_endpoint(monitored(name="web", period=5))
        await asyncio.sleep(20)
        assert await stage.shown() == [("web", "tcp", False)]

    assert run(scene).told == []


@pytest.mark.parametrize(
    ("choice", "left"),
    [
        (EndpointChoice(address=ONE, name="web"), 2),
        (EndpointChoice(address=ONE, kind=ProbeKind.PING, port=0), 2),
        (EndpointChoice(address=ONE, kind=ProbeKind.PING), 2),
        (EndpointChoice(address=TWO), 2),
        (EndpointChoice(address=THREE), NotFound),
        (EndpointChoice(address=ONE, name="other"), NotFound),
        (EndpointChoice(address=ONE, kind=ProbeKind.TCP, port=8080), NotFound),
        (EndpointChoice(address=ONE), InvalidRequest),
    ],
)
def test_deleting_takes_a_name_or_what_is_unambiguous(choice, left):
    async def scene(stage: Stage) -> None:
        for one in (monitored(name="web"), monitored(kind=ProbeKind.PING, port=0), monitored(TWO)):
            await stage.health.put_endpoint(one)
        if isinstance(left, int):
            await stage.health.delete_endpoint(choice)
            assert len(await stage.names()) == left
        else:
            with pytest.raises(left):
                await stage.health.delete_endpoint(choice)
            assert len(await stage.names()) == 3

    run(scene)


def test_of_several_the_one_that_no_service_uses_is_meant():
    async def scene(stage: Stage) -> None:
        await stage.use(service())
        await stage.health.put_endpoint(monitored(kind=ProbeKind.PING, port=0))
        await stage.health.delete_endpoint(EndpointChoice(address=ONE))
        assert f"{ONE}_ping_0" not in await stage.names()
        assert f"{ONE}_tcp_8080" in await stage.names()

    run(scene)


@pytest.mark.parametrize("whole_host", [True, False])
def test_an_operator_may_take_endpoints_out(whole_host):
    where = None if whole_host else at(ONE)

    async def scene(stage: Stage) -> None:
        await stage.use(WATCHED, service(("31.31.31.1,9",), of=key(port=9)))
        seen = []
        for state in (HostState.RED, HostState.YELLOW, HostState.GREEN):
            await stage.health.set_host_state(ONE, state, where)
            seen.append({key.port: state for key, state in stage.states.items()})
        ports = (8080, 9) if whole_host else (8080,)
        assert seen == [dict.fromkeys(ports, state) for state in (OUT, DRAINING, UP)]

    run(scene)


def test_a_state_stays_when_the_last_probe_goes():
    """And ends when the operator says so, or the journal, as nobody uses the endpoint any more."""

    async def scene(stage: Stage) -> None:
        await stage.use(WATCHED)
        await stage.health.set_host_state(ONE, HostState.RED, at(ONE))
        await stage.use(replace(WATCHED, monitor=False))
        assert stage.states == {at(ONE): OUT}
        assert [one.state for one in await stage.health.endpoints()] == [HostState.RED, *[HostState.GREEN] * 2]
        await stage.drop(WATCHED)
        stage.health.changed(Changes(states={at(ONE).name: None}))
        await asyncio.sleep(1)
        assert stage.states == {at(ONE): UP}
        assert await stage.names() == []

    run(scene)


def test_green_leaves_it_to_the_probes():
    async def scene(stage: Stage) -> None:
        await stage.use(WATCHED)
        stage.line.dead.add(ONE)
        await asyncio.sleep(20)
        await stage.health.set_host_state(ONE, HostState.YELLOW, None)
        await stage.health.set_host_state(ONE, HostState.RED, None)
        await stage.health.set_host_state(ONE, HostState.GREEN, None)
        assert [state for _, changes in stage.told for state in changes.values()] == [DOWN, OUT, DOWN]

    run(scene)


def test_an_unknown_endpoint_has_no_state():
    async def scene(stage: Stage) -> None:
        await stage.health.set_host_state(ONE, HostState.RED, None)
        with pytest.raises(NotFound) as caught:
            await stage.health.set_host_state(ONE, HostState.RED, at(ONE))
        assert caught.value.code == "ephost-notfound error"

    run(scene)


def test_pings_show_their_delays():
    async def scene(stage: Stage) -> None:
        await stage.health.put_endpoint(monitored(kind=ProbeKind.PING, port=0, period=1))
        (status,) = await stage.health.endpoints()
        assert status.delays is None
        await asyncio.sleep(100)
        (status,) = await stage.health.endpoints()
        count = len(stage.line.times[ONE])
        assert status.delays == pytest.approx(((count - 15) / 1000, (count - 7.5) / 1000, count / 1000))

    run(scene)
