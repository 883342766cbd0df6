# SPDX-License-Identifier: Apache-2.0
"""Composition root: puts the pieces of the daemon together, and runs them."""

import asyncio
import gc
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn, Protocol

import structlog
import uvloop

import loxilb
from loxilb.errors import KernelError, LoxilbError
from loxilb.kernel import netns
from loxilb.kernel.bpf import BpfDataPlane, remove_data_plane
from loxilb.kernel.claim import claim_namespace
from loxilb.kernel.limits import raise_descriptors
from loxilb.kernel.netlink import (
    HeldAddressRemoved,
    LinkChanged,
    LinkRemoved,
    Network,
    NetworkEvent,
    interface_name,
)
from loxilb.logs import LogLevel, configure
from loxilb.measured import MeasuredDataPlane, MeasuredProber
from loxilb.model.port import IfIndex
from loxilb.model.revision import LOG_LEVEL, Changes
from loxilb.plan import Limits
from loxilb.ports import DataPlane, Links, Measures, Packets, Store, Tampering, VipHost
from loxilb.readiness import Manager
from loxilb.services.api import ApiServer, BuildInfo
from loxilb.services.bootfiles import import_files
from loxilb.services.config import ConfigurationService
from loxilb.services.drops import DropReporter, DropWatch
from loxilb.services.flowlog import FlowLog, FlowReporter
from loxilb.services.health import HealthService, Probes
from loxilb.services.interfaces import Attachable, Interfaces
from loxilb.services.metrics import Latencies, MetricsService
from loxilb.services.reconcile import Reconciler
from loxilb.services.resets import AbortReporter, RawSockets, Resets
from loxilb.services.store import SqliteStore, place_of
from loxilb.services.store import remove as remove_store
from loxilb.services.trace import PacketTracer, TraceService, Ways
from loxilb.settings import Settings

_API_BASE = "/netlox/v1"
_RETRY_S = 1.0
_CHECK_S = 0.3
"""Seconds between two looks at pins and attached programs."""
_ENDS = "the BPF file system of the pins is mounted in it alone, as where ip netns exec starts loxilb"
_OUTSIDE = "start it as loxilb --netns NAME"
_BEGAN = "_LOXILB_BEGAN"
"""The variable that tells a program that is started again when that was (CLOCK_BOOTTIME)."""
_AUDIT_SHARE = 200
"""An audit begins no sooner after another than so many times as long as that took: it costs at most half a percent."""
# Objects made between two passes of the cyclic garbage collector, and passes over the youngest between those over older
# ones: what the daemon makes very many of is in no cycle.
_COLLECTED = (50_000, 20, 50)

_log = structlog.get_logger(__name__)


class PacketPath(DataPlane, Measures, Attachable, FlowReporter, AbortReporter, PacketTracer, Protocol):
    """A data plane with everything that the daemon needs of it."""

    @property
    def drops(self) -> DropReporter:
        """Reports of dropped packets."""

    def resolve_again(self) -> None:
        """Look routes and neighbours up again for the next packet of every flow; raises KernelError."""

    def retire(self) -> None:
        """Let go of what only replaced programs needed, once no packet is in them any more; raises KernelError."""

    def check_hooks(self) -> Tampering:
        """Put back pins that somebody else removed, and tell which interfaces lack a program; raises KernelError."""


class Surroundings(Links, VipHost, Ways, Protocol):
    """The network around the daemon, and what happens in it."""

    def events(self) -> AsyncIterator[Sequence[NetworkEvent]]:
        """Report changes, those that came together at once, without end."""


