# SPDX-License-Identifier: Apache-2.0
"""The health service: endpoints, when each is probed, and who is told."""

import asyncio
import contextlib
import random
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice

import structlog

from loxilb.errors import Conflict, InvalidRequest, NotFound
from loxilb.model import IPAddress, Service, ServiceKey
from loxilb.model.probe import (
    Availability,
    EndpointKey,
    EndpointStatus,
    HostState,
    MonitoredEndpoint,
    ProbeKind,
)
from loxilb.model.revision import Author, Changes
from loxilb.plan import checks_of, is_probed
from loxilb.ports import NOBODY, EndpointChoice, EndpointHealth, Journal
from loxilb.proto.probe.verdict import QUICK_S, Verdict, judge, pause
from loxilb.services.health.probes import Outcome, Prober
from loxilb.services.health.records import Probed, Record
from loxilb.services.health.timers import Timers

_WIDTH = 256
_FIRST_S = 1.0
_DELIVERY_S = 5.0
_JITTER = 0.1
_AT_ONCE = 1000  # services: the event loop gets its turn between those and the next

_log = structlog.get_logger(__name__)


class HealthService:
    """``loxilb.ports.Endpoints``, ``ServiceWatcher`` and ``ChangeWatcher``; verdicts go to ``target``.

    What an operator asks goes to ``journal`` and comes back by ``changed``, once it is durable. All of it runs in the
    event loop of ``start``; only ``services_changed`` and ``changed`` may be called from elsewhere.
    """

    def __init__(self, *, target: EndpointHealth, journal: Journal, prober: Prober, wake: Callable[[], None]) -> None:
        """Keep what to work with; nothing is probed before ``start``. ``wake`` has :meth:`deliver` called soon."""
        self._target = target
        self._journal = journal
        self._prober = prober
        self._records: dict[str, Record] = {}
        self._services: dict[ServiceKey, Service] = {}
        self._pending: dict[EndpointKey, Availability] = {}
        self._wake = wake
        self._delivered = asyncio.Event()
        self._delivered.set()
        self._taken_over = False
        self._wishing: set[ServiceKey] = set()  # who wanted probes when services_changed was called last
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timers = Timers(self._probe, _WIDTH)

    async def start(self) -> None:
        """Take changes from now on."""
        self._loop = asyncio.get_running_loop()

    async def stop(self) -> None:
        """Probe no more; services stay as they were told last."""
        self._loop = None
        await self._timers.close()
        self._prober.close()

    # What services there are

    def services_changed(self, changes: Mapping[ServiceKey, Service | None]) -> None:
        """Learn what services are now (None: deleted); from any thread."""
        if self._loop is None:
            return
        later = self._loop.call_soon_threadsafe
        down, self._taken_over = (frozenset() if self._taken_over else self._target.found_down), True
        later(self._take_over, down)
        rest = iter(list(self._wishes(changes)))
        while part := dict(islice(rest, _AT_ONCE)):
            later(self._follow, part)
        later(self._let_go, down)

    def _wishes(self, changes: Mapping[ServiceKey, Service | None]) -> Iterator[tuple[ServiceKey, Service | None]]:
        """Return the changes that matter here: services that want probes, and (None) those that want none any more."""
        for key, service in changes.items():
            if service is not None and is_probed(service):
                self._wishing.add(key)
                yield key, service
            elif key in self._wishing:
                self._wishing.discard(key)
                yield key, None

    def _follow(self, changes: Mapping[ServiceKey, Service | None]) -> None:
        """Note who wants what probed, then act on each endpoint once."""
        before: dict[str, Probed | None] = {}
        for key, service in changes.items():
            checks = checks_of(service) if service else {}
            old = self._services.pop(key, None)
            for gone in checks_of(old).keys() - checks.keys() if old else ():
                del self._touched(gone, before).probing[key]
            for used, check in checks.items():
                self._touched(used, before).probing[key] = check
            if service:
                self._services[key] = service
        for name, probed in before.items():
            self._revise(self._records[name], probed)

    def _take_over(self, down: Collection[EndpointKey]) -> None:
        """Go on where the daemon before has ended: what was down stays so until a probe succeeds."""
        now = asyncio.get_running_loop().time()
        for key in down:
            record = self._record(key.name, key)
            record.announced = Availability.DOWN
            record.verdict = Verdict(up=False, failures=1, falls=1, changed=now)

    def _let_go(self, down: Collection[EndpointKey]) -> None:
        """What was down and is not probed any more is up: nothing would ever say so."""
        for key in down:
            record = self._records.get(key.name)
            if record is not None and not record.needed:
                self._forget(record)

    def _touched(self, used: EndpointKey, before: dict[str, Probed | None]) -> Record:
        """Return the record of an endpoint; what was probed until now is noted in ``before``, once."""
        name = used.name
        record = self._record(name, used)
        if name not in before:
            before[name] = record.probed
        return record

    # What an operator asked

    def changed(self, changes: Changes) -> None:
        """Learn what an operator asked for, or what was stored; from any thread."""
        if self._loop is not None and (changes.endpoints or changes.states):
            self._loop.call_soon_threadsafe(self._obey, changes)

    def _obey(self, changes: Changes) -> None:
        for name, endpoint in changes.endpoints.items():
            if endpoint is not None or name in self._records:
                record = self._record(name, EndpointKey.parse(name))
                before = record.probed
                record.told = endpoint
                self._revise(record, before)
        for name, state in changes.states.items():
            key = EndpointKey.parse(name)
            if name in self._records or (state and key):
                record = self._record(name, key)
                record.state = state or HostState.GREEN
                self._announce(record)
                if not record.needed:
                    self._forget(record)

    # What an operator asks

    async def endpoints(self) -> Sequence[EndpointStatus]:
        """Return every endpoint, ordered by address and name."""
        found = [record.status for record in self._with_used(await self._target.used())]
        return sorted(found, key=lambda one: (one.address.version, int(one.address), one.name))

    def _with_used(self, used: Iterable[EndpointKey]) -> list[Record]:
        """Return all records, and one of each endpoint in ``used`` that has none."""
        others = [Record(name=key.name, key=key) for key in used if key.name not in self._records]
        return [*self._records.values(), *others]

    def probed(self) -> tuple[int, int]:
        """Return how many probed endpoints are up, and how many are not; called in the event loop."""
        verdicts = [one.verdict.up for one in self._records.values() if one.check.kind is not ProbeKind.NONE]
        return sum(verdicts), len(verdicts) - sum(verdicts)

    async def put_endpoint(self, endpoint: MonitoredEndpoint, *, author: Author = NOBODY) -> None:
        """Check an endpoint as told here, whatever services want; replaces what was told before."""
        await self._journal.keep(Changes(endpoints={endpoint.name: endpoint}), author=author)

    async def delete_endpoint(self, choice: EndpointChoice, *, author: Author = NOBODY) -> None:
        """Forget an endpoint; NotFound without one, Conflict while a service uses it."""
        record = await self._chosen(choice)
        users = await self._target.users(record.key) if record.key else ()
        if users:
            user = users[0]
            cause = f"{record.name} is used by {user.address} port {user.port}/{user.protocol.value}"
            raise Conflict("LB Rule-referred", cause=cause)
        await self._journal.keep(Changes(endpoints={record.name: None}), author=author)

    async def _chosen(self, choice: EndpointChoice) -> Record:
        """Find what is to be deleted; of several at one address it is the one that may be."""
        if choice.name or choice.kind is not None or choice.port is not None:
            kind = choice.kind.value if choice.kind else ""
            found = await self._named(choice.name or f"{choice.address}_{kind}_{choice.port or 0}")
        else:
            used = await self._target.used()
            found = self._at(choice.address, used)
            found = [record for record in found if record.key not in used] or found[:1]
        if not found:
            raise NotFound("host-notfound error", cause=f"no such endpoint at {choice.address}")
        if len(found) > 1:
            names = ", ".join(sorted(record.name for record in found))
            raise InvalidRequest("host-args error", field="name", cause=f"{choice.address} has several: {names}")
        return found[0]

    async def _named(self, name: str) -> list[Record]:
        """Return the endpoint of this name, if there is one."""
        key = EndpointKey.parse(name)
        record = self._records.get(key.name if key else name)
        if record is None and key is not None and await self._target.users(key):
            record = Record(name=key.name, key=key)
        return [record] if record else []

    def _at(self, address: IPAddress, used: Iterable[EndpointKey]) -> list[Record]:
        """Return the endpoints that are at an address, of the records and of those in ``used``."""
        return [record for record in self._with_used(used) if record.address == address]

    async def set_host_state(
        self, address: IPAddress, state: HostState, key: EndpointKey | None, *, author: Author = NOBODY
    ) -> None:
        """Set what an operator says about one endpoint, or (``key`` None) about all of an address."""
        found = await self._named(key.name) if key else self._at(address, await self._target.used())
        if key is not None and not found:
            raise NotFound("ephost-notfound error", cause=f"no endpoint {key.name}")
        kept = None if state is HostState.GREEN else state
        await self._journal.keep(
            Changes(states=dict.fromkeys(sorted(record.name for record in found), kept)), author=author
        )
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._delivered.wait(), _DELIVERY_S)

    # Records

    def _record(self, name: str, key: EndpointKey | None) -> Record:
        found = self._records.get(name)
        if found is None:
            found = self._records[name] = Record(name=name, key=key)
        return found

    def _revise(self, record: Record, before: Probed | None) -> None:
        """Act on a record whose users or operator's wish may have changed; ``before`` is what was probed."""
        if not record.needed:
            self._forget(record)
            return
        if before == record.probed:
            return
        check = record.check
        self._timers.stop(record.name)
        record.delays = ()
        if check.kind is ProbeKind.NONE:
            record.verdict = Verdict()
        else:
            # One that is down stays so until a probe of the new kind says otherwise.
            record.verdict = replace(record.verdict, failures=0)
            self._timers.start(record.name, random.uniform(0, min(_FIRST_S, check.period)))
        self._announce(record)

    def _forget(self, record: Record) -> None:
        self._timers.stop(record.name)
        del self._records[record.name]
        record.state, record.verdict = HostState.GREEN, Verdict()
        self._announce(record)

    # Probes

    async def _probe(self, name: str) -> float:
        """Probe, judge, tell; returns the seconds until the next time."""
        record = self._records[name]
        check = record.check
        outcome = await self._prober.probe(record.address, check)
        now = asyncio.get_running_loop().time()
        if outcome.late:
            return QUICK_S
        before = record.verdict
        record.verdict = judge(before, succeeded=not outcome.fault, retries=check.retries, now=now)
        if outcome.delay is not None:
            record.answered(outcome.delay)
        _report(record, before, outcome)
        self._announce(record)
        wait = pause(record.verdict, period=check.period, now=now)
        return wait * random.uniform(1 - _JITTER, 1) if wait == check.period else wait

    # Telling

    def _announce(self, record: Record) -> None:
        """Tell the services what a record has come to, if it has changed."""
        availability = record.availability
        if record.key is None or availability is record.announced:
            return
        record.announced = availability
        self._pending[record.key] = availability
        self._delivered.clear()
        self._wake()

    async def deliver(self) -> None:
        """Tell the services what endpoints have come to; what comes meanwhile goes together next.

        Raises KernelError; what was to be told is kept then.
        """
        while self._pending:
            changes, self._pending = self._pending, {}
            try:
                await self._target.set_availability(changes)
            except BaseException:
                self._pending = {**changes, **self._pending}
                raise
        self._delivered.set()


def _report(record: Record, before: Verdict, outcome: Outcome) -> None:
    if before.up and not record.verdict.up:
        _log.warning("endpoint down", endpoint=record.name, cause=outcome.fault, falls=record.verdict.falls)
    elif record.verdict.up and not before.up:
        _log.info("endpoint up", endpoint=record.name)
