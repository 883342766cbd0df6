# SPDX-License-Identifier: Apache-2.0
"""Health of endpoints: what is checked, what an operator says about a host, and what follows for services."""

from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from ipaddress import ip_address

from msgspec import Struct

from loxilb.errors import InvalidRequest, NotBuilt
from loxilb.model.service import MAX_TIMEOUT_S, Endpoint, IPAddress, L4Protocol, Service

DEFAULT_PERIOD_S = 60
DEFAULT_RETRIES = 2
MAX_RETRIES = 100


class ProbeKind(Enum):
    """How an endpoint is checked; the value is its word in the REST API."""

    NONE = "none"
    PING = "ping"
    TCP = "tcp"
    UDP = "udp"
    SCTP = "sctp"
    HTTP = "http"
    HTTPS = "https"


_KINDS = {kind.value: kind for kind in ProbeKind}
_NEED_PORT = (ProbeKind.TCP, ProbeKind.UDP, ProbeKind.SCTP)
_KEY_WORDS = ("ping", "tcp", "udp", "sctp")


class HostState(Enum):
    """What an operator says about an endpoint; the value is its word in the REST API.

    Green leaves it to the probes. Yellow takes no new flow and keeps those that are there. Red is out of service,
    whatever the probes say.
    """

    GREEN = "green"
    YELLOW = "yellow"
    RED = "red"


class Availability(Enum):
    """What the services that use an endpoint do with it.

    UP: it takes new flows. DRAINING: it keeps its flows and takes no new one. DOWN: it takes none, and each service's
    policy says what becomes of those it has. OUT: its flows end, it takes none.
    """

    UP = "up"
    DRAINING = "draining"
    DOWN = "down"
    OUT = "out"


class EndpointKey(Struct, frozen=True, cache_hash=True, gc=False):
    """What ties the health of an endpoint to services: address, word of the transport, port (host order).

    The word for ICMP is ``ping``, its port is 0. The written form is ``31.31.31.1_tcp_8080``. A struct, as it keeps its
    hash, which is slow for an address.
    """

    address: IPAddress
    word: str
    port: int

    @property
    def name(self) -> str:
        """The written form."""
        return _name_of(self)

    @classmethod
    def of(cls, service: Service, endpoint: Endpoint) -> "EndpointKey":
        """Return the key of an endpoint as a service uses it."""
        return _key_of(endpoint, service.key.protocol)

    @classmethod
    def parse(cls, name: str) -> "EndpointKey | None":
        """Read the written form; None for any other name."""
        address, word, port = [*name.rsplit("_", 2), "", ""][:3]
        if word not in _KEY_WORDS or not (port.isascii() and port.isdecimal()):
            return None
        try:
            return cls(ip_address(address), word, int(port))
        except ValueError:
            return None


# Many services have the same endpoints: one key and one name of each.
@lru_cache(maxsize=1 << 16)
def _key_of(endpoint: Endpoint, protocol: L4Protocol) -> EndpointKey:
    return EndpointKey(endpoint.address, "ping" if protocol is L4Protocol.ICMP else protocol.value, endpoint.port)


@lru_cache(maxsize=1 << 16)
def _name_of(key: EndpointKey) -> str:
    return f"{key.address}_{key.word}_{key.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthCheck:
    """How one endpoint is checked.

    ``request`` is the path (http, https) or what is sent (tcp, udp), ``response`` what must come back. ``period`` is in
    seconds, ``retries`` is how many probes in a row must fail; 0 stands for the default of both.
    """

    kind: ProbeKind = ProbeKind.NONE
    port: int = 0
    request: str = ""
    response: str = ""
    period: int = DEFAULT_PERIOD_S
    retries: int = DEFAULT_RETRIES

    def __post_init__(self) -> None:
        """Fill in the defaults and check the ranges; raises InvalidRequest."""
        object.__setattr__(self, "period", self.period or DEFAULT_PERIOD_S)
        object.__setattr__(self, "retries", self.retries or DEFAULT_RETRIES)
        limits = (
            ("probePort", self.port, 0, 0xFFFF),
            ("probeDuration", self.period, 1, MAX_TIMEOUT_S),
            ("inactiveReTries", self.retries, 1, MAX_RETRIES),
        )
        for field, value, low, high in limits:
            if not low <= value <= high:
                raise InvalidRequest("host-args error", field=field, cause=f"{value} is not within {low} to {high}")
        if self.kind in _NEED_PORT and not self.port:
            cause = f"probe type {self.kind.value} needs a port"
            raise InvalidRequest("host-args unknown probe port", field="probePort", cause=cause)
        if self.kind is ProbeKind.SCTP:
            raise NotBuilt("not-built error", field="probeType", cause="sctp is not built yet")


def kind_of(word: str) -> ProbeKind:
    """Read the word of the REST API; raises InvalidRequest."""
    if word not in _KINDS:
        raise InvalidRequest("host-args unknown probe type", field="probeType", cause=f"{word!r} is no probe type")
    return _KINDS[word]


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitoredEndpoint:
    """An endpoint that an operator wants checked.

    Without a name it gets ``<address>_<kind>_<port>``. A name in the form of an EndpointKey makes the check count for
    the services that use this endpoint; any other name is shown and nothing more.
    """

    address: IPAddress
    check: HealthCheck
    name: str = ""

    def __post_init__(self) -> None:
        """Fill in the name, in its canonical form; raises InvalidRequest."""
        if self.address.is_unspecified or self.address.is_multicast:
            raise InvalidRequest("host-parse error", field="hostName", cause=f"{self.address} is no host")
        given = self.name or f"{self.address}_{self.check.kind.value}_{self.check.port}"
        key = EndpointKey.parse(given)
        object.__setattr__(self, "name", key.name if key else given)


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointStatus:
    """An endpoint as it is known: what is checked and what came of it; ``told`` says that an operator asked for it.

    ``delays`` are round trip times in seconds, the least, mean and greatest of the last pings; None without an answer.
    """

    address: IPAddress
    name: str
    check: HealthCheck
    state: HostState
    up: bool
    delays: tuple[float, float, float] | None = None
    told: bool = False
