# SPDX-License-Identifier: Apache-2.0
"""The health service: endpoints, when each is probed, and who is told."""

import asyncio
import contextlib
import random
from collections.abc import Callable, Collection, Mapping, Sequence
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
from loxilb.plan import checks_of
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
        rest = iter(changes.items())
        while self._loop is not None and (part := dict(islice(rest, _AT_ONCE))):
            self._loop.call_soon_threadsafe(self._follow, part)

    def _follow(self, changes: Mapping[ServiceKey, Service | None]) -> None:
        """Note who uses what, then act on each endpoint once: finding its check looks at all of its users."""
        if not self._taken_over:
            self._take_over(self._target.found_down)
        before: dict[str, Probed | None] = {}
        for key, service in changes.items():
            checks = checks_of(service) if service else {}
            old = self._services.pop(key, None)
            for gone in checks_of(old).keys() - checks.keys() if old else ():
                self._touched(gone, before).leave(key)
            for used, check in checks.items():
                record = self._records.get(used.name)
                if record is None or not record.join(key, check):
                    self._touched(used, before).use(key, check)
            if service:
                self._services[key] = service
        for name, probed in before.items():
            self._revise(self._records[name], probed)

    def _take_over(self, down: Collection[EndpointKey]) -> None:
        """Go on where the daemon before has ended: what was down stays so until a probe succeeds."""
        self._taken_over = True
        now = asyncio.get_running_loop().time()
        for key in down:
            record = self._record(key.name, key)
            record.announced = Availability.DOWN
            record.verdict = Verdict(up=False, failures=1, falls=1, changed=now)

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
            if name in self._records:
                self._records[name].state = state or HostState.GREEN
                self._announce(self._records[name])

    # What an operator asks

    async def endpoints(self) -> Sequence[EndpointStatus]:
        """Return every endpoint, ordered by address and name."""
        found = [record.status for record in self._records.values()]
        return sorted(found, key=lambda one: (one.address.version, int(one.address), one.name))

    def probed(self) -> tuple[int, int]:
        """Return how many probed endpoints are up, and how many are not; called in the event loop."""
        verdicts = [one.verdict.up for one in self._records.values() if one.check.kind is not ProbeKind.NONE]
        return sum(verdicts), len(verdicts) - sum(verdicts)

    async def put_endpoint(self, endpoint: MonitoredEndpoint, *, author: Author = NOBODY) -> None:
        """Check an endpoint as told here, whatever services want; replaces what was told before."""
        await self._journal.keep(Changes(endpoints={endpoint.name: endpoint}), author=author)

    async def delete_endpoint(self, choice: EndpointChoice, *, author: Author = NOBODY) -> None:
        """Forget an endpoint; NotFound without one, Conflict while a service uses it."""
        record = self._chosen(choice)
        if record.users:
            user = next(iter(record.users))
            cause = f"{record.name} is used by {user.address} port {user.port}/{user.protocol.value}"
            raise Conflict("LB Rule-referred", cause=cause)
        await self._journal.keep(Changes(endpoints={record.name: None}), author=author)

    def _chosen(self, choice: EndpointChoice) -> Record:
        """Find what is to be deleted; of several at one address it is the one that may be."""
        if choice.name or choice.kind is not None or choice.port is not None:
            kind = choice.kind.value if choice.kind else ""
            name = choice.name or f"{choice.address}_{kind}_{choice.port or 0}"
            key = EndpointKey.parse(name)
            found = [self._records[one] for one in (key.name if key else name,) if one in self._records]
        else:
            found = [record for record in self._records.values() if record.address == choice.address]
            found = [record for record in found if not record.users] or found[:1]
        if not found:
            raise NotFound("host-notfound error", cause=f"no such endpoint at {choice.address}")
        if len(found) > 1:
            names = ", ".join(sorted(record.name for record in found))
            raise InvalidRequest("host-args error", field="name", cause=f"{choice.address} has several: {names}")
        return found[0]

    async def set_host_state(
        self, address: IPAddress, state: HostState, key: EndpointKey | None, *, author: Author = NOBODY
    ) -> None:
        """Set what an operator says about one endpoint, or (``key`` None) about all of an address."""
        if key is not None:
            if key.name not in self._records:
                raise NotFound("ephost-notfound error", cause=f"no endpoint {key.name}")
            records = [self._records[key.name]]
        else:
            records = [record for record in self._records.values() if record.address == address]
        kept = None if state is HostState.GREEN else state
        await self._journal.keep(Changes(states={record.name: kept for record in records}), author=author)
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
