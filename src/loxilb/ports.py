# SPDX-License-Identifier: Apache-2.0
"""The ports of the core: what it needs from the outside, each a Protocol.

Implementations: ``loxilb.kernel`` (real and fake) for ``DataPlane``, ``Measures``, ``VipHost`` and ``Links``;
``loxilb.services.store`` for ``Store``; ``loxilb.services.config`` for ``Configuration``, ``EndpointHealth``,
``Journal`` and ``Ledgers``; ``loxilb.services.health`` for ``Endpoints``, ``ServiceWatcher`` and ``ChangeWatcher``;
``loxilb.services.metrics`` for ``MetricsPage``; ``loxilb.services.reconcile`` for ``Reconciling``.
Nothing here does I/O.
"""

from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, Protocol

from msgspec import Struct

from loxilb.model import Counter, Endpoint, IPAddress, Port, Service, ServiceKey
from loxilb.model.flow_list import FlowColumns, FlowKey, FlowQuery
from loxilb.model.image import EndpointEntry, EndpointId, Image, Op
from loxilb.model.packet import MadePacket
from loxilb.model.port import IfIndex
from loxilb.model.probe import Availability, EndpointKey, EndpointStatus, HostState, MonitoredEndpoint, ProbeKind
from loxilb.model.revision import Author, Changes, Configured, Revision
from loxilb.model.trace import DroppedPacket, Traced
from loxilb.model.work import ReconcilerStatus

NOBODY = Author()
EVERY_FLOW = FlowQuery()


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowPage:
    """Flows in the order of their keys; ``after`` is the last one's where there are more than were asked for.

    There were ``count`` when they were looked for.
    Each of ``columns`` copies some of them when it is called, in any thread: what has ended by then is left out, what
    opens meanwhile is not there.
    """

    columns: Sequence[Callable[[], FlowColumns]]
    count: int
    after: FlowKey | None


class DataPlane(Protocol):
    """The packet path's configuration and what it reports.

    ``apply`` carries out the operations in order; when one is refused, those done before it are undone and
    KernelError is raised. ``observe`` reads back what is programmed, it never answers from memory.
    """

    def observe(self) -> Image:
        """Read what is programmed now."""

    def prepared(self, ops: Sequence[Op]) -> tuple[Op, ...]:
        """Return the same operations in a form that ``apply`` carries out sooner; this takes a while itself."""

    def apply(self, ops: Sequence[Op]) -> None:
        """Carry out ``ops`` in order, all or none; raises KernelError."""

    def repair(self, ops: Sequence[Op]) -> None:
        """As ``apply``, after somebody else changed what is programmed; raises KernelError."""

    def counters(self) -> Mapping[EndpointId, Counter]:
        """Return the traffic of every endpoint since it was programmed, live flows included."""

    def active_flows(self, endpoints: Iterable[EndpointId]) -> Mapping[EndpointId, int]:
        """Return how many flows each of ``endpoints`` has; what has closed and is only remembered does not count."""

    def flow_page(self, query: FlowQuery) -> FlowPage:
        """Return both directions of the flows asked for."""

    def reasons(self) -> Mapping[str, int]:
        """Return packets by the reason they left the programs with."""


class Tampering(NamedTuple):
    """What somebody else did to what is pinned and attached.

    ``pins`` were put back, and programs attached again to so many socket calls; ``interfaces`` lack a program still.
    """

    pins: int = 0
    sockets: int = 0
    interfaces: frozenset[IfIndex] = frozenset()


class FlowCount(NamedTuple):
    """Flows of an endpoint: those it has now, and those it was ever given, modulo 2^32."""

    active: int
    opened: int


class Fill(NamedTuple):
    """How much of a table is used; ``used`` and ``capacity`` count the same things, flows both directions."""

    used: int
    capacity: int


class Measures(Protocol):
    """What the packet path counts, for those who watch it; raises KernelError."""

    def counters(self) -> Mapping[EndpointId, Counter]:
        """Return the traffic of every endpoint since it was programmed, live flows included."""

    def flow_counts(self) -> Mapping[EndpointId, FlowCount]:
        """Return the flows of every endpoint."""

    def reasons(self) -> Mapping[str, int]:
        """Return packets by the reason they left the programs with."""

    def fills(self) -> Mapping[str, Fill]:
        """Return how full each table is, by its name."""

    def lost_reports(self) -> int:
        """Return the reports of flows that found no room, modulo 2^32."""


class Account(NamedTuple):
    """A service and every slot that counts for it."""

    service: Service
    slots: Mapping[EndpointId, EndpointEntry]


class Ledgers(Protocol):
    """Who is behind the slots that the packet path counts in."""

    async def accounts(self) -> Sequence[Account]:
        """Return every service with its slots, in no order."""