class Daemon:
    """Everything that runs, over a packet path and its surroundings that are open already."""

    def __init__(
        self,
        *,
        settings: Settings,
        packet_path: PacketPath,
        surroundings: Surroundings,
        limits: Limits,
        level: LogLevel,
        store: Store,
    ) -> None:
        """Build the services; nothing runs before ``run``."""
        self._settings = settings
        self._packet_path = packet_path
        self._surroundings = surroundings
        self._interfaces = Interfaces(packet_path, surroundings, settings.interfaces)
        self._level = level
        self._flow_log = FlowLog(packet_path)
        self._raw_sockets = RawSockets()
        self._resets = Resets(packet_path, self._raw_sockets)
        self._reconciler = Reconciler()
        self._changed: set[IfIndex] = set()
        self._removed: set[IfIndex] = set()
        self._lost: frozenset[IfIndex] = frozenset()
        latencies = Latencies()
        self.configuration = ConfigurationService(
            data_plane=MeasuredDataPlane(packet_path, latencies),
            vip_host=surroundings,
            links=surroundings,
            store=store,
            limits=limits,
            hooks=self._interfaces.hooks,
        )
        self.health = HealthService(
            target=self.configuration,
            journal=self.configuration,
            prober=MeasuredProber(Probes(settings.certificates), latencies),
            wake=lambda: self._reconciler.ask("health"),
        )
        self.configuration.wake_with(lambda: self._reconciler.ask("endpoints"))
        self._add_works()
        self.configuration.watch(self.health)
        self.configuration.watch_changes(self.health)
        self.configuration.watch_changes(self)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._level_open = not settings.log_level_asked
        self.metrics = MetricsService(
            measures=packet_path,
            ledgers=self.configuration,
            health=self.health,
            reconciler=self._reconciler,
            latencies=latencies,
            enabled=settings.metrics,
        )
        self._drops = DropWatch(packet_path.drops, interface_name)
        tracer = TraceService(
            tracer=packet_path, ways=surroundings, configuration=self.configuration, owners=self.configuration
        )
        self.api = ApiServer(
            configuration=self.configuration,
            endpoints=self.health,
            log_level=level,
            metrics=self.metrics,
            packets=Packets(tracer=tracer, drops=self._drops),
            reconciler=self._reconciler,
            build=build_info(),
            at=(settings.host, settings.port),
        )

    async def run(self, stop: asyncio.Event, ready: Callable[[str], None]) -> None:
        """Serve until ``stop``; ``ready`` gets one line saying what was taken. Forwarding stays in place.

        Raises KernelError and StoreError when it cannot start.
        """
        watchers: list[asyncio.Task[None]] = []
        try:
            await asyncio.to_thread(self._interfaces.attach_all)
            self._loop = asyncio.get_running_loop()
            if self._settings.audit_interval:  # the start itself compares everything
                self._reconciler.ask_in("audit", self._settings.audit_interval)
            await self.health.start()
            services = await self.configuration.start()
            if self.configuration.owes_addresses:
                self._reconciler.ask("addresses")
            self._level_open = True
            if services:
                _log.info("services in place", services=services)
            if self.configuration.is_new:
                await import_files(self._settings.boot_files, self.configuration)
            self._level.watch(self._trace_flows)
            for service in (self._flow_log.run(), self._resets.run(), self._reconciler.run()):
                watchers.append(asyncio.create_task(service))
            if self._settings.follow_network:
                watchers.append(asyncio.create_task(self._follow()))
            if self._settings.api:
                await self.api.start()
            ready(self._summary())
            await asyncio.to_thread(self._retire)
            await stop.wait()
        finally:
            await self._finish(watchers)

    def changed(self, changes: Changes) -> None:
        """Put a log level that was set or rolled back into force; from any thread."""
        if LOG_LEVEL in changes.parameters and self._level_open and self._loop is not None:
            level = changes.parameters[LOG_LEVEL] or self._settings.log_level
            self._loop.call_soon_threadsafe(self._level.set, level)

    async def _finish(self, watchers: list[asyncio.Task[None]]) -> None:
        self._drops.close()  # who watches would keep the API open
        await self.api.stop()
        await self.health.stop()
        for watcher in watchers:
            watcher.cancel()
        await asyncio.gather(*watchers, return_exceptions=True)
        self._flow_log.report(False)
        self._raw_sockets.close()
        self.configuration.close()

    def _trace_flows(self) -> None:
        """Have the data plane report flows only while somebody sees them: a report costs it some time."""
        self._flow_log.report(self._level.shows("trace"))

    def _retire(self) -> None:
        """Let go of replaced programs; where that fails, the next start does it."""
        try:
            self._packet_path.retire()
        except KernelError as error:
            _log.warning("replaced programs not let go of", cause=error.cause)

    def _summary(self) -> str:
        return f"{self._interfaces.summary()}, API {self._api_address()}"

    def _api_address(self) -> str:
        if not self._settings.api:
            return "off"
        host, port = self.api.address
        return f"http://{f'[{host}]' if ':' in host else host}:{port}{_API_BASE}"

    async def _follow(self) -> None:
        """Follow the network; what fails is logged, and the next event is another chance."""
        while True:
            try:
                async for events in self._surroundings.events():
                    self._handle(events)
            except LoxilbError as error:
                _log.error("network not followed", cause=error.cause, remedy=error.remedy)
            except OSError as error:
                _log.error("network not followed", cause=str(error))
            await asyncio.sleep(_RETRY_S)

    def _handle(self, events: Sequence[NetworkEvent]) -> None:
        """Have done what follows from events that came together."""
        self._changed.update(event.index for event in events if isinstance(event, LinkChanged))
        self._removed.update(event.index for event in events if isinstance(event, LinkRemoved))
        lost = [event.address for event in events if isinstance(event, HeldAddressRemoved)]
        if lost:
            _log.warning("service addresses were removed by somebody else", addresses=" ".join(map(str, lost)))
            self._reconciler.note({"address": len(lost)})
            self._reconciler.ask("addresses")
        self._reconciler.ask(*(("links",) if self._changed or self._removed else ("routes", "sources")))

    def _add_works(self) -> None:
        """Say what is done in the background; works that wait for each other ask for the next one."""
        configuration = self.configuration
        for name, run in {
            "links": self._follow_links,
            "hooks": self._check_hooks,
            "routes": lambda: asyncio.to_thread(self._packet_path.resolve_again),
            "addresses": configuration.refresh_addresses,
            "sources": configuration.refresh_sources,
            "health": self.health.deliver,
            "endpoints": configuration.tend,
            "audit": self._audit,
        }.items():
            self._reconciler.add(name, run)
        self._reconciler.ask("links", "hooks", "endpoints")

    async def _follow_links(self) -> None:
        """Attach to what is new or different: hundreds of new interfaces are listed once, not once for each."""
        changed, removed, self._changed, self._removed = self._changed, self._removed, set(), set()
        lost = self._lost
        try:
            await asyncio.to_thread(self._interfaces.follow, changed, removed)
            self._reconciler.note({"link": len(lost & self._lost)})
            self._lost -= lost
        finally:
            if changed or removed:
                # A link that changed takes its routes and neighbours along, whether it could be attached or not.
                self._reconciler.ask("routes", "addresses", "sources")

    async def _check_hooks(self) -> float:
        """Put back what others took away from the interfaces; returns when to look again."""
        found = await asyncio.to_thread(self._packet_path.check_hooks)
        new, back, self._lost = found.interfaces - self._lost, self._lost - found.interfaces, found.interfaces
        if new or found.pins or found.sockets:
            _log.warning(
                "programs or pins were removed by somebody else", pins=found.pins, links=len(new) + found.sockets
            )
        self._reconciler.note({"pin": found.pins, "link": found.sockets + len(back)})
        if new:  # those from before are tried again until they are followed
            self._changed |= new
            self._reconciler.ask("links")
        return _CHECK_S

    async def _audit(self) -> float | None:
        """Compare and repair map contents; returns when to do it again, later where it takes long."""
        began = time.monotonic()
        self._reconciler.note(await self.configuration.audit())
        interval = self._settings.audit_interval
        return max(interval, _AUDIT_SHARE * (time.monotonic() - began)) if interval else None


