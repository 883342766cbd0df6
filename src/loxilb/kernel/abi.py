# SPDX-License-Identifier: Apache-2.0
"""The Python view of ``bpf/abi.h``; a test lets the compiler compare every size and offset.

Members keep the names of the header. Addresses and ports are bytes in network order where the header says ``__be``;
the conversions of :mod:`loxilb.kernel.bpf.convert` are the only readers.
"""

import ctypes
from enum import IntEnum

ABI_VERSION = 2
WINDOW = 16
HALF_WINDOW = 8
QUARANTINE = 2
ONE_WAY_PACKETS = 8
FULL_SHARE = 10
SHARE_SHIFT = 4
RING_LINE = 16
SERVED_BITS = 65_536
SERVED_FACTOR = 0x9E3779B1

SLOT_FREE = 0
SLOT_CLAIMED = 1
SLOT_LIVE = 2
SLOT_DEAD = 3
SLOT_MASK = 0xFF

FLOW_REPLY = 1
FLOW_SOURCE = 2
FLOW_FIN = 4
FLOW_EXTENDED = 8
FLOW_DIRECT = 16
FLOW_CLOSED = 32
FLOW_ENDED = 64

TELL_CLIENT = 1
TELL_ENDPOINT = 2
TELL_ACTIVE = 4

HOST_KNOWN = 1
HOST_LOCAL = 2

AT_XDP, AT_TC, AT_EGRESS = 1, 2, 3
STATES = 9


class Reason(IntEnum):
    """``enum lox_reason``: why a packet left a program. The value implies the verdict."""

    PASS_NOT_IP = 0
    PASS_OTHER_HOST = 1
    PASS_MALFORMED = 2
    PASS_FRAGMENT = 3
    PASS_PROTOCOL = 4
    PASS_NOT_SERVICE = 5
    PASS_TO_TC = 6
    PASS_ICMP_ERROR = 7
    FORWARD_ESTABLISHED = 16
    FORWARD_HALF_OPEN = 17
    FORWARD_NEW = 18
    FORWARD_RESOLVE = 19
    FORWARD_LOCAL = 20
    FORWARD_FRAGMENT = 21
    FORWARD_ICMP_ERROR = 22
    ANSWER_RESET = 23
    ANSWER_UNREACHABLE = 24
    ANSWER_TOO_BIG = 25
    ANSWER_EXPIRED = 26
    FORWARD_SOCKET = 27
    FORWARD_LOOPBACK = 28
    DROP_TTL = 32
    DROP_NO_ENDPOINT = 33
    DROP_NO_SOURCE = 34
    DROP_NO_PORT = 35
    DROP_TABLE_FULL = 36
    DROP_BUSY = 37
    DROP_FLOW_MOVED = 38
    DROP_NO_ROUTE = 39
    DROP_NOT_SYN = 40
    DROP_WRITE = 41
    DROP_SOURCE = 42
    DROP_RST = 43
    DROP_FRAGMENT = 44
    DROP_RATE = 45
    DROP_TOO_BIG = 46
    DROP_MARTIAN = 47
    DROP_HALF_OPEN = 48
    DROP_LOOP = 49
    DROP_BLACK_HOLE = 50


REASONS = 56

_Address = ctypes.c_uint8 * 16
_Port = ctypes.c_uint8 * 2
_Address4 = ctypes.c_uint8 * 4
_Mac = ctypes.c_uint8 * 6


class FlowHead(ctypes.Structure):
    """``struct lox_flow``."""

    _fields_ = (
        ("word", ctypes.c_uint32),
        ("last", ctypes.c_uint32),
        ("sport", _Port),
        ("dport", _Port),
        ("new_sport", _Port),
        ("new_dport", _Port),
        ("proto", ctypes.c_uint8),
        ("flags", ctypes.c_uint8),
        ("state", ctypes.c_uint8),
        ("window_scale", ctypes.c_uint8),
        ("next_hop", ctypes.c_uint16),
        ("generation", ctypes.c_uint16),
        ("sequence", ctypes.c_uint64),
        ("packets", ctypes.c_uint64),
        ("bytes", ctypes.c_uint64),
    )


class Flow4(ctypes.Structure):
    """``struct lox_flow4``."""

    _fields_ = (
        ("head", FlowHead),
        ("saddr", _Address4),
        ("daddr", _Address4),
        ("new_saddr", _Address4),
        ("new_daddr", _Address4),
    )


class Cold(ctypes.Structure):
    """``struct lox_cold``."""

    _fields_ = (
        ("created", ctypes.c_uint32),
        ("rule", ctypes.c_uint32),
        ("endpoint", ctypes.c_uint32),
        ("extension", ctypes.c_uint32),
    )


class Flow6(ctypes.Structure):
    """``struct lox_flow6``."""

    _fields_ = (
        ("head", FlowHead),
        ("saddr", _Address),
        ("daddr", _Address),
        ("new_saddr", _Address),
        ("new_daddr", _Address),
        ("cold", Cold),
    )


