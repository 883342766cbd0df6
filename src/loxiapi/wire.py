# SPDX-License-Identifier: Apache-2.0
"""Wire types of the REST API.

Members are declared in the order in which the command line prints them; on the wire they are sorted. A member
without a default is required in requests and always present in answers; the others are left out while they
hold their default value. Addresses are text, ports are host order numbers, times are seconds.
"""

from typing import Annotated, ClassVar

from msgspec import Struct, field
from msgspec.json import Encoder

from loxiapi.scalars import Int32, Int64, Uint16, Uint32, about, one_of

LOG_LEVELS = ("trace", "debug", "info", "error", "warning", "notice", "critical", "emergency", "alert")
PROTOCOLS = ("tcp", "udp", "sctp", "icmp")
PROBE_TYPES = ("tcp", "udp", "sctp", "http", "https", "ping", "none")
LOSS_POLICIES = ("reset", "drain", "keep")

OPER_REPLACE = 0
OPER_ATTACH = 1
OPER_DETACH = 2


class Wire(Struct, kw_only=True, omit_defaults=True, frozen=True, gc=False):
    """Base of all wire types; ``go_name`` is the type's name in the contract's error texts."""

    go_name: ClassVar[str] = ""


class ServiceArguments(Wire, kw_only=True, frozen=True):
    """What a load balancer rule serves and how."""

    go_name: ClassVar[str] = "LoadbalanceEntryServiceArguments"

    external_ip: Annotated[str, about("Service address, IPv4 or IPv6")] = field(name="externalIP")
    private_ip: Annotated[str, about("Address the packets carry, where a cloud translates the service address")] = (
        field(name="privateIP", default="")
    )
    port: Annotated[Int64, about("Service port; the lowest one of a range")]
    port_max: Annotated[Int64, about("Highest port of a range; 0 for a single port")] = field(name="portMax", default=0)
    protocol: Annotated[str, one_of(*PROTOCOLS)] = ""
    sel: Annotated[
        Int64,
        one_of(0, 1, 2, 3, 4, 5, 6, also=(7,)),
        about("0 rr, 1 hash, 2 priority, 3 persist, 4 lc, 5 n2, 6 n3 (udp) or n2det, 7 n3"),
    ] = 0
    mode: Annotated[
        Int32,
        one_of(0, 1, 2, 3, 4, 5),
        about("0 default, 1 onearm, 2 fullnat, 3 dsr, 4 fullproxy, 5 hostonearm"),
    ] = 0
    bgp: bool = False
    monitor: bool = False
    inactive_timeout: Annotated[Int32, about("Seconds; 0 is the protocol's default")] = field(
        name="inactiveTimeOut", default=0
    )
    persist_timeout: Annotated[Int32, about("Seconds that sel 3 remembers an idle client; 0 is three hours")] = field(
        name="persistTimeout", default=0
    )
    half_open_limit: Annotated[Uint32, about("Half-open flows at a time; 0 is any number")] = field(
        name="halfOpenLimit", default=0
    )
    on_endpoint_loss: Annotated[
        str,
        one_of(*LOSS_POLICIES),
        about("Flows of an endpoint that is removed or fails: reset (default), drain until drainTimeout, or keep"),
    ] = field(name="onEndpointLoss", default="")
    drain_timeout: Annotated[Int32, about("Seconds that onEndpointLoss drain leaves to flows; 0 is five minutes")] = (
        field(name="drainTimeout", default=0)
    )
    slow_start: Annotated[
        Int32, about("Seconds in which a new or recovered endpoint gets its full share (sel 0, 2 and 4)")
    ] = field(name="slowStart", default=0)
    block: Annotated[Uint32, about("Mark of the packets that the rule is for, before the one for any")] = 0
    managed: bool = False
    name: str = ""
    snat: Annotated[bool, about("In answers only")] = False
    oper: Annotated[Int32, one_of(0, 1, 2), about("0 create or replace, 1 attach endpoints, 2 detach endpoints")] = 0
    security: Annotated[Int32, one_of(0, 1, 2), about("0 plain, 1 https, 2 e2ehttps")] = 0
    host: str = ""
    probe_type: Annotated[str, one_of(*PROBE_TYPES)] = field(name="probetype", default="")
    probe_port: Uint16 = field(name="probeport", default=0)
    probe_request: str = field(name="probereq", default="")
    probe_response: str = field(name="proberesp", default="")
    probe_timeout: Annotated[Uint32, about("Seconds between two probes")] = field(name="probeTimeout", default=0)
    probe_retries: Int32 = field(name="probeRetries", default=0)
    proxy_protocol_v2: bool = field(name="proxyprotocolv2", default=False)
    egress: bool = False


