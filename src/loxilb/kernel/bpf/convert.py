# SPDX-License-Identifier: Apache-2.0
"""Map layouts to model values and back: one function per direction."""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_network

from loxilb.kernel import abi
from loxilb.kernel.bpf.clock import JiffyClock
from loxilb.model import (
    AbortedConnection,
    Counter,
    Flow,
    FlowEvent,
    FlowEventKind,
    FlowState,
    IPAddress,
    IPNetwork,
    Mode,
    Peer,
    Port,
    Selection,
)
from loxilb.model.image import EndpointEntry, EndpointFlags, Listener, RuleEntry, RuleId

_NUMBER = {"tcp": 6, "udp": 17, "sctp": 132}
_ICMP = {4: 1, 6: 58}
_NAME = {6: "tcp", 17: "udp", 132: "sctp", 1: "icmp", 58: "icmp"}


def _port_bytes(port: int) -> tuple[int, int]:
    return port >> 8, port & 0xFF


def _port(field: Iterable[int]) -> int:
    return int.from_bytes(bytes(field), "big")


def _packed(address: IPAddress) -> bytes:
    return address.packed.ljust(16, b"\0")


def _address(raw: Iterable[int], version: int) -> IPAddress:
    packed = bytes(raw)
    return IPv4Address(packed[:4]) if version == 4 else IPv6Address(packed[:16])


def listener_to_key(listener: Listener) -> bytes:
    """Return the key of the listener map of its family."""
    number = _ICMP[listener.version] if listener.protocol == "icmp" else _NUMBER[listener.protocol]
    if listener.version == 4:
        key4 = abi.Listener4(proto=number, mark=listener.mark)
        key4.addr[:] = listener.address.to_bytes(4, "big")
        key4.port[:] = _port_bytes(listener.port)
        return bytes(key4)
    key6 = abi.Listener6(proto=number, mark=listener.mark)
    key6.addr[:] = listener.address.to_bytes(16, "big")
    key6.port[:] = _port_bytes(listener.port)
    return bytes(key6)


def listener_from_key(key: bytes, version: int) -> Listener:
    """Inverse of :func:`listener_to_key`."""
    raw = (abi.Listener4 if version == 4 else abi.Listener6).from_buffer_copy(key)
    return Listener(
        version=version,
        address=int.from_bytes(bytes(raw.addr), "big"),
        protocol=_NAME[raw.proto],
        port=_port(raw.port),
        mark=raw.mark,
    )


def listener_address(listener: Listener) -> IPAddress:
    """Return the address a listener is on."""
    return IPv4Address(listener.address) if listener.version == 4 else IPv6Address(listener.address)


def rule_to_value(entry: RuleEntry, clock: JiffyClock) -> bytes:
    """Return the element of the rule array."""
    return bytes(
        abi.Rule(
            ring_base=entry.ring_base,
            ring_length=entry.ring_length,
            timeout=clock.ticks(entry.timeout),
            persist=clock.ticks(entry.persist) if entry.persist else 0,
            mode=entry.mode,
            select=entry.selection,
            live=1,
            restricted=int(entry.restricted),
            half_open_limit=entry.half_open_limit,
        )
    )


def rule_from_value(value: bytes, clock: JiffyClock) -> RuleEntry:
    """Inverse of :func:`rule_to_value`."""
    raw = abi.Rule.from_buffer_copy(value)
    return RuleEntry(
        mode=Mode(raw.mode),
        selection=Selection(raw.select),
        timeout=round(raw.timeout / clock.rate),
        persist=round(raw.persist / clock.rate),
        restricted=bool(raw.restricted),
        half_open_limit=raw.half_open_limit,
        ring_base=raw.ring_base,
        ring_length=raw.ring_length,
    )


def source_to_key(rule: RuleId, network: IPNetwork) -> bytes:
    """Return the key of one allowed prefix of a rule; the rule's 32 bits count into the prefix length."""
    key = abi.SourceKey(prefix=32 + network.prefixlen, rule=rule)
    key.addr[:] = _packed(network.network_address)
    return bytes(key)


def source_from_key(key: bytes, version: int) -> tuple[RuleId, IPNetwork]:
    """Inverse of :func:`source_to_key`; ``version`` is the element's value, which the programs do not read."""
    raw = abi.SourceKey.from_buffer_copy(key)
    return RuleId(raw.rule), ip_network((_address(raw.addr, version), raw.prefix - 32))