def run(settings: Settings, ready: Callable[[str], None], check: Callable[[], None]) -> bool:
    """Run a daemon until SIGTERM or SIGINT; ``ready`` gets one line once it serves.

    Returns True when it is to be started again: after SIGHUP, when ``check`` of the settings of then raises no
    LoxilbError. The namespace is entered before anything has a thread. Raises LoxilbError when it cannot start.
    """
    if _reloads():
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])  # until there is somebody to take it
    gc.set_threshold(*_COLLECTED)
    gc.disable()  # until it serves: what a start makes stays
    level = LogLevel(settings.log_level)
    configure(level, settings.log_format)
    raise_descriptors()
    _enter(settings.netns)
    with claim_namespace(), closing(_open_store(settings)) as store, Network.open() as network:
        network.enable_forwarding()
        store.read_ahead()  # while the kernel verifies the programs
        data_plane = BpfDataPlane.open(settings.data_plane)
        try:
            daemon = Daemon(
                settings=settings,
                packet_path=data_plane,
                surroundings=network,
                limits=limits_of(data_plane.sizes),
                level=level,
                store=store,
            )
            if data_plane.ends_with_us:
                _log.warning("forwarding will end with this mount namespace", cause=_ENDS, remedy=_OUTSIDE)
            again = uvloop.run(_serve(daemon, ready, check))
            if again:
                _log.info("starting again with the settings of now; forwarding goes on")
            elif data_plane.ends_with_us:
                _log.warning("stopped; forwarding ends with this mount namespace", cause=_ENDS, remedy=_OUTSIDE)
            else:
                _log.info("stopped; forwarding stays in place", remedy="loxilb down removes it")
        finally:
            data_plane.close()
    return again


