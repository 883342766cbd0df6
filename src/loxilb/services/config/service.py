# SPDX-License-Identifier: Apache-2.0
"""The configuration service: desired services, brought into the kernel one write at a time."""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import TypeVar

import structlog

from loxilb.collector import without_collector
from loxilb.errors import InvalidRequest, KernelError, LoxilbError, NotFound
from loxilb.model import Counter, IPAddress, Mode, Port, Service, ServiceKey
from loxilb.model.flow_list import FlowQuery
from loxilb.model.image import EndpointId, Image
from loxilb.model.port import IfIndex
from loxilb.model.probe import Availability, EndpointKey
from loxilb.model.revision import Author, Changes, Configured, Revision
from loxilb.plan import (
    Drift,
    Findings,
    Ledger,
    Limits,
    Plan,
    Programmed,
    adopt,
    audit,
    drift_of,
    found_down,
    plan,
    recover,
    repair,
    summary,
)
from loxilb.ports import (
    EVERY_FLOW,
    NOBODY,
    Account,
    ChangeWatcher,
    DataPlane,
    Edit,
    FlowList,
    Links,
    ServiceStatus,
    ServiceWatcher,
    Store,
    VipHost,
)
from loxilb.services.config.edits import all_normal, attached, detached, edited, matching_key, normal, replaced
from loxilb.services.config.health import HealthBook, said
from loxilb.services.config.journal import StoreJournal
from loxilb.services.config.order import key_order
from loxilb.services.config.status import status_of
from loxilb.services.config.tending import Quiet, is_due, next_look
from loxilb.services.config.vips import VipBook

_Result = TypeVar("_Result")
_Changes = Mapping[ServiceKey, Service | None]
_Edit = Callable[[Service | None, Service], Service | None]

_log = structlog.get_logger(__name__)