class Whole4(ctypes.Structure):
    """``struct lox_whole4``."""

    _fields_ = (("flow", Flow4), ("cold", Cold))


class Key4(ctypes.Structure):
    """``struct lox_key4``."""

    _fields_ = (
        ("saddr", _Address4),
        ("daddr", _Address4),
        ("sport", _Port),
        ("dport", _Port),
        ("proto", ctypes.c_uint32),
    )


class Key6(ctypes.Structure):
    """``struct lox_key6``."""

    _fields_ = (
        ("saddr", _Address),
        ("daddr", _Address),
        ("sport", _Port),
        ("dport", _Port),
        ("proto", ctypes.c_uint32),
    )


LISTENER_RULE = 0x3FFFFFFF
LISTENER_SECONDARY = 0x40000000
LISTENER_MARKED = 0x80000000


class Listener4(ctypes.Structure):
    """``struct lox_listener4``."""

    _fields_ = (
        ("addr", _Address4),
        ("port", _Port),
        ("proto", ctypes.c_uint8),
        ("pad", ctypes.c_uint8),
        ("mark", ctypes.c_uint32),
    )


class Listener6(ctypes.Structure):
    """``struct lox_listener6``."""

    _fields_ = (
        ("addr", _Address),
        ("port", _Port),
        ("proto", ctypes.c_uint8),
        ("pad", ctypes.c_uint8),
        ("mark", ctypes.c_uint32),
    )


class RingLine(ctypes.Structure):
    """``struct lox_ring_line``."""

    _fields_ = (("endpoint", ctypes.c_uint32 * RING_LINE),)


class Rule(ctypes.Structure):
    """``struct lox_rule``; times are in jiffies."""

    _fields_ = (
        ("ring_base", ctypes.c_uint32),
        ("ring_length", ctypes.c_uint32),
        ("timeout", ctypes.c_uint32),
        ("persist", ctypes.c_uint32),
        ("mode", ctypes.c_uint8),
        ("select", ctypes.c_uint8),
        ("live", ctypes.c_uint8),
        ("restricted", ctypes.c_uint8),
        ("half_open_limit", ctypes.c_uint32),
    )


class RuleState(ctypes.Structure):
    """``struct lox_rule_state``."""

    _fields_ = (("position", ctypes.c_uint32), ("half_open", ctypes.c_int32))