class SecondaryAddress(Wire, kw_only=True, frozen=True):
    """One further address of a service."""

    go_name: ClassVar[str] = "LoadbalanceEntrySecondaryIPsItems0"

    secondary_ip: str = field(name="secondaryIP", default="")


class AllowedSource(Wire, kw_only=True, frozen=True):
    """One source prefix that may use a service."""

    go_name: ClassVar[str] = "LoadbalanceEntryAllowedSourcesItems0"

    prefix: str = ""


class EndpointEntry(Wire, kw_only=True, frozen=True):
    """One endpoint of a rule; what it is doing (all after its weight) is ignored in requests."""

    go_name: ClassVar[str] = "LoadbalanceEntryEndpointsItems0"

    endpoint_ip: str = field(name="endpointIP")
    target_port: Int64 = field(name="targetPort")
    weight: Int64
    state: Annotated[str, about("active, inactive, or draining: lost, and its flows may go on")] = ""
    counter: Annotated[str, about("packets:bytes")] = ""
    share: Annotated[Int64, about("Percent of its full share of new flows, while it starts slowly")] = 0
    flows: Annotated[Int64, about("Flows of one that is draining")] = 0
    seconds_left: Annotated[Int64, about("Seconds until the flows of one that is draining have to end")] = field(
        name="secondsLeft", default=0
    )


class LoadBalancerEntry(Wire, kw_only=True, frozen=True):
    """One load balancer rule, in requests and answers alike.

    Two optional lists may be left out or null in requests; answers show an empty one as null. Removed endpoints are
    those that still have flows; they are ignored in requests, and left out of answers where there is none.
    """

    go_name: ClassVar[str] = "LoadbalanceEntry"

    service_arguments: ServiceArguments = field(name="serviceArguments")
    secondary_ips: list[SecondaryAddress] | None = field(name="secondaryIPs", default_factory=list)
    allowed_sources: list[AllowedSource] | None = field(name="allowedSources", default_factory=list)
    endpoints: list[EndpointEntry]
    removed_endpoints: list[EndpointEntry] = field(name="removedEndpoints", default_factory=list)


class LoadBalancerList(Wire, kw_only=True, frozen=True):
    """Load balancer rules: all of them in an answer, those to be written as one in a request."""

    go_name: ClassVar[str] = "LoadbalanceList"

    entries: list[LoadBalancerEntry] = field(name="lbAttr")


class MonitoredEndpoint(Wire, kw_only=True, frozen=True):
    """An endpoint to check; services with an endpoint of this name follow what comes of it."""

    go_name: ClassVar[str] = "EndPoint"

    host_name: Annotated[str, about("Address, IPv4 or IPv6")] = field(name="hostName")
    name: Annotated[str, about("<address>_<probeType>_<probePort> where it is not given")] = ""
    retries: Annotated[Int64, about("Probes that must fail in a row; 0 is 2")] = field(
        name="inactiveReTries", default=0
    )
    probe_type: Annotated[str, one_of(*PROBE_TYPES)] = field(name="probeType", default="")
    probe_request: Annotated[str, about("Path (http, https) or what is sent (tcp, udp)")] = field(
        name="probeReq", default=""
    )
    probe_response: Annotated[str, about("Body or answer that must come back")] = field(name="probeResp", default="")
    probe_duration: Annotated[Int64, about("Seconds between two probes; 0 is 60")] = field(
        name="probeDuration", default=0
    )
    probe_port: Int64 = field(name="probePort", default=0)