def link_to_value(port: Port) -> bytes:
    """Return the element of the link array; its addresses are the first ones that are not of the link only."""
    raw = abi.Link(ifindex=port.index, peer=int(port.peer_elsewhere), mtu=port.mtu)
    usable = [one.ip for one in port.addresses if not one.ip.is_link_local]
    raw.addr4[:] = next((one.packed for one in usable if one.version == 4), bytes(4))
    raw.addr6[:] = next((one.packed for one in usable if one.version == 6), bytes(16))
    return bytes(raw)


def endpoint_to_value(entry: EndpointEntry) -> bytes:
    """Return the element of the endpoint array."""
    share = entry.share % abi.FULL_SHARE << abi.SHARE_SHIFT
    raw = abi.Endpoint(rule=entry.rule, flags=int(entry.flags) | share, family=entry.address.version)
    raw.addr[:] = _packed(entry.address)
    raw.port[:] = _port_bytes(entry.port)
    if entry.source is not None:
        raw.source[:] = _packed(entry.source)
    return bytes(raw)


def endpoint_address(value: bytes) -> IPAddress | None:
    """Return the address in an element of the endpoint array; None in an unused one."""
    raw = abi.Endpoint.from_buffer_copy(value)
    return _address(raw.addr, raw.family) if raw.family else None


def endpoint_from_value(value: bytes) -> EndpointEntry:
    """Inverse of :func:`endpoint_to_value`."""
    raw = abi.Endpoint.from_buffer_copy(value)
    source = bytes(raw.source)
    return EndpointEntry(
        rule=RuleId(raw.rule),
        address=_address(raw.addr, raw.family),
        port=_port(raw.port),
        source=_address(source, raw.family) if any(source) else None,
        flags=EndpointFlags(raw.flags & (1 << abi.SHARE_SHIFT) - 1),
        share=raw.flags >> abi.SHARE_SHIFT or abi.FULL_SHARE,
    )


def flow_from_slot(raw: abi.Flow4 | abi.Flow6, cold: abi.Cold, mode: Mode, clock: JiffyClock, now: int) -> Flow:
    """Return one direction of a flow; ``now`` is in jiffies."""
    version = 4 if isinstance(raw, abi.Flow4) else 6
    head = raw.head
    return Flow(
        protocol=head.proto,
        source=_address(raw.saddr, version),
        destination=_address(raw.daddr, version),
        source_port=_port(head.sport),
        destination_port=_port(head.dport),
        new_source=_address(raw.new_saddr, version),
        new_destination=_address(raw.new_daddr, version),
        new_source_port=_port(head.new_sport),
        new_destination_port=_port(head.new_dport),
        reply=bool(head.flags & abi.FLOW_REPLY),
        mode=mode,
        state=FlowState(head.state),
        rule=cold.rule,
        endpoint=cold.endpoint,
        idle=clock.seconds_since(head.last, now),
        age=clock.seconds_since(cold.created, now),
        counter=Counter(packets=head.packets, bytes=head.bytes),
    )


def flow_event_from_record(record: bytes) -> FlowEvent:
    """Return what a record of the ring buffer (``struct lox_event``) says."""
    raw = abi.Event.from_buffer_copy(record)
    return FlowEvent(
        kind=FlowEventKind(raw.kind),
        protocol=raw.proto,
        source=_address(raw.saddr, raw.family),
        destination=_address(raw.daddr, raw.family),
        source_port=_port(raw.sport),
        destination_port=_port(raw.dport),
        state=FlowState(raw.state),
        rule=raw.rule,
        endpoint=raw.endpoint,
        counter=Counter(packets=raw.packets, bytes=raw.bytes),
    )


def abort_from_record(record: bytes) -> AbortedConnection:
    """Return what a record of the ring buffer of aborts (``struct lox_abort``) says."""
    raw = abi.Abort.from_buffer_copy(record)
    client = Peer(
        address=_address(raw.client, raw.family),
        port=_port(raw.client_port),
        other=_address(raw.vip, raw.family),
        other_port=_port(raw.vip_port),
        expects=raw.client_expects,
        sent=raw.endpoint_expects,
    )
    endpoint = Peer(
        address=_address(raw.endpoint, raw.family),
        port=_port(raw.endpoint_port),
        other=_address(raw.source, raw.family),
        other_port=_port(raw.source_port),
        expects=raw.endpoint_expects,
        sent=raw.client_expects,
    )
    told = ((abi.TELL_CLIENT, client), (abi.TELL_ENDPOINT, endpoint))
    return AbortedConnection(
        ends=tuple(end for bit, end in told if raw.tell & bit),
        active=bool(raw.tell & abi.TELL_ACTIVE),
        rule=raw.rule,
        state=FlowState(raw.state),
        at=raw.at / 1e9,
    )
