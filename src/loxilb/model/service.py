# SPDX-License-Identifier: Apache-2.0
"""Load balancing services: what an operator asks for.

There may be very many of them, so what each has of its own are structs: made in a tenth of a dataclass's time.
"""

from collections.abc import Mapping
from enum import Enum, IntEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import NewType

from msgspec import Struct, structs

from loxilb.errors import InvalidRequest

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network
L4Port = NewType("L4Port", int)

MAX_TIMEOUT_S = 86_400
MAX_WEIGHT = 65_535
MAX_HALF_OPEN = 1 << 24
DEFAULT_PERSISTENCE_S = 10_800
DEFAULT_DRAIN_S = 300
_DEFAULT_STREAM_TIMEOUT_S = 240
_DEFAULT_DATAGRAM_TIMEOUT_S = 20


class L4Protocol(Enum):
    """Transport of a service; the value is its word in the REST API."""

    TCP = "tcp"
    UDP = "udp"
    SCTP = "sctp"
    ICMP = "icmp"

    # Of itself, as each is one object: that of an Enum is that of its name, and asked for very often.
    __hash__ = object.__hash__

    @property
    def default_timeout(self) -> int:
        """Seconds without a packet after which a flow ends, where the rule does not say."""
        return _DEFAULT_STREAM_TIMEOUT_S if self in _STREAMS else _DEFAULT_DATAGRAM_TIMEOUT_S

    def number(self, version: int) -> int:
        """Return its number in packets of an IP version (IANA, Protocol Numbers): ICMP has one for each."""
        return _ICMP6 if self is L4Protocol.ICMP and version == 6 else _NUMBERS[self]


_STREAMS = (L4Protocol.TCP, L4Protocol.SCTP)
_NUMBERS = {L4Protocol.TCP: 6, L4Protocol.UDP: 17, L4Protocol.SCTP: 132, L4Protocol.ICMP: 1}
_ICMP6 = 58
PROTOCOLS: Mapping[int, L4Protocol] = {number: one for one, number in _NUMBERS.items()} | {_ICMP6: L4Protocol.ICMP}
"""What a protocol's number stands for, in packets of either IP version."""


class Mode(IntEnum):
    """Which addresses the endpoint sees; values are those of the REST API."""

    __hash__ = int.__hash__

    DEFAULT = 0
    ONEARM = 1
    FULLNAT = 2
    DSR = 3
    FULLPROXY = 4
    HOSTONEARM = 5


class Selection(IntEnum):
    """How an endpoint is chosen for a new flow; values are those of the REST API."""

    __hash__ = int.__hash__

    RR = 0
    HASH = 1
    PRIORITY = 2
    PERSIST = 3
    LC = 4
    N2 = 5
    N3 = 6


class LossPolicy(Enum):
    """What becomes of the flows of an endpoint that is taken from its service, or fails its probes.

    RESET: they end at once. DRAIN: they may go on until they end by themselves or the time for it is over. KEEP: they
    may go on for as long as they like. It never takes a new flow. The value is the word in the REST API.
    """

    RESET = "reset"
    DRAIN = "drain"
    KEEP = "keep"

    __hash__ = object.__hash__


_RAMPED = (Selection.RR, Selection.PRIORITY, Selection.LC)
# Members of an Enum are slow to name; there may be very many services.
_ICMP, _DRAIN, _PERSIST = L4Protocol.ICMP, LossPolicy.DRAIN, Selection.PERSIST
_PLAIN_MODE, _PLAIN_SELECTION = Mode.DEFAULT, Selection.RR


def _check_port(value: int, name: str, code: str) -> None:
    if not 0 <= value <= 0xFFFF:
        raise InvalidRequest(code, field=name, cause=f"{value} is not a port (0 to 65535)")