class MonitoredEndpointEntry(Wire, kw_only=True, frozen=True):
    """An endpoint whose health is known; ``probeType`` none is not probed."""

    host_name: str = field(name="hostName", default="")
    name: str = ""
    retries: int = field(name="inactiveReTries", default=0)
    probe_type: str = field(name="probeType", default="")
    probe_request: str = field(name="probeReq", default="")
    probe_response: str = field(name="probeResp", default="")
    probe_duration: int = field(name="probeDuration", default=0)
    probe_port: int = field(name="probePort", default=0)
    min_delay: Annotated[str, about("Round trip time of a ping, such as 1.2ms")] = field(name="minDelay", default="")
    avg_delay: str = field(name="avgDelay", default="")
    max_delay: str = field(name="maxDelay", default="")
    state: Annotated[str, about("ok, nok (its probes fail) or red (out of service)")] = field(
        name="currState", default=""
    )
    configured: Annotated[bool, about("An operator asked for it; the others are known from rules")] = False


class MonitoredEndpointList(Wire, kw_only=True, frozen=True):
    """Answer with every endpoint whose health is known."""

    entries: list[MonitoredEndpointEntry] = field(name="Attr")


class EndpointHostState(Wire, kw_only=True, frozen=True):
    """What an operator says about one endpoint, or without port and protocol about all of a host."""

    go_name: ClassVar[str] = "EndPointState"

    host_name: str = field(name="hostName", default="")
    port: Int64 = field(name="epPort", default=0)
    protocol: str = field(name="epProto", default="")
    state: Annotated[str, about("green: probes decide; yellow: no new flow; red: out of service")] = ""


CONNTRACK_STATES = (
    *("closed", "sync-sent", "sync-ack", "est", "fini", "closed-wait", "h/e"),
    *("init", "init-ack", "shut", "shut-complete", "abort"),
    *("udp-uni", "udp-est", "req-sent", "bidir", "unk"),
)
"""Words for the state of a flow: of TCP, of SCTP where they differ, of UDP and ICMP, and of what has none."""


class ConntrackEntry(Wire, kw_only=True, frozen=True):
    """One direction of one flow."""

    destination_ip: str = field(name="destinationIP", default="")
    source_ip: str = field(name="sourceIP", default="")
    destination_port: Uint16 = field(name="destinationPort", default=0)
    source_port: Uint16 = field(name="sourcePort", default=0)
    protocol: str = ""
    ident: str = ""
    state: str = field(name="conntrackState", default="")
    act: str = field(name="conntrackAct", default="")
    packets: int = 0
    bytes: int = 0
    service_name: str = field(name="servName", default="")


class ConntrackList(Wire, kw_only=True, frozen=True):
    """Answer with flows; with a limit, and more behind them, ``following`` names the place where the next begin."""

    entries: list[ConntrackEntry] = field(name="ctAttr")
    following: Annotated[str, about("Where there are more: the parameter continue for the next ones")] = field(
        name="continue", default=""
    )


class PortSoftware(Wire, kw_only=True, frozen=True):
    """What the daemon does with a port."""

    os_id: int = field(name="osId", default=0)
    port_type: Annotated[int, about("Bits: 1 real, 2 in a bond, 4 bond, 8 in a bridge, 16 bridge, 64 vxlan")] = field(
        name="portType", default=0
    )
    port_property: int = field(name="portProp", default=0)
    active: bool = field(name="portActive", default=False)
    bpf_loaded: bool = field(name="bpfLoaded", default=False)


class PortHardware(Wire, kw_only=True, frozen=True):
    """The device behind a port."""

    raw_mac: list[int] = field(name="rawMacAddress")
    mac: str = field(name="macAddress", default="")
    link: bool = False
    state: bool = False
    mtu: int = 0
    master: str = ""
    real: str = ""
    tunnel_id: int = field(name="tunnelId", default=0)


