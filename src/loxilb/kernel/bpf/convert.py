# SPDX-License-Identifier: Apache-2.0
"""Map layouts to model values and back: one function per direction."""

import struct
from array import array
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import cast

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
    L4Protocol,
    Mode,
    Peer,
    Port,
    Selection,
)
from loxilb.model.image import EndpointFlags, Listener, RuleId, SecondaryListener
from loxilb.model.service import PROTOCOLS

_NUMBER = {(one.value, version): one.number(version) for one in L4Protocol for version in (4, 6)}
_NAME = {number: one.value for number, one in PROTOCOLS.items()}

# A field by a Python call each is too slow for a hundred thousand services: their elements are packed whole.
_LISTENER4 = struct.Struct("=4s2sBxI")
_LISTENER6 = struct.Struct("=16s2sBxI")
_LISTENER_HEADS = {4: struct.Struct(">IHB5x"), 6: struct.Struct(">QQHB5x")}  # what is big-endian
_new = cast("Callable[[type[Listener], tuple[object, ...]], Listener]", tuple.__new__)
_RULE = struct.Struct("=IIIIBBBBI")
_ENDPOINT = struct.Struct("=16s16sI2sBB")
_FAMILY = abi.Endpoint.family.offset
_NO_ADDRESS = bytes(16)
_FULL_SHARE, _SHARE_SHIFT = abi.FULL_SHARE, abi.SHARE_SHIFT
_MODES = {int(mode): mode for mode in Mode}
_SELECTIONS = {int(selection): selection for selection in Selection}
_FLAGS = [EndpointFlags(bits) for bits in range(1 << abi.SHARE_SHIFT)]


def _port(field: Iterable[int]) -> int:
    return int.from_bytes(bytes(field), "big")


def _packed(address: IPAddress) -> bytes:
    return address.packed.ljust(16, b"\0")


@lru_cache(maxsize=1 << 16)
def _unpacked(raw: bytes, version: int) -> IPAddress:
    """Read an address; many services have the same endpoints."""
    return _address(raw, version)


def _address(raw: Iterable[int], version: int) -> IPAddress:
    packed = bytes(raw)
    return IPv4Address(packed[:4]) if version == 4 else IPv6Address(packed[:16])


def listeners_from_elements(keys: bytes, values: bytes, version: int) -> Iterator[tuple[Listener, int]]:
    """Return listeners and their words from elements in a row; not those of a protocol that there is not.

    Without the slow constructor of a named tuple: a start reads a hundred thousand.
    """
    heads: Iterable[tuple[int, int, int]] = _LISTENER_HEADS[version].iter_unpack(keys)
    if version == 6:
        wide = cast("Iterable[tuple[int, int, int, int]]", heads)
        heads = ((high << 64 | low, port, number) for high, low, port, number in wide)
    size = (_LISTENER4 if version == 4 else _LISTENER6).size // 4
    marks = array("I", keys)[size - 1 :: size]
    for (address, port, number), mark, word in zip(heads, marks, array("I", values), strict=True):
        if number in _NAME:  # else no packet finds it
            kind = SecondaryListener if word & abi.LISTENER_SECONDARY else Listener
            yield _new(kind, (version, address, _NAME[number], port, mark)), word


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
