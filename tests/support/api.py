# SPDX-License-Identifier: Apache-2.0
"""A real API server on a loopback socket, in a thread with a uvloop event loop of its own."""

import asyncio
import http.client
import json
import threading
from collections.abc import Callable, Coroutine, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
import uvloop

from loxilb.kernel.fake import FakeDataPlane, FakeLinks, FakeVipHost
from loxilb.kernel.fake.columns import page_of
from loxilb.model import Flow, Port
from loxilb.model.flow_list import FlowQuery
from loxilb.model.revision import LOG_LEVEL, Changes
from loxilb.ports import EVERY_FLOW, FlowList, Packets, ServiceStatus
from loxilb.services.api import ApiServer, BuildInfo
from loxilb.services.config import ConfigurationService
from loxilb.services.drops import DropWatch
from loxilb.services.health import HealthService, Probes
from loxilb.services.metrics import Latencies, MetricsService
from loxilb.services.reconcile import Reconciler
from loxilb.services.store import SqliteStore
from loxilb.services.trace import TraceService

_DEADLINE_S = 20
NO_CERTIFICATES = Path("/nonexistent")
BUILD = BuildInfo(version="0.9.8-dev", build="2026_11_22_03h:40m:25-local")


class MemoryLogLevel:
    """A log level that only remembers."""

    def __init__(self) -> None:
        """Start as the daemon does."""
        self.level = "debug"

    def get(self) -> str:
        """Return the level."""
        return self.level

    def changed(self, changes: Changes) -> None:
        """Remember the level."""
        self.level = changes.parameters.get(LOG_LEVEL) or self.level


def health_over(configuration: ConfigurationService, reconciler: Reconciler | None = None) -> HealthService:
    """Return the health service of a configuration service, without certificates; a reconciler delivers for it."""
    worker = reconciler or Reconciler()
    health = HealthService(
        target=configuration,
        journal=configuration,
        prober=Probes(NO_CERTIFICATES),
        wake=lambda: worker.ask("health"),
    )
    worker.add("health", health.deliver)
    return health


async def begin(reconciler: Reconciler) -> asyncio.Task[None]:
    """Let a reconciler work in the running loop."""
    return asyncio.create_task(reconciler.run())


async def end(task: asyncio.Task[None]) -> None:
    """End a task and wait for its end."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def metrics_over(
    configuration: ConfigurationService,
    health: HealthService,
    data_plane: FakeDataPlane | None = None,
    reconciler: Reconciler | None = None,
) -> MetricsService:
    """Return the metrics, switched off, of what is made of fakes."""
    return MetricsService(
        measures=data_plane or FakeDataPlane(),
        ledgers=configuration,
        health=health,
        reconciler=reconciler or Reconciler(),
        latencies=Latencies(),
        enabled=False,
    )


def packets_over(
    configuration: ConfigurationService, data_plane: FakeDataPlane | None = None, ways: FakeLinks | None = None
) -> Packets:
    """Return what is asked about packets, over fakes; drops are looked for often."""
    data_plane = data_plane or FakeDataPlane()
    tracer = TraceService(
        tracer=data_plane, ways=ways or FakeLinks(), configuration=configuration, owners=configuration
    )
    drops = DropWatch(data_plane.drops, lambda index: {2: "eth0"}.get(index, ""), look=0.01, quiet=0.2)
    return Packets(tracer=tracer, drops=drops)


class ShownConfiguration(ConfigurationService):
    """The configuration service over an empty fake kernel, with reads that show what the test wants shown.

    For answers about things that this kernel cannot be brought to hold, such as modes that are not built.
    """

    def __init__(
        self,
        *,
        services: Sequence[ServiceStatus] = (),
        flows: Sequence[Flow] = (),
        ports: Sequence[Port] = (),
    ) -> None:
        """Keep what to show."""
        super().__init__(
            data_plane=FakeDataPlane(), vip_host=FakeVipHost(), links=FakeLinks(), store=SqliteStore.open(None)
        )
        self.shown_services = services
        self.shown_flows = flows
        self.shown_ports = ports

    async def services(self) -> Sequence[ServiceStatus]:
        """Return the services of the test."""
        return self.shown_services

    async def flows(self, query: FlowQuery = EVERY_FLOW, *, service: str | None = None) -> FlowList:
        """Return the flows of the test, which are of no service."""
        return FlowList(page=page_of(self.shown_flows if service is None else (), query), names={})

    async def ports(self) -> Sequence[Port]:
        """Return the ports of the test."""
        return self.shown_ports


@contextmanager
def fake_kernel_api() -> Iterator["LiveApi"]:
    """Serve a configuration service over a fake kernel."""
    data_plane = FakeDataPlane()
    service = ConfigurationService(
        data_plane=data_plane, vip_host=FakeVipHost(), links=FakeLinks(), store=SqliteStore.open(None)
    )
    try:
        with live_api(service, data_plane=data_plane) as api:
            api.data_plane = data_plane
            yield api
    finally:
        service.close()


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer; header names are lower-case."""

    status: int
    body: bytes
    headers: dict[str, str]

    @property
    def json(self) -> Any:
        """The decoded body."""
        return json.loads(self.body)