class ConfigurationService:
    """``loxilb.ports.Configuration``, ``EndpointHealth`` and ``Journal`` over data plane, addresses, links and store.

    ``drift`` says how far the data plane was from the store at the start, ``is_new`` that neither held anything,
    ``owes_addresses`` that some are still to be held (:meth:`refresh_addresses`).

    All state belongs to one worker thread, which carries writes out in the order in which they came: the event loop
    never waits for the kernel or the disk, and a caller that goes away in the middle cannot leave a write half done.
    """

    def __init__(
        self,
        *,
        data_plane: DataPlane,
        vip_host: VipHost,
        links: Links,
        store: Store,
        limits: Limits | None = None,
        hooks: Mapping[IfIndex, tuple[str, ...]] | None = None,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take over the ports; ``hooks`` says where the data plane is attached, and may change later.

        ``clock`` returns seconds since 1970, ``steady`` seconds that only go forward.
        """
        self._data_plane = data_plane
        self._links = links
        self._limits = limits or Limits()
        self._hooks = {} if hooks is None else hooks
        self._vips = VipBook(vip_host)
        self._ledger = Ledger(self._limits)
        self._journal = StoreJournal(store, clock)
        self._desired: dict[ServiceKey, Service] = {}
        self.drift = Drift()
        self.is_new = False
        self.owes_addresses = False
        self.found_down: frozenset[EndpointKey] = frozenset()
        self._health = HealthBook({})
        self._steady = steady
        self._quiet = Quiet()
        self._stirred: Callable[[], None] = lambda: None
        self._watchers: list[ServiceWatcher] = []
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="configuration")

    def watch(self, watcher: ServiceWatcher) -> None:
        """Tell ``watcher`` of every change from now on; call it before ``start``."""
        self._watchers.append(watcher)

    def watch_changes(self, watcher: ChangeWatcher) -> None:
        """Tell ``watcher`` of every change besides services from now on; call it before ``start``."""
        self._journal.watch(watcher)

    def wake_with(self, wake: Callable[[], None]) -> None:
        """Call ``wake``, from any thread, when there is something to :meth:`tend`; call it before ``start``."""
        self._stirred = wake

    async def start(self) -> int:
        """Bring the data plane in line with the store, keeping its flows; return how many services there are.

        With an empty store the services that the data plane holds are taken over. What belongs to no service is
        dropped. Raises KernelError and StoreError.
        """
        return await self._run(self._adopt)

    async def tend(self) -> float | None:
        """Do what the time has come for: endpoints that have left or drained go, slow starts go on.

        Returns the seconds to the next look, None where nothing is to come. Raises KernelError.
        """
        return await self._run(self._tend)

    async def audit(self) -> Mapping[str, int]:
        """Compare what is in the maps with what was written, and repair it; returns what differed, by kind.

        Only the repair is done in the worker thread. A service that is written meanwhile is left to the next audit.
        Raises LoxilbError.
        """
        records, services = await self._run(self._snapshot)
        findings = await asyncio.to_thread(self._compare, services)
        return await self._run(self._repair, findings, records, services) if findings else {}

    def close(self) -> None:
        """Finish the writes under way; everything stays in the kernel."""
        self._worker.submit(self._journal.close)
        self._worker.shutdown()

    # Writes

    async def put(self, service: Service, *, author: Author = NOBODY) -> None:
        """Create the service or replace it; Conflict when it is there and identical."""
        await self._run(self._edit, replaced, service, author)

    async def attach(self, service: Service, *, author: Author = NOBODY) -> None:
        """Add the endpoints of ``service`` to the one with its key; create it when there is none."""
        await self._run(self._edit, attached, service, author)

    async def detach(self, service: Service, *, author: Author = NOBODY) -> None:
        """Take the endpoints of ``service`` from the one with its key; the last takes the service with it."""
        await self._run(self._edit, detached, service, author)

    async def write(self, edits: Sequence[Edit], *, author: Author = NOBODY) -> None:
        """Carry out ``edits`` in order as one write, all or none; what changes nothing is left out."""
        await self._run(self._write, edits, author)

    async def delete(self, key: ServiceKey, *, author: Author = NOBODY) -> None:
        """Delete one service; NotFound when there is none.

        A key without a host also finds the service with one, where that is the only one.
        """
        await self._run(self._delete, key, author)

    async def delete_named(self, name: str, *, author: Author = NOBODY) -> int:
        """Delete every service with this name; return how many."""
        return await self._run(self._delete_where, lambda service: service.name == name, author)

    async def delete_all(self, *, author: Author = NOBODY) -> int:
        """Delete every service; return how many."""
        return await self._run(self._delete_where, lambda _service: True, author)

    async def set_parameter(self, name: str, value: str, *, author: Author = NOBODY) -> None:
        """Keep a setting that changes at run time, and tell the watchers."""
        await self._run(self._change, Changes(parameters={name: value}), author)

    async def check(self, changes: Changes) -> None:
        """Refuse what ``keep`` would refuse."""
        await self._run(self._check, _normal(changes))

    async def keep(self, changes: Changes, *, author: Author) -> None:
        """Carry out ``changes`` as one write; on an error nothing has changed."""
        await self._run(self._change, _normal(changes), author)

    async def rollback(self, number: int, *, author: Author = NOBODY) -> None:
        """Make the configuration what it was after a revision, as a new one; NotFound where it is not kept."""
        await self._run(self._rollback, number, author)

    async def refresh_addresses(self) -> None:
        """Bring the addresses of services in line with the interfaces of now; raises KernelError."""
        await self._run(self._vips.refresh)

    async def refresh_sources(self) -> None:
        """Bring the sources of onearm services in line with the routes of now; raises KernelError."""
        await self._run(self._refresh_sources)

    async def set_availability(self, changes: Mapping[EndpointKey, Availability]) -> None:
        """Bring every service that uses these endpoints in line; raises KernelError."""
        await self._run(self._set_availability, changes)

    # Reads

    async def used(self) -> Collection[EndpointKey]:
        """Return every endpoint that a service uses."""
        return await self._run(self._health.used)

    async def users(self, endpoint: EndpointKey) -> Sequence[ServiceKey]:
        """Return the services that use an endpoint, in the order of their keys."""
        return sorted(await self._run(self._health.users, (endpoint,)), key=key_order)

    async def services(self) -> Sequence[ServiceStatus]:
        """Return every service in the order of its key."""
        counters = await asyncio.to_thread(self._data_plane.counters)
        return await self._run(self._statuses, counters)

    async def revisions(self, limit: int) -> Sequence[Revision]:
        """Return the newest revisions, newest first."""
        return await self._run(self._journal.revisions, limit)

    async def accounts(self) -> Sequence[Account]:
        """Return every service with its slots, in no order."""
        return await self._run(self._accounts)

    async def owner(self, rule: int) -> Service | None:
        """Return the service whose rule has this slot; None where there is none any more."""
        return await self._run(self._owner, rule)

    async def flows(self, query: FlowQuery = EVERY_FLOW, *, service: str | None = None) -> FlowList:
        """Return both directions of the flows asked for, ordered by destination, source and ports."""
        names, rules = await self._run(self._names_and_rules, service)
        query = replace(query, rules=rules) if service is not None else query
        return FlowList(page=await asyncio.to_thread(self._data_plane.flow_page, query), names=names)

    async def ports(self) -> Sequence[Port]:
        """Return every interface, ordered by index."""
        ports = await asyncio.to_thread(self._links.ports)
        return [replace(port, hooks=self._hooks.get(port.index, ())) for port in ports]

    async def _run(self, function: Callable[..., _Result], *arguments: object) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._worker, function, *arguments)

    # In the worker thread from here on

    @without_collector()
    def _adopt(self) -> int:
        """Bring everything in line with the store, and settle a write that was under way.

        It may be taken back only while the data plane that it was for is there. After a loss of power a revision may be
        pending that was acknowledged, as its confirmation is not synced; the data plane is empty then.
        """
        stored, image = self._journal.load(), self._data_plane.observe()
        if not stored.pending or not image.rules:
            count = self._align(stored, image)
            if stored.pending:
                self._journal.confirm(stored.revision)
            return count
        try:
            with self._journal.carrying_out(stored.revision):
                return self._align(stored, image)
        except LoxilbError as error:
            _log.warning("write that was under way refused and taken back", cause=error.cause)
            return self._align(self._journal.load(), self._data_plane.observe())

    def _align(self, stored: Configured, image: Image) -> int:
        """Program what is stored over what the data plane holds; with nothing ever stored, store that."""
        wanted = stored.services.values() if stored.revision else recover(image)
        desired = {service.key: service for service in all_normal(wanted)}
        told, sources = said(stored.states), self._sources(desired)
        found = adopt(image, self._limits, desired.values(), self._steady(), sources=sources, health=told)
        self._ledger = found.ledger
        self.found_down = found_down(found.unsettled, found.ledger) - told.keys()
        self._health = HealthBook(desired)
        self._health.put(dict.fromkeys(self.found_down, Availability.DOWN) | told)
        users = self._health.users(self.found_down)
        planned = self._plan({one.key: one for one in found.unsettled} | {key: desired[key] for key in users})
        self.drift = drift_of(image, self._ledger, planned.after) if stored.revision else Drift()
        if found.strays:
            self._data_plane.apply(found.strays)
            _log.warning("dropped what belonged to no service", operations=len(found.strays))
        self._vips.follow(self._desired.values(), desired.values(), starting=True)
        self._desired = desired
        self.owes_addresses = not self._vips.settle()
        self._apply(planned)
        if not stored.revision and desired:
            self._journal.adopt(Changes(services=desired))
        self.is_new = not stored.revision and not desired
        self._tell(desired)
        self._journal.follow(Changes(endpoints=stored.endpoints, states=stored.states, parameters=stored.parameters))
        if self.drift:
            _log.warning("the data plane differed from the store, and was brought in line", **asdict(self.drift))
        return len(desired)

    def _edit(self, edit: _Edit, wanted: Service, author: Author) -> None:
        self._change(Changes(services={wanted.key: edit(self._desired.get(wanted.key), wanted)}), author)

    def _write(self, edits: Sequence[Edit], author: Author) -> None:
        with without_collector(len(edits)):
            try:
                changes = edited(self._desired, edits)
                if changes:
                    self._change(Changes(services=changes), author)
            except InvalidRequest as error:
                if error.index is None and error.about is not None:
                    error.index = max(at for at, edit in enumerate(edits) if edit.service.key == error.about)
                raise

    def _delete(self, key: ServiceKey, author: Author) -> None:
        found = key if key in self._desired else matching_key(self._desired, key)
        if found is None:
            raise NotFound("no-rule error", cause=f"no service {key.address} port {key.port}/{key.protocol.value}")
        self._change(Changes(services={found: None}), author)

    def _delete_where(self, wanted: Callable[[Service], bool], author: Author) -> int:
        changes = {key: None for key, service in self._desired.items() if wanted(service)}
        if changes:
            self._change(Changes(services=changes), author)
        return len(changes)

    def _rollback(self, number: int, author: Author) -> None:
        self._change(self._journal.back_to(number), author, f"roll back to {number}: ")

    def _check(self, changes: Changes) -> None:
        self._plan(changes.services).abandon(self._ledger)

    def _change(self, asked: Changes, author: Author, note: str = "") -> None:
        """Carry out what was asked: plan, store, data plane, addresses; on failure everything is as before."""
        changes = self._journal.completed(asked, self._health)
        if not changes:
            # What was asked for may be out of force all the same: a flag counts more than the store at the start.
            if asked.parameters:
                self._journal.follow(Changes(parameters=asked.parameters))
            return
        with self._journal.recording(changes, author, note + summary(changes, self._desired)) as recording:
            planned = self._plan(changes.services)
            try:
                planned = replace(planned, ops=self._data_plane.prepared(planned.ops))  # while the store writes
                number = recording.finish()
            except BaseException:
                planned.abandon(self._ledger)
                raise
        with self._journal.carrying_out(number):
            self._carry_out(planned, changes.services)
        self._stir()
        self._health.follow(changes.services)
        self._tell(changes.services)
        self._journal.follow(changes)
        _log.info("configuration changed", revision=number, changed=len(changes), services=len(self._desired))

    def _carry_out(self, planned: Plan, changes: _Changes) -> None:
        """Change data plane, addresses and what is desired; on failure they are as before."""
        before = {key: self._desired.get(key) for key in changes}
        self._apply(planned)
        try:
            self._vips.follow(before.values(), changes.values())
        except KernelError:
            self._restore(before)
            raise
        for key in [key for key, service in changes.items() if service is None]:
            self._desired.pop(key, None)
        self._desired.update({key: service for key, service in changes.items() if service})

    def _plan(self, changes: _Changes, without_flows: Collection[EndpointId] = ()) -> Plan:
        sources, health = self._sources(changes), self._health.states
        return plan(changes, self._ledger, sources, health, now=self._steady(), without_flows=without_flows)

    def _program(self, changes: _Changes) -> None:
        """Plan ``changes`` and apply them; the ledger follows only what the kernel has accepted."""
        self._apply(self._plan(changes))

    def _apply(self, planned: Plan, *, repairs: bool = False) -> None:
        accepted = False
        try:
            if planned.ops:
                (self._data_plane.repair if repairs else self._data_plane.apply)(planned.ops)
            accepted = True
        finally:
            if accepted:
                planned.commit(self._ledger)
            else:
                planned.abandon(self._ledger)

    def _stir(self) -> None:
        """Have the tending loop look again: a service has changed."""
        if self._ledger.restless:
            self._stirred()

    def _tend(self) -> float | None:
        """Plan again what the time has come for."""
        now = self._steady()
        restless = {key: self._ledger.services[key] for key in self._ledger.restless}
        flows = self._data_plane.active_flows(slot for one in restless.values() for slot in one.leaving)
        ended = self._quiet.follow(flows, now)
        due = {key: self._desired[key] for key, one in restless.items() if is_due(one, ended, now)}
        if due:
            self._apply(self._plan(due, ended))
            self._quiet.forget(ended)
        return next_look((self._ledger.services[key] for key in self._ledger.restless), now)

    def _snapshot(self) -> tuple[int, dict[ServiceKey, Programmed]]:
        return self._ledger.records, dict(self._ledger.services)

    def _repair(self, found: Findings, records: int, services: Mapping[ServiceKey, Programmed]) -> Mapping[str, int]:
        """Repair what still stands of the findings: what was not written since they were made."""
        programmed = self._ledger.services
        findings = Findings(
            differences=tuple(one for one in found.differences if programmed.get(one.key) is services[one.key]),
            strays=found.strays if self._ledger.records == records else (),
        )
        self._apply(repair(findings, self._ledger), repairs=True)
        if findings:
            _log.warning("somebody else changed the maps, and they were repaired", **findings.counts)
        return findings.counts

    def _restore(self, before: _Changes) -> None:
        try:
            self._program(before)
        except LoxilbError as error:
            _log.error("services not restored in the data plane", services=len(before), cause=error.cause)

    def _tell(self, changes: _Changes) -> None:
        for watcher in self._watchers if changes else ():
            watcher.services_changed(dict(changes))

    def _set_availability(self, changes: Mapping[EndpointKey, Availability]) -> None:
        before = self._health.put(changes)
        users = {key: self._desired[key] for key in self._health.users(changes)}
        try:
            self._program(users)
        except LoxilbError:
            self._health.put(before)
            raise
        self._stir()
        _log.info("endpoints changed", changed=len(changes), services=len(users))

    def _sources(self, changes: _Changes) -> dict[IPAddress, IPAddress]:
        onearm = (service for service in changes.values() if service and service.mode is Mode.ONEARM)
        wanted = {endpoint.address for service in onearm for endpoint in service.endpoints}
        found = {address: self._links.source_for(address) for address in wanted}
        return {address: source for address, source in found.items() if source is not None}

    def _refresh_sources(self) -> None:
        onearm = {key: one for key, one in self._desired.items() if one.mode is Mode.ONEARM}
        sources = self._sources(onearm)
        stale = {
            key: service
            for key, service in onearm.items()
            for entry in map(self._ledger.services[key].endpoints.__getitem__, self._ledger.services[key].ids)
            if entry.source != sources.get(entry.address)
        }
        if stale:
            self._apply(self._plan(stale))
            self._stir()
            _log.info("sources changed with the routes", services=len(stale))

    def _statuses(self, counters: Mapping[EndpointId, Counter]) -> list[ServiceStatus]:
        now, active = self._steady(), self._data_plane.active_flows
        return [
            status_of(self._desired[key], self._ledger.services[key], counters, active, now)
            for key in sorted(self._desired, key=key_order)
        ]

    def _accounts(self) -> list[Account]:
        return [Account(service, self._ledger.services[key].endpoints) for key, service in self._desired.items()]

    def _owner(self, rule: int) -> Service | None:
        found = next((key for key, one in self._ledger.services.items() if one.rule == rule), None)
        return self._desired.get(found) if found is not None else None

    def _names_and_rules(self, service: str | None) -> tuple[dict[int, str], frozenset[int]]:
        """Return the name of each rule, and the rules of services with this name, or whose key reads so."""
        ledger = self._ledger.services
        names: dict[int, str] = {one.rule: self._desired[key].name for key, one in ledger.items()}
        if service is None:
            return names, frozenset()
        asked = (key for key, one in self._desired.items() if service in (one.name, str(key)))
        return names, frozenset(ledger[key].rule for key in asked)

    # In a thread of its own

    def _compare(self, services: Mapping[ServiceKey, Programmed]) -> Findings:
        return audit(self._data_plane.observe(), services)


def _normal(changes: Changes) -> Changes:
    services = {key: normal(service) if service else None for key, service in changes.services.items()}
    return replace(changes, services=services)