class EndpointState(ctypes.Structure):
    """``struct lox_endpoint_state``."""

    _fields_ = (
        ("active", ctypes.c_uint32),
        ("epoch", ctypes.c_uint32),
        ("opened", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
    )


class Local(ctypes.Structure):
    """``struct lox_local``."""

    _fields_ = (
        ("service", _Address),
        ("addr", _Address),
        ("service_port", _Port),
        ("port", _Port),
        ("rule", ctypes.c_uint32),
        ("endpoint", ctypes.c_uint32),
        ("epoch", ctypes.c_uint32),
        ("family", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
    )


class Connected(ctypes.Structure):
    """``struct lox_connected``."""

    _fields_ = (("rule", ctypes.c_uint32), ("endpoint", ctypes.c_uint32))


class ErrandKey(ctypes.Structure):
    """``struct lox_errand_key``."""

    _fields_ = (
        ("addr", _Address),
        ("cookie", ctypes.c_uint64),
        ("port", _Port),
        ("family", ctypes.c_uint8),
        ("reply", ctypes.c_uint8),
        ("pad", ctypes.c_uint32),
    )


class Errand(ctypes.Structure):
    """``struct lox_errand``."""

    _fields_ = (
        ("addr", _Address),
        ("listener", ctypes.c_uint32),
        ("rule", ctypes.c_uint32),
        ("endpoint", ctypes.c_uint32),
        ("last", ctypes.c_uint32),
        ("port", _Port),
        ("pad", ctypes.c_uint16),
        ("pad2", ctypes.c_uint32),
    )


class Client(ctypes.Structure):
    """``struct lox_client``."""

    _fields_ = (("addr", _Address), ("rule", ctypes.c_uint32), ("pad", ctypes.c_uint32))


class Affinity(ctypes.Structure):
    """``struct lox_affinity``."""

    _fields_ = (("endpoint", ctypes.c_uint32), ("last", ctypes.c_uint32))


class SourceKey(ctypes.Structure):
    """``struct lox_source_key``."""

    _fields_ = (("prefix", ctypes.c_uint32), ("rule", ctypes.c_uint32), ("addr", _Address))


class Endpoint(ctypes.Structure):
    """``struct lox_endpoint``."""

    _fields_ = (
        ("addr", _Address),
        ("source", _Address),
        ("rule", ctypes.c_uint32),
        ("port", _Port),
        ("flags", ctypes.c_uint8),
        ("family", ctypes.c_uint8),
    )


class Traffic(ctypes.Structure):
    """``struct lox_traffic``."""

    _fields_ = (("packets", ctypes.c_uint64), ("bytes", ctypes.c_uint64))


class NextHop(ctypes.Structure):
    """``struct lox_next_hop``."""

    _fields_ = (
        ("word", ctypes.c_uint32),
        ("ifindex", ctypes.c_uint32),
        ("generation", ctypes.c_uint32),
        ("dmac", _Mac),
        ("smac", _Mac),
        ("peer", ctypes.c_uint32),
        ("mtu", ctypes.c_uint32),
    )


class Link(ctypes.Structure):
    """``struct lox_link``."""

    _fields_ = (
        ("ifindex", ctypes.c_uint32),
        ("peer", ctypes.c_uint32),
        ("addr6", _Address),
        ("addr4", _Address4),
        ("mtu", ctypes.c_uint32),
    )


class FragmentKey(ctypes.Structure):
    """``struct lox_fragment_key``."""

    _fields_ = (
        ("saddr", _Address),
        ("daddr", _Address),
        ("id", ctypes.c_uint32),
        ("proto", ctypes.c_uint32),
    )


class Fragment(ctypes.Structure):
    """``struct lox_fragment``."""

    _fields_ = (
        ("sport", _Port),
        ("dport", _Port),
        ("first", ctypes.c_uint32),
        ("last", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
    )


class Bucket(ctypes.Structure):
    """``struct lox_bucket``."""

    _fields_ = (("last", ctypes.c_uint32), ("tokens", ctypes.c_uint32))


class Config(ctypes.Structure):
    """``struct lox_config``."""

    _fields_ = (
        ("secret", ctypes.c_uint64 * 2),
        ("flow4_mask", ctypes.c_uint32),
        ("flow6_mask", ctypes.c_uint32),
        ("half4_mask", ctypes.c_uint32),
        ("half6_mask", ctypes.c_uint32),
        ("link_mask", ctypes.c_uint32),
        ("next_hop_mask", ctypes.c_uint32),
        ("rules", ctypes.c_uint32),
        ("endpoints", ctypes.c_uint32),
        ("ring", ctypes.c_uint32),
        ("redirect_peer", ctypes.c_uint32),
        ("complete_checksum", ctypes.c_uint32),
        ("ipv6_csum_flag", ctypes.c_uint32),
        ("kernel_ctx", ctypes.c_uint32),
        ("set_retval", ctypes.c_uint32),
        ("netns", ctypes.c_uint64),
    )


class Runtime(ctypes.Structure):
    """``struct lox_runtime``."""

    _fields_ = (
        ("generation", ctypes.c_uint32),
        ("purge", ctypes.c_uint32),
        ("overflow4", ctypes.c_uint32),
        ("overflow6", ctypes.c_uint32),
        ("timeout", ctypes.c_uint32 * STATES),
        ("events", ctypes.c_uint32),
        ("pass_", ctypes.c_uint32),
        ("live4", ctypes.c_uint32),
        ("live6", ctypes.c_uint32),
        ("half4", ctypes.c_uint32),
        ("half6", ctypes.c_uint32),
        ("icmp_interval", ctypes.c_uint32),
        ("events_lost", ctypes.c_uint32),
        ("aborts_lost", ctypes.c_uint32),
    )


class Event(ctypes.Structure):
    """``struct lox_event``."""

    _fields_ = (
        ("saddr", _Address),
        ("daddr", _Address),
        ("sport", _Port),
        ("dport", _Port),
        ("family", ctypes.c_uint8),
        ("proto", ctypes.c_uint8),
        ("kind", ctypes.c_uint8),
        ("state", ctypes.c_uint8),
        ("rule", ctypes.c_uint32),
        ("endpoint", ctypes.c_uint32),
        ("packets", ctypes.c_uint64),
        ("bytes", ctypes.c_uint64),
    )


class Drop(ctypes.Structure):
    """``struct lox_drop``."""

    _fields_ = (
        ("at", ctypes.c_uint64),
        ("ifindex", ctypes.c_uint32),
        ("length", ctypes.c_uint32),
        ("captured", ctypes.c_uint16),
        ("reason", ctypes.c_uint8),
        ("hook", ctypes.c_uint8),
        ("head", ctypes.c_uint8 * 132),
    )


class Abort(ctypes.Structure):
    """``struct lox_abort``."""

    _fields_ = (
        ("client", _Address),
        ("vip", _Address),
        ("source", _Address),
        ("endpoint", _Address),
        ("client_port", _Port),
        ("vip_port", _Port),
        ("source_port", _Port),
        ("endpoint_port", _Port),
        ("client_expects", ctypes.c_uint32),
        ("endpoint_expects", ctypes.c_uint32),
        ("at", ctypes.c_uint64),
        ("rule", ctypes.c_uint32),
        ("family", ctypes.c_uint8),
        ("state", ctypes.c_uint8),
        ("tell", ctypes.c_uint8),
        ("pad", ctypes.c_uint8),
    )
