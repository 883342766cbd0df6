# SPDX-License-Identifier: Apache-2.0
"""Addresses of interfaces, and routes to addresses, many at a time (linux/if_addr.h, linux/rtnetlink.h)."""

import errno
import os
import socket
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from loxilb.kernel.netlink.batch import Batches, Request, attribute, attributes
from loxilb.kernel.netlink.links import ADDRESS_METRIC
from loxilb.model import IPAddress

_RTM_NEWADDR, _RTM_DELADDR, _RTM_GETADDR, _RTM_GETROUTE = 20, 21, 22, 26
_NLM_F_EXCL, _NLM_F_CREATE = 0x200, 0x400
_IFADDRMSG = struct.Struct("=BBBBI")
_RTMSG = struct.Struct("=BBBBBBBBI")
_IFA_ADDRESS, _IFA_LOCAL, _IFA_CACHEINFO, _IFA_FLAGS, _IFA_RT_PRIORITY = 1, 2, 6, 8, 9
_IFA_F_NODAD = 0x02
_IFA_F_NOPREFIXROUTE = 0x200
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PREFSRC, _RTA_MULTIPATH, _RTA_VIA = 1, 4, 5, 7, 9, 18
_RTN_UNICAST, _RTN_LOCAL = 1, 2
# Unreachable, prohibit and blackhole answer by an error.
_NO_ROUTE = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL}
_FOR_EVER = 0xFFFFFFFF
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}

# IPv6: deprecated at once (RFC 4862 section 5.5.4), so that the host does not choose it as a source.
_OURS = attribute(_IFA_RT_PRIORITY, struct.pack("=I", ADDRESS_METRIC))
_OURS6 = attribute(_IFA_FLAGS, struct.pack("=I", _IFA_F_NODAD | _IFA_F_NOPREFIXROUTE)) + attribute(
    _IFA_CACHEINFO, struct.pack("=IIII", 0, _FOR_EVER, 0, 0)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """The kernel's answer: ``on_link`` is the interface when there is no gateway, ``interface`` it in any case."""

    local: bool = False
    interface: int | None = None
    on_link: int | None = None
    source: IPAddress | None = None


def adding(address: IPAddress, index: int) -> Request:
    """Return what adds ``address`` to an interface, marked as ours."""
    extra = _OURS6 if address.version == 6 else b""
    return Request(_RTM_NEWADDR, _NLM_F_CREATE | _NLM_F_EXCL, _body(address, index) + _OURS + extra)


def removing(address: IPAddress, index: int) -> Request:
    """Return what takes ``address`` from an interface."""
    return Request(_RTM_DELADDR, 0, _body(address, index))


def routes_to(batches: Batches, destinations: Sequence[IPAddress]) -> list[Route]:
    """Ask for the route to each of ``destinations``; all fields are empty without one. Raises OSError."""
    found = []
    for reply in batches.carry_out([_asking(one) for one in destinations]):
        if reply.error and reply.error not in _NO_ROUTE:
            raise OSError(reply.error, os.strerror(reply.error))
        found.append(Route() if reply.error else _route(reply.body))
    return found


def present(batches: Batches) -> list[dict[str, Any]]:
    """Return every address, as messages that :mod:`loxilb.kernel.netlink.links` reads. Raises OSError."""
    return [_message(body) for kind, body in batches.dump(_RTM_GETADDR, bytes(_IFADDRMSG.size)) if kind == _RTM_NEWADDR]


def _body(address: IPAddress, index: int) -> bytes:
    packed = address.packed
    head = _IFADDRMSG.pack(_FAMILIES[address.version], address.max_prefixlen, 0, 0, index)
    return head + attribute(_IFA_LOCAL, packed) + attribute(_IFA_ADDRESS, packed)


def _asking(destination: IPAddress) -> Request:
    head = _RTMSG.pack(_FAMILIES[destination.version], destination.max_prefixlen, 0, 0, 0, 0, 0, 0, 0)
    return Request(_RTM_GETROUTE, 0, head + attribute(_RTA_DST, destination.packed))


def _route(body: bytes) -> Route:
    kind, found = _RTMSG.unpack_from(body)[7], attributes(body, _RTMSG.size)
    gateway = _RTA_GATEWAY in found or _RTA_VIA in found or _RTA_MULTIPATH in found
    source = found.get(_RTA_PREFSRC)
    interface = int.from_bytes(found[_RTA_OIF], sys.byteorder) if _RTA_OIF in found else None
    return Route(
        local=kind == _RTN_LOCAL,
        interface=interface if kind == _RTN_UNICAST else None,
        on_link=interface if kind == _RTN_UNICAST and not gateway else None,
        source=_address(source) if source and kind in (_RTN_UNICAST, _RTN_LOCAL) else None,
    )


def _message(body: bytes) -> dict[str, Any]:
    _, prefix, _, _, index = _IFADDRMSG.unpack_from(body)
    found = attributes(body, _IFADDRMSG.size)
    message = {"index": index, "prefixlen": prefix}
    for name, kind in (("local", _IFA_LOCAL), ("address", _IFA_ADDRESS)):
        if kind in found:
            message[name] = _address(found[kind])
    if _IFA_RT_PRIORITY in found:
        message["rt_priority"] = struct.unpack("=I", found[_IFA_RT_PRIORITY])[0]
    return message


def _address(packed: bytes) -> IPAddress:
    return IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)