class PortStatistics(Wire, kw_only=True, frozen=True):
    """Traffic of a port."""

    received_bytes: int = field(name="rxBytes", default=0)
    sent_bytes: int = field(name="txBytes", default=0)
    received_packets: int = field(name="rxPackets", default=0)
    sent_packets: int = field(name="txPackets", default=0)
    receive_errors: int = field(name="rxErrors", default=0)
    send_errors: int = field(name="txErrors", default=0)


class PortLayer3(Wire, kw_only=True, frozen=True):
    """Addresses of a port: one text an IP version, ``<address>/<length> (P) `` for each address in it."""

    routed: bool = False
    ipv4: list[str] = field(name="IPv4Address")
    ipv6: list[str] = field(name="IPv6Address")


class PortLayer2(Wire, kw_only=True, frozen=True):
    """VLAN membership of a port."""

    is_pvid: bool = field(name="isPvid", default=False)
    vid: int = 0


class PortEntry(Wire, kw_only=True, frozen=True):
    """One network interface."""

    name: str = field(name="portName", default="")
    number: int = field(name="portNo", default=0)
    zone: str = ""
    software: PortSoftware = field(name="portSoftwareInformation")
    hardware: PortHardware = field(name="portHardwareInformation")
    statistics: PortStatistics = field(name="portStatisticInformation")
    layer3: PortLayer3 = field(name="portL3Information")
    layer2: PortLayer2 = field(name="portL2Information")
    sync: Annotated[int, about("0: programmed")] = field(name="DataplaneSync", default=0)


class PortList(Wire, kw_only=True, frozen=True):
    """Answer with every interface."""

    entries: list[PortEntry] = field(name="portAttr")


class Version(Wire, kw_only=True, frozen=True):
    """Version of the daemon."""

    version: str = ""
    build_info: str = field(name="buildInfo", default="")


class Params(Wire, kw_only=True, frozen=True):
    """Settings that change while the daemon runs."""

    go_name: ClassVar[str] = "OperParams"

    log_level: Annotated[str, one_of(*LOG_LEVELS)] = field(name="logLevel")


class RevisionEntry(Wire, kw_only=True, frozen=True):
    """One write of the configuration."""

    number: int
    time: Annotated[str, about("RFC 3339, UTC")]
    client: Annotated[str, about("Address of the client")] = ""
    agent: Annotated[str, about("What the client calls itself")] = ""
    size: Annotated[int, about("How many objects it changed")] = field(name="changes", default=0)
    summary: str = ""


class RevisionList(Wire, kw_only=True, frozen=True):
    """Answer with the newest writes, newest first."""

    entries: list[RevisionEntry] = field(name="revisionAttr")


class Rollback(Wire, kw_only=True, frozen=True):
    """Asks for the configuration as it was after a revision."""

    go_name: ClassVar[str] = "Rollback"

    revision: Annotated[Int64, about("Number of the revision")]


class TraceRequest(Wire, kw_only=True, frozen=True):
    """Asks what would become of a packet."""

    go_name: ClassVar[str] = "TraceRequest"

    protocol: Annotated[str, one_of("tcp", "udp", "icmp")]
    source_ip: Annotated[str, about("Address it comes from")] = field(name="sourceIP")
    destination_ip: Annotated[str, about("Address it goes to")] = field(name="destinationIP")
    source_port: Annotated[Int64, about("icmp: the identifier of an echo request")] = field(
        name="sourcePort", default=0
    )
    destination_port: Annotated[Int64, about("icmp: the identifier of an echo reply")] = field(
        name="destinationPort", default=0
    )
    interface: Annotated[str, about("Where it comes in; without it where its source is routed to")] = ""
    flags: Annotated[str, about("tcp: letters of S, F, R, P, A, U, E, C; S when not given")] = ""


