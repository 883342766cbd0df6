# SPDX-License-Identifier: Apache-2.0
"""When endpoints are probed and what services are told, on a virtual clock."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_address
from itertools import pairwise
from typing import Any

import pytest
from structlog.testing import capture_logs

from loxilb.errors import Conflict, InvalidRequest, KernelError, NotFound
from loxilb.model import IPAddress, Probe, Service, ServiceKey
from loxilb.model.probe import Availability, EndpointKey, HealthCheck, HostState, MonitoredEndpoint, ProbeKind
from loxilb.model.revision import Author, Changes
from loxilb.ports import EndpointChoice
from loxilb.services.health import HealthService, Outcome
from loxilb.services.reconcile import Reconciler
from tests.support.services import key, service
from tests.support.virtual import play

ONE, TWO, THREE = (ip_address(f"{number}.{number}.{number}.1") for number in (31, 32, 33))
UP, DOWN, DRAINING, OUT = Availability.UP, Availability.DOWN, Availability.DRAINING, Availability.OUT
WATCHED = service(monitor=True, probe=Probe(period=10))


def at(address: IPAddress, port: int = 8080, word: str = "tcp") -> EndpointKey:
    return EndpointKey(address, word, port)


class Line:
    """Endpoints that answer unless they are in ``dead``; every probe takes ``cost`` seconds."""

    def __init__(self, stage: "Stage") -> None:
        self.stage = stage
        self.dead: set[IPAddress] = set()
        self.late = False
        self.cost = 0.0
        self.busy = self.busiest = 0
        self.times: defaultdict[IPAddress, list[float]] = defaultdict(list)
        self.checks: dict[IPAddress, HealthCheck] = {}
        self.closed = False

    async def probe(self, address: IPAddress, check: HealthCheck) -> Outcome:
        self.busy += 1
        self.busiest = max(self.busiest, self.busy)
        self.times[address].append(self.stage.now)
        self.checks[address] = check
        await asyncio.sleep(self.cost)
        self.busy -= 1
        if check.request == "crash":
            raise ZeroDivisionError
        delay = 0.001 * len(self.times[address]) if check.kind is ProbeKind.PING else None
        return Outcome(fault="dead", late=self.late) if address in self.dead else Outcome(delay=delay)

    def close(self) -> None:
        self.closed = True


class Stage:
    """The service between a line of endpoints and what is told."""

    def __init__(self) -> None:
        self.line = Line(self)
        self.told: list[tuple[float, dict[EndpointKey, Availability]]] = []
        self.authors: list[Author] = []
        self.refusals = 0
        self.slowness = 0.0
        self.reconciler = Reconciler()
        self.health = HealthService(
            target=self, journal=self, prober=self.line, wake=lambda: self.reconciler.ask("health")
        )
        self.reconciler.add("health", self.health.deliver)

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time()

    @property
    def states(self) -> dict[EndpointKey, Availability]:
        """What was told last of every endpoint."""
        return {key: state for _, changes in self.told for key, state in changes.items()}

    async def set_availability(self, changes: Mapping[EndpointKey, Availability]) -> None:
        await asyncio.sleep(self.slowness)
        if self.refusals:
            self.refusals -= 1
            raise KernelError("write endpoints", 5)
        self.told.append((self.now, dict(changes)))

    async def keep(self, changes: Changes, *, author: Author) -> None:
        self.authors.append(author)
        self.health.changed(changes)
        await asyncio.sleep(0)

    async def use(self, *services: Service) -> None:
        """Report services; returns when that has been taken in."""
        self.health.services_changed({one.key: one for one in services})
        await asyncio.sleep(0.001)

    async def drop(self, *services: Service) -> None:
        self.health.services_changed(dict.fromkeys(one.key for one in services))
        await asyncio.sleep(0.001)

    async def names(self) -> list[str]:
        return [status.name for status in await self.health.endpoints()]

    async def shown(self) -> list[tuple[str, str, bool]]:
        return [(one.name, one.check.kind.value, one.up) for one in await self.health.endpoints()]


Scene = Callable[[Stage], Coroutine[Any, Any, None]]


def run(scene: Scene) -> Stage:
    async def whole() -> Stage:
        stage = Stage()
        await stage.health.start()
        working = asyncio.create_task(stage.reconciler.run())
        try:
            await scene(stage)
        finally:
            await stage.health.stop()
            working.cancel()
        return stage

    return play(whole())


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
        record.users = Counting()
        await stage.use(*(service(("31.31.31.1,8080",), of=key(port=port)) for port in range(1, 2001)))
        assert len(record.users) == 2000
        await stage.drop(*(service(of=key(port=port)) for port in range(1, 2001)))
        assert await stage.names() == []

    run(scene)

    assert looks < 20


def gaps(times: Sequence[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(times)]


def monitored(
    address: IPAddress = ONE, kind: ProbeKind = ProbeKind.TCP, port: int = 8080, **more: Any
) -> MonitoredEndpoint:
    name = more.pop("name", "")
    return MonitoredEndpoint(address=address, name=name, check=HealthCheck(kind=kind, port=port, **more))


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