class Endpoint(Struct, frozen=True, kw_only=True, cache_hash=True, gc=False):
    """One place a service sends flows to.

    ``weight`` is a share in selection priority: of two endpoints with weights 3 and 1 the first takes three flows of
    four, and weight 0 takes no new flow. The other selections ignore it.
    """

    address: IPAddress
    port: int
    weight: int = 1

    def __post_init__(self) -> None:
        """Check the ranges; raises InvalidRequest."""
        _check_port(self.port, "targetPort", "serv-port-args range error")
        if not 0 <= self.weight <= MAX_WEIGHT:
            raise InvalidRequest(
                "malformed-lbep error", field="weight", cause=f"{self.weight} is not within 0 to {MAX_WEIGHT}"
            )
        if self.address.is_unspecified or self.address.is_multicast:
            raise InvalidRequest(
                "malformed-lbep error", field="endpointIP", cause=f"{self.address} cannot receive a flow"
            )


class Probe(Struct, frozen=True, kw_only=True, cache_hash=True, gc=False):
    """How the health of a service's endpoints is found out; ``kind`` "" or "none" means not at all."""

    kind: str = ""
    port: int = 0
    request: str = ""
    response: str = ""
    period: int = 0
    retries: int = 0

    def __post_init__(self) -> None:
        """Check that kind and port agree; raises InvalidRequest."""
        _check_port(self.port, "probeport", "malformed-service-pport error")
        needs_port = self.kind in ("tcp", "udp", "sctp")
        if needs_port and self.port == 0:
            raise InvalidRequest(
                "malformed-service-pport error",
                field="probeport",
                cause=f"probe type {self.kind} needs a port",
            )
        if self.kind in ("", "none", "ping") and self.port != 0:
            raise InvalidRequest(
                "malformed-service-pport error",
                field="probeport",
                cause=f"probe type {self.kind or 'none'} takes no port",
            )
        for name, value in (("probeTimeout", self.period), ("probeRetries", self.retries)):
            if not 0 <= value <= MAX_TIMEOUT_S:
                raise InvalidRequest(
                    "service-args error", field=name, cause=f"{value} is not within 0 to {MAX_TIMEOUT_S}"
                )


NO_PROBE = Probe()
"""That of a service that says nothing of it."""


class ServiceKey(Struct, frozen=True, kw_only=True, cache_hash=True, gc=False):
    """What tells two services apart.

    ``port_max`` equals ``port`` unless the service is a port range. ``block`` (fwmark) and ``host`` (L7) separate
    services that otherwise share address, protocol and port.
    """

    address: IPAddress
    protocol: L4Protocol
    port: int
    port_max: int = -1
    block: int = 0
    host: str = ""

    def __post_init__(self) -> None:
        """Fill ``port_max`` and check the ranges; raises InvalidRequest."""
        if self.port_max == -1:
            structs.force_setattr(self, "port_max", self.port)
        if not 0 <= self.port <= self.port_max <= 0xFFFF:
            self._refuse_ports()
        if self.protocol is _ICMP and self.port_max:
            raise InvalidRequest("malformed-service error", field="port", cause="icmp services have no port")
        if not 0 <= self.block <= 0xFFFFFFFF:
            raise InvalidRequest("rule-mark error", field="block", cause=f"{self.block} is not a 32-bit mark")

    def _refuse_ports(self) -> None:
        _check_port(self.port, "port", "serv-port-args range error")
        _check_port(self.port_max, "portMax", "serv-port-args range error")
        raise InvalidRequest(
            "serv-port-args range error", field="portMax", cause=f"{self.port_max} is below port {self.port}"
        )

    def __str__(self) -> str:
        """Return a name for a service without one: ``20.20.20.1:2020/tcp``, an IPv6 address in brackets."""
        address = f"[{self.address}]" if self.address.version == 6 else str(self.address)
        last = f"-{self.port_max}" if self.port_max != self.port else ""
        mark = f"#{self.block}" if self.block else ""
        return f"{address}:{self.port}{last}/{self.protocol.value}{mark}{self.host}"