@dataclass(slots=True)
class LiveApi:
    """A running server and how to talk to it."""

    address: tuple[str, int]
    log_level: MemoryLogLevel
    logs: Sequence[MutableMapping[str, Any]]
    run: Callable[[Coroutine[Any, Any, Any]], Any]
    data_plane: FakeDataPlane = field(default_factory=FakeDataPlane)

    def call_soon(self, work: Callable[..., object], *arguments: object) -> None:
        """Do something in the server's event loop."""

        async def body() -> None:
            work(*arguments)

        self.run(body())

    def request(
        self,
        method: str,
        path: str,
        body: bytes | str | None = None,
        headers: dict[str, str] | None = None,
        *,
        whole: bool = True,
    ) -> Reply:
        """Send one request; a body is declared as JSON unless ``headers`` say otherwise.

        Unless ``whole``, do not wait for the body of the answer.
        """
        sent = {"Content-Type": "application/json"} if headers is None else headers
        connection = http.client.HTTPConnection(*self.address, timeout=_DEADLINE_S)
        try:
            connection.request(method, path, body=body, headers=sent)
            response = connection.getresponse()
            content = response.read() if whole else b""
            return Reply(response.status, content, {name.lower(): text for name, text in response.getheaders()})
        finally:
            connection.close()


@contextmanager
def loop_thread() -> Iterator[Callable[[Coroutine[Any, Any, Any]], Any]]:
    """Run a uvloop event loop in a thread; yields a function that runs a coroutine there and waits for it.

    Fails in the end for what was raised in the loop where nobody waited for it.
    """
    loop = uvloop.new_event_loop()
    unseen: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _loop, context: unseen.append(context))
    thread = threading.Thread(target=loop.run_forever, name="loxt-loop")
    thread.start()

    def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(_DEADLINE_S)

    try:
        yield run
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(_DEADLINE_S)
        loop.close()
    assert unseen == []


@contextmanager
def live_api(
    configuration: ConfigurationService,
    *,
    host: str = "127.0.0.1",
    data_plane: FakeDataPlane | None = None,
    ways: FakeLinks | None = None,
) -> Iterator[LiveApi]:
    """Serve ``configuration`` on a free port; metrics (which are off) and packets are those of ``data_plane``."""
    log_level = MemoryLogLevel()
    reconciler = Reconciler()
    health = health_over(configuration, reconciler)

    async def audit() -> None:
        await configuration.audit()

    reconciler.add("audit", audit)
    configuration.watch(health)
    configuration.watch_changes(health)
    configuration.watch_changes(log_level)
    server = ApiServer(
        configuration=configuration,
        endpoints=health,
        log_level=log_level,
        metrics=metrics_over(configuration, health, data_plane, reconciler),
        packets=packets_over(configuration, data_plane, ways),
        reconciler=reconciler,
        build=BUILD,
        at=(host, 0),
    )
    with structlog.testing.capture_logs() as logs, loop_thread() as run:
        run(health.start())
        working = run(begin(reconciler))
        run(server.start())
        try:
            yield LiveApi(address=server.address, log_level=log_level, logs=logs, run=run)
        finally:
            run(server.stop())
            run(end(working))
            run(health.stop())