class Owners(Protocol):
    """Whose a slot is."""

    async def owner(self, rule: int) -> Service | None:
        """Return the service whose rule has this slot; None where there is none any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceReport:
    """A traced packet, and whose slots those are: ``interface`` and ``out`` are names ("" for none)."""

    traced: Traced
    interface: str
    service: Service | None = None
    out: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DropReport:
    """A dropped packet at a ``time`` (seconds since 1970), and the name of its interface; or how many were ``lost``."""

    packet: DroppedPacket | None = None
    time: float = 0.0
    interface: str = ""
    lost: int = 0


class Drops(Protocol):
    """Shows dropped packets."""

    def watch(self) -> AsyncGenerator[DropReport, None]:
        """Show drops as they come, until it is closed; a report may be empty, as a sign of life."""


class Tracer(Protocol):
    """Says what becomes of a packet."""

    async def trace(self, made: MadePacket, *, interface: str = "") -> TraceReport:
        """Trace a packet that comes by ``interface``, or ("") from its source; raises InvalidRequest, KernelError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packets:
    """What can be asked about single packets."""

    tracer: Tracer
    drops: Drops


class Reconciling(Protocol):
    """The daemon's work in the background; for any thread."""

    def ask(self, *names: str) -> None:
        """Have works done soon."""

    def status(self) -> ReconcilerStatus:
        """Return how everything stands."""


class MetricsPage(Protocol):
    """What a monitoring system reads, and its switch."""

    enabled: bool

    async def page(self) -> bytes:
        """Return the text of now; raises LoxilbError."""


class VipHost(Protocol):
    """The host's duty towards service addresses: own them and announce them.

    An address that was there before is never removed.
    """

    def hold(self, *addresses: IPAddress) -> None:
        """Own and announce ``addresses``, all or none; idempotent; raises KernelError."""

    def release(self, *addresses: IPAddress) -> None:
        """Give up those of ``addresses`` that ``hold`` added, all or none; idempotent; raises KernelError."""

    def refresh(self) -> None:
        """Own and announce every held address where its subnet is connected now, if that is new; raises KernelError."""


class Links(Protocol):
    """Interfaces and routes of the daemon's network namespace."""

    def ports(self) -> Sequence[Port]:
        """Return every interface, ordered by index."""

    def source_for(self, destination: IPAddress) -> IPAddress | None:
        """Return the address this host would send from towards ``destination``; None without a route."""


class Recording(Protocol):
    """A write on its way into the store, maybe beside what its caller does; the store does nothing else meanwhile."""

    def finish(self) -> int:
        """Make it durable and return the number of the revision; raises StoreError, and nothing has changed then."""

    def abandon(self) -> None:
        """Forget it, unless it is finished."""


class Store(Protocol):
    """The configuration on disk, and how it became what it is.

    A write is two steps, so that the data plane can be changed between them: ``record``, once finished, makes it
    durable, ``confirm`` says that it was carried out; ``take_back`` undoes what was refused. One thread at a time. All
    raise StoreError, and nothing has changed then.
    """

    def load(self) -> Configured:
        """Read everything."""

    def record(self, changes: Changes, author: Author, summary: str, time: float) -> Recording:
        """Begin to write ``changes`` as a new revision; those before it count as confirmed once it is finished."""

    def confirm(self, number: int) -> None:
        """Note that a revision was carried out; outlives the program, and need not outlive the machine's power."""

    def take_back(self, number: int) -> None:
        """Undo the newest revision and forget it."""

    def revisions(self, limit: int) -> Sequence[Revision]:
        """Return the newest revisions, newest first."""

    def back_to(self, number: int) -> Changes:
        """Return what leads from now to the configuration of a revision; NotFound where it is not kept."""