class Service(Struct, frozen=True, kw_only=True, gc=False):
    """One load balancing rule as configured.

    ``inactive_timeout`` is in seconds (0: the protocol's default). ``private_address`` stands in for the service
    address in the data plane where a cloud translates the public one. ``persist_timeout`` is how many seconds after its
    last new flow selection persist remembers a client (0: three hours). With ``allowed_sources`` only clients of these
    prefixes are served. ``secondary_addresses`` are served like the first one. ``half_open_limit`` is how many
    half-open flows there may be at a time (0: any number). ``loss`` says what becomes of the flows of an endpoint that
    is lost, ``drain_timeout`` after how many seconds policy drain ends them (0: five minutes). ``slow_start`` is how
    many seconds an endpoint that is added, or is well again, takes to get its full share of new flows.
    """

    key: ServiceKey
    endpoints: tuple[Endpoint, ...]
    name: str = ""
    mode: Mode = Mode.DEFAULT
    selection: Selection = Selection.RR
    inactive_timeout: int = 0
    persist_timeout: int = 0
    half_open_limit: int = 0
    loss: LossPolicy = LossPolicy.RESET
    drain_timeout: int = 0
    slow_start: int = 0
    private_address: IPAddress | None = None
    monitor: bool = False
    bgp: bool = False
    managed: bool = False
    security: int = 0
    proxy_protocol_v2: bool = False
    egress: bool = False
    probe: Probe = NO_PROBE
    secondary_addresses: tuple[IPAddress, ...] = ()
    allowed_sources: tuple[IPNetwork, ...] = ()

    def __post_init__(self) -> None:
        """Check the fields against each other; raises InvalidRequest."""
        # Most services have nothing unusual; there may be very many of them.
        if self.persist_timeout or self.half_open_limit or not 0 <= self.inactive_timeout <= MAX_TIMEOUT_S:
            _check_timeouts(self)
        if self.drain_timeout or self.slow_start:
            _check_changes(self)
        if self.allowed_sources:
            _check_sources(self)
        if self.secondary_addresses:
            _check_secondary(self)
        if not self.endpoints:
            raise InvalidRequest("endpoints-range error", field="endpoints", cause="a service needs one or more")
        family = type(self.key.address)
        unusual = self.mode is not _PLAIN_MODE or self.key.protocol is _ICMP
        for endpoint in self.endpoints:
            if unusual or type(endpoint.address) is not family:
                _check_endpoint(self, endpoint)
        if unusual or self.private_address or self.selection is not _PLAIN_SELECTION or self.proxy_protocol_v2:
            _check_modes(self)

    @property
    def timeout(self) -> int:
        """Seconds without a packet after which a flow of this service ends."""
        return self.inactive_timeout or self.key.protocol.default_timeout

    @property
    def persistence(self) -> int:
        """Seconds after its last new flow that a client is remembered; 0 where the selection remembers none."""
        return (self.persist_timeout or DEFAULT_PERSISTENCE_S) if self.selection is _PERSIST else 0

    @property
    def drain_time(self) -> int:
        """Seconds that policy drain leaves to flows; 0 with the other policies."""
        return (self.drain_timeout or DEFAULT_DRAIN_S) if self.loss is _DRAIN else 0

    @property
    def data_address(self) -> IPAddress:
        """The address packets carry when they reach this host."""
        return self.private_address or self.key.address

    def with_endpoints(self, endpoints: tuple[Endpoint, ...]) -> "Service":
        """Return the same service with other endpoints."""
        return structs.replace(self, endpoints=endpoints)


