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
)
from loxilb.model.image import RuleId


def _port(field: Iterable[int]) -> int:
    return int.from_bytes(bytes(field), "big")


def _packed(address: IPAddress) -> bytes:
    return address.packed.ljust(16, b"\0")


def _address(raw: Iterable[int], version: int) -> IPAddress:
    packed = bytes(raw)
    return IPv4Address(packed[:4]) if version == 4 else IPv6Address(packed[:16])


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