class EndpointState(Enum):
    """What an endpoint of a service does; the value is its word in the REST API.

    INACTIVE: it has no flows and takes none. DRAINING: it has been lost, and its flows may go on.
    """

    ACTIVE = "active"
    INACTIVE = "inactive"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointView:
    """The live state of an endpoint.

    ``share`` is its part of its full share of new flows, below 1 while it starts slowly. ``flows`` are those it has
    while it drains, ``left`` the seconds until they have to end (None: no such time).
    """

    endpoint: Endpoint
    state: EndpointState = EndpointState.ACTIVE
    counter: Counter = field(default_factory=Counter)
    share: float = 1.0
    flows: int = 0
    left: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceStatus:
    """A configured service with the live state of its endpoints (same order as ``service.endpoints``).

    ``removed`` are endpoints that were taken from it and still have flows.
    """

    service: Service
    endpoints: tuple[EndpointView, ...]
    removed: tuple[EndpointView, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowList:
    """Flows with the names of services, by rule; a rule that is not there has none."""

    page: FlowPage
    names: Mapping[int, str]


class EditKind(Enum):
    """What is done with a service: it is put, or its endpoints are attached to the one there is, or detached from it.

    The value is the number in the REST API.
    """

    PUT = 0
    ATTACH = 1
    DETACH = 2

    __hash__ = object.__hash__


class Edit(Struct, frozen=True, gc=False):
    """One of several things done with services as one write; a struct, as there may be very many."""

    kind: EditKind
    service: Service


class Configuration(Protocol):
    """What an API can ask of the load balancer.

    Each write is validated whole before anything changes, and done (in the kernel) and durable when it returns. Errors
    are those of ``loxilb.errors``, with the compatible texts of the REST contract as ``code``. ``author`` is who asks.
    """

    async def services(self) -> Sequence[ServiceStatus]:
        """Return every service in the order of its key."""

    async def put(self, service: Service, *, author: Author = NOBODY) -> None:
        """Create the service or replace it; Conflict when it is there and identical."""

    async def attach(self, service: Service, *, author: Author = NOBODY) -> None:
        """Add the endpoints of ``service`` to the one with its key; create it when there is none."""

    async def detach(self, service: Service, *, author: Author = NOBODY) -> None:
        """Take the endpoints of ``service`` from the one with its key; the last one takes the service with it."""

    async def write(self, edits: Sequence[Edit], *, author: Author = NOBODY) -> None:
        """Carry out ``edits`` in order as one write, all or none; what changes nothing is left out.

        ``index`` of an InvalidRequest says which one it is about.
        """

    async def delete(self, key: ServiceKey, *, author: Author = NOBODY) -> None:
        """Delete one service; NotFound when there is none."""

    async def delete_named(self, name: str, *, author: Author = NOBODY) -> int:
        """Delete every service with this name; return how many."""

    async def delete_all(self, *, author: Author = NOBODY) -> int:
        """Delete every service; return how many."""

    async def set_parameter(self, name: str, value: str, *, author: Author = NOBODY) -> None:
        """Keep a setting that changes at run time, and put it into force."""

    async def revisions(self, limit: int) -> Sequence[Revision]:
        """Return the newest revisions, newest first."""

    async def rollback(self, number: int, *, author: Author = NOBODY) -> None:
        """Make the configuration what it was after a revision, as a new one; NotFound where it is not kept."""

    async def flows(self, query: FlowQuery = EVERY_FLOW, *, service: str | None = None) -> FlowList:
        """Return both directions of the flows asked for, ordered by destination, source and ports.

        ``service`` is a name, or address, port and protocol (``20.20.20.1:2020/tcp``); None asks for those of all.
        """

    async def ports(self) -> Sequence[Port]:
        """Return every interface, ordered by index."""


class ServiceWatcher(Protocol):
    """Somebody who has to know what services there are."""

    def services_changed(self, changes: Mapping[ServiceKey, Service | None]) -> None:
        """Learn what services are now (None: deleted); called from any thread, in order, must not block."""


class ChangeWatcher(Protocol):
    """Somebody who carries out what a write changes besides services."""

    def changed(self, changes: Changes) -> None:
        """Learn of a write that is durable; called from any thread, in order, must not block."""


class Journal(Protocol):
    """Carries out writes of any kind."""

    async def keep(self, changes: Changes, *, author: Author) -> None:
        """Make ``changes`` durable and carry them out as one write; on an error nothing has changed."""


class CheckedJournal(Journal, Protocol):
    """A journal that can be asked first."""

    async def check(self, changes: Changes) -> None:
        """Refuse what ``keep`` would refuse, with the same error; nothing is carried out."""


class EndpointHealth(Protocol):
    """Who uses which endpoint, and what becomes of a verdict on one.

    ``found_down`` are those that took no new flow when a daemon took the data plane over, though no operator had said
    so: they are down until a probe says otherwise. Known before the first watcher is told of services.
    """

    @property
    def found_down(self) -> frozenset[EndpointKey]: ...

    async def set_availability(self, changes: Mapping[EndpointKey, Availability]) -> None:
        """Bring every service that uses these endpoints in line, now and later; the others stay as told before.

        Done in the kernel when it returns. Raises KernelError; nothing has changed then.
        """

    async def used(self) -> Collection[EndpointKey]:
        """Return every endpoint that a service uses."""

    async def users(self, endpoint: EndpointKey) -> Sequence[ServiceKey]:
        """Return the services that use an endpoint, in the order of their keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointChoice:
    """Names one endpoint: by name, by address with kind and port, or (both None) as the only one of its address."""

    address: IPAddress
    name: str = ""
    kind: ProbeKind | None = None
    port: int | None = None


class Endpoints(Protocol):
    """The endpoints whose health is known; errors are those of ``loxilb.errors``, with compatible codes."""

    async def endpoints(self) -> Sequence[EndpointStatus]:
        """Return every endpoint, ordered by address and name."""

    async def put_endpoint(self, endpoint: MonitoredEndpoint, *, author: Author = NOBODY) -> None:
        """Check an endpoint as told here, whatever services want; replaces what was told before."""

    async def delete_endpoint(self, choice: EndpointChoice, *, author: Author = NOBODY) -> None:
        """Forget an endpoint; NotFound without one, Conflict while a service uses it."""

    async def set_host_state(
        self, address: IPAddress, state: HostState, key: EndpointKey | None, *, author: Author = NOBODY
    ) -> None:
        """Set what an operator says about one endpoint, or (``key`` None) about all of an address that are known.

        Raises NotFound for an unknown ``key``. Done in the kernel when it returns, unless the kernel refuses.
        """