def _check_timeouts(service: Service) -> None:
    for name, value in (("inactiveTimeOut", service.inactive_timeout), ("persistTimeout", service.persist_timeout)):
        if not 0 <= value <= MAX_TIMEOUT_S:
            raise InvalidRequest("service-args error", field=name, cause=f"{value} is not within 0 to {MAX_TIMEOUT_S}")
    limit = service.half_open_limit
    if not 0 <= limit <= MAX_HALF_OPEN:
        raise InvalidRequest(
            "service-args error", field="halfOpenLimit", cause=f"{limit} is not within 0 to {MAX_HALF_OPEN}"
        )
    if service.persist_timeout and service.selection is not Selection.PERSIST:
        raise InvalidRequest("service-args error", field="persistTimeout", cause="only selection persist has one")


def _check_changes(service: Service) -> None:
    """Check what is said about endpoints that come and go.

    Hash must send a flow to one endpoint whatever the time is, and agree with other load balancers; persist brings
    clients back to an endpoint whatever its share. Neither can start slowly.
    """
    for name, value in (("drainTimeout", service.drain_timeout), ("slowStart", service.slow_start)):
        if not 0 <= value <= MAX_TIMEOUT_S:
            raise InvalidRequest("service-args error", field=name, cause=f"{value} is not within 0 to {MAX_TIMEOUT_S}")
    if service.drain_timeout and service.loss is not LossPolicy.DRAIN:
        raise InvalidRequest("service-args error", field="drainTimeout", cause="only onEndpointLoss drain has one")
    if service.slow_start and service.selection not in _RAMPED:
        cause = f"selection {service.selection.name.lower()} cannot start slowly, only rr, priority and lc"
        raise InvalidRequest("service-args error", field="slowStart", cause=cause)


def _check_sources(service: Service) -> None:
    for network in service.allowed_sources:
        if network.version != service.key.address.version:
            raise InvalidRequest(
                "rule-allowed-src error",
                field="allowedSources",
                cause=f"{network} cannot reach an IPv{service.key.address.version} service",
            )


def _check_secondary(service: Service) -> None:
    addresses = (service.key.address, service.data_address, *service.secondary_addresses)
    for place, address in enumerate(addresses[2:], start=2):
        if address in addresses[:place] or address.is_unspecified or address.is_multicast:
            raise InvalidRequest(
                "malformed-secIP error", field="secondaryIP", cause=f"{address} is no further address of the service"
            )


def _check_endpoint(service: Service, endpoint: Endpoint) -> None:
    key = service.key
    if key.address.version == 4 and endpoint.address.version == 6:
        raise InvalidRequest(
            "malformed-service nat46 error",
            field="endpointIP",
            cause=f"{endpoint.address} behind an IPv4 service",
        )
    if key.protocol is L4Protocol.ICMP and endpoint.port:
        raise InvalidRequest("malformed-service error", field="targetPort", cause="icmp endpoints have no port")
    if service.mode is Mode.DSR and endpoint.port != key.port:
        raise InvalidRequest(
            "malformed-service dsr-port error",
            field="targetPort",
            cause=f"dsr keeps the port: use {key.port}",
        )


def _check_modes(service: Service) -> None:
    key = service.key
    private = service.private_address
    if private is not None and private.version != key.address.version:
        raise InvalidRequest(
            "malformed-service privateIP error",
            field="privateIP",
            cause=f"{private} is of another IP version",
        )
    if service.mode is Mode.DSR and service.selection is not Selection.HASH:
        raise InvalidRequest("Error: Only Hash Selection criteria allowed for DSR mode", field="sel")
    if service.mode is Mode.HOSTONEARM and not key.address.is_unspecified:
        raise InvalidRequest("hostarm-args error", field="externalIP", cause="hostonearm serves 0.0.0.0 or ::")
    if service.selection is Selection.N3 and key.protocol is not L4Protocol.UDP:
        raise InvalidRequest("non-udp-n3-args error", field="sel", cause="n3 balances GTP-U, so udp only")
    if service.proxy_protocol_v2 and key.protocol is not L4Protocol.TCP:
        raise InvalidRequest("proxy-proto-v2 not tcp service error", field="proxyprotocolv2")