class PacketHeaders(Wire, kw_only=True, frozen=True):
    """What a packet says of itself."""

    protocol: Annotated[str, about("tcp, udp, icmp, or a number")] = ""
    source_ip: str = field(name="sourceIP", default="")
    source_port: Annotated[int, about("icmp: the identifier of an echo request")] = field(name="sourcePort", default=0)
    destination_ip: str = field(name="destinationIP", default="")
    destination_port: Annotated[int, about("icmp: the identifier of an echo reply")] = field(
        name="destinationPort", default=0
    )
    flags: Annotated[str, about("tcp: letters of those set")] = ""
    ttl: int = 0
    source_mac: str = field(name="sourceMAC", default="")
    destination_mac: str = field(name="destinationMAC", default="")


class TraceHook(Wire, kw_only=True, frozen=True):
    """One hook that a traced packet comes by."""

    hook: Annotated[str, about("xdp or tc")]
    verdict: Annotated[str, about("passed, forwarded, answered or dropped")]
    reason: Annotated[str, about("The name it is counted under")]
    cause: Annotated[str, about("Of one that is answered: why it is not forwarded")] = ""
    step: Annotated[str, about("Which step of the data plane decided")] = ""


class TraceFlow(Wire, kw_only=True, frozen=True):
    """The flow that a traced packet belongs to; idle and age are in seconds."""

    table: str
    state: str
    reply: Annotated[bool, about("It is the direction from the endpoint")] = False
    idle: float = 0
    age: float = 0


class TraceService(Wire, kw_only=True, frozen=True):
    """The rule that a traced packet meets."""

    name: str = ""
    external_ip: str = field(name="externalIP", default="")
    port: int = 0
    port_max: int = field(name="portMax", default=0)
    protocol: str = ""


class TraceEndpoint(Wire, kw_only=True, frozen=True):
    """The endpoint of a traced packet's flow."""

    endpoint_ip: str = field(name="endpointIP")
    target_port: int = field(name="targetPort")


class NextHop(Wire, kw_only=True, frozen=True):
    """Where a packet is sent; without a MAC address the kernel resolves the gateway first."""

    interface: str
    mac: str = ""
    gateway: Annotated[str, about("The neighbour that is not resolved yet")] = ""


class TraceAnswer(Wire, kw_only=True, frozen=True):
    """What would become of a packet. Verdict and reason are those of the last hook."""

    interface: str
    verdict: str
    reason: str
    hooks: list[TraceHook]
    packet: Annotated[PacketHeaders, about("As it was made")]
    flow: TraceFlow | None = None
    service: TraceService | None = None
    endpoint: TraceEndpoint | None = None
    sent: Annotated[PacketHeaders | None, about("The packet that leaves: rewritten, or the answer")] = None
    next_hop: NextHop | None = field(name="nextHop", default=None)
    untraced: Annotated[str, about("A hook of the interface that no made packet can be run at")] = ""


class DroppedPacket(Wire, kw_only=True, frozen=True):
    """One line of the drops that are watched: a packet, or how many were not shown by now (``lost``)."""

    time: Annotated[str, about("RFC 3339, UTC")] = ""
    reason: Annotated[str, about("The name it is counted under")] = ""
    hook: Annotated[str, about("xdp, tc or egress")] = ""
    interface: str = ""
    length: Annotated[int, about("Bytes of the frame")] = 0
    packet: PacketHeaders | None = None
    lost: Annotated[int, about("Drops that were not shown, since there were too many")] = 0


class MetricsSwitch(Wire, kw_only=True, frozen=True):
    """Whether ``/metrics`` answers."""

    prometheus: bool


class Result(Wire, kw_only=True, frozen=True):
    """Answer to a write that was carried out."""

    result: str


SUCCESS = Result(result="Success")


class Failure(Wire, kw_only=True, frozen=True):
    """Answer to a request that was understood and could not be carried out."""

    code: int
    fields: None
    message: str
    result: str


class Refusal(Wire, kw_only=True, frozen=True):
    """Answer to a request that breaks the schema or names no operation."""

    code: int
    message: str


_encoder = Encoder(order="sorted")


def encode(value: object) -> bytes:
    """Return compact JSON with sorted members and no newline."""
    return _encoder.encode(value)