def _reloads() -> bool:
    """Tell whether SIGHUP asks for other settings: it is not ignored (nohup), nor the end of a terminal."""
    return signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN and not sys.stderr.isatty()


def _open_store(settings: Settings) -> SqliteStore:
    return SqliteStore.open(_store_of(settings.store))


def _store_of(wanted: str) -> Path | None:
    """Return the store's file for the calling thread's namespace; None for a store in memory."""
    return place_of(wanted, lasting=netns.lasting_name(), identity=netns.identity())


def limits_of(sizes: Mapping[str, int]) -> Limits:
    """Return what the planner may use of maps of these sizes: element 0 of rules and endpoints means none."""
    return Limits(
        rules=sizes["rules"] - 1,
        endpoints=sizes["endpoints"] - 1,
        ring=sizes["ring"],
        listeners=sizes["listeners4"],
        sources=sizes["sources"],
    )


async def _serve(daemon: Daemon, ready: Callable[[str], None], check: Callable[[], None]) -> bool:
    """Run the daemon until a signal ends it; returns whether it is to be started again."""
    loop, stop, again = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    release, manager = version("loxilb"), Manager()

    def tell(what: str) -> None:
        gc.enable()
        if _reloads():
            loop.add_signal_handler(signal.SIGHUP, reload, what)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGHUP])
        manager.ready(what)
        ready(f"loxilb {release} ready in {_age():.1f} s: {what}")

    def reload(what: str) -> None:
        manager.reloading()
        try:
            check()
        except LoxilbError as error:
            _log.error("settings refused, going on with those from before", cause=error.cause, remedy=error.remedy)
            manager.ready(what)
        else:
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])  # the next one is for who comes next
            again.set()
            stop.set()

    alive = asyncio.create_task(manager.stay_alive())
    try:
        await daemon.run(stop, tell)
    finally:
        alive.cancel()
        if not again.is_set():
            manager.stopping()
    return again.is_set()


def take_down(namespace: str | None, bpffs: Path | None, *, store: str = "", purge: bool = False) -> str:
    """Remove every trace of a daemon in the kernel and say what there was; raises LoxilbError.

    Programs, links, pins, maps, addresses and switches go; nothing is loaded for it. The store stays, so that the next
    start brings everything back, unless ``purge``.
    """
    _enter(namespace)
    with claim_namespace(), Network.open() as network:
        removed = remove_data_plane(bpffs)
        host = network.remove_all()
        stores = int(purge and remove_store(_store_of(store)))
    counts = {
        "attached programs": removed.links + removed.filters,
        "pins of programs": removed.programs,
        "maps": removed.maps,
        "addresses and switches of the host": host,
        "stored configuration": stores,
    }
    found = ", ".join(f"{what} {count}" for what, count in counts.items() if count)
    return f"removed: {found}" if found else "nothing to remove"


def build_info() -> BuildInfo:
    """Return the version, and when this copy of the program was built or installed."""
    built = datetime.fromtimestamp(Path(loxilb.__file__).stat().st_mtime, UTC)
    return BuildInfo(version=version("loxilb"), build=built.strftime("%Y_%m_%d_%Hh:%Mm:%S-local"))


def _enter(namespace: str | None) -> None:
    if namespace is not None:
        netns.enter(namespace)


def start_again() -> NoReturn:
    """Become the program that is installed now, with the same arguments: nothing of this one is left."""
    os.environ[_BEGAN] = str(time.clock_gettime(time.CLOCK_BOOTTIME))
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _age() -> float:
    """Return the seconds since this process was started, or started again.

    The former is field 22 of proc_pid_stat(5), in ticks of 10 ms.
    """
    if _BEGAN in os.environ:
        return time.clock_gettime(time.CLOCK_BOOTTIME) - float(os.environ[_BEGAN])
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / 100
