# SPDX-License-Identifier: Apache-2.0
"""The health service between endpoints that answer or not and whoever is told, on a virtual clock."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from ipaddress import ip_address
from itertools import pairwise
from typing import Any

from loxilb.errors import KernelError
from loxilb.model import IPAddress, Probe, Service, ServiceKey
from loxilb.model.probe import Availability, EndpointKey, HealthCheck, MonitoredEndpoint, ProbeKind
from loxilb.model.revision import Author, Changes
from loxilb.services.health import HealthService, Outcome
from loxilb.services.reconcile import Reconciler
from tests.support.services import service
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
        self.found_down: frozenset[EndpointKey] = frozenset()
        self.services: dict[ServiceKey, Service] = {}

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

    async def used(self) -> set[EndpointKey]:
        return {EndpointKey.of(one, endpoint) for one in self.services.values() for endpoint in one.endpoints}

    async def users(self, endpoint: EndpointKey) -> list[ServiceKey]:
        using = {key: {EndpointKey.of(one, used) for used in one.endpoints} for key, one in self.services.items()}
        return [key for key, endpoints in using.items() if endpoint in endpoints]

    async def use(self, *services: Service) -> None:
        """Report services; returns when that has been taken in."""
        self.services |= {one.key: one for one in services}
        self.health.services_changed({one.key: one for one in services})
        await asyncio.sleep(0.001)

    async def drop(self, *services: Service) -> None:
        for one in services:
            self.services.pop(one.key, None)
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


def gaps(times: Sequence[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(times)]


def monitored(
    address: IPAddress = ONE, kind: ProbeKind = ProbeKind.TCP, port: int = 8080, **more: Any
) -> MonitoredEndpoint:
    name = more.pop("name", "")
    return MonitoredEndpoint(address=address, name=name, check=HealthCheck(kind=kind, port=port, **more))
