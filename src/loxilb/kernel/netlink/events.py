# SPDX-License-Identifier: Apache-2.0
"""What changes in the network, as few and as meaningful events.

The kernel sends a message for every change of state of a neighbour, every statistic of a link and every
attached program. What is passed on is what the packet path must react to: a link that is new, gone or
different, and anything that may send a packet another way.
"""

import errno
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from pyroute2.netlink import rtnl
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg

from loxilb.kernel.netlink.batch import attributes
from loxilb.kernel.netlink.links import ADDRESS_METRIC, Message, kind_of
from loxilb.model import IPAddress
from loxilb.model.port import IfIndex

_SOL_NETLINK = 270
_NETLINK_ADD_MEMBERSHIP = 1
_SO_RCVBUFFORCE = 33
_RECEIVE_BUFFER = 4 << 20  # bytes; a full BGP table changes in bursts
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
# RTNLGRP_ LINK, NEIGH, IPV4_IFADDR, IPV4_ROUTE, IPV4_RULE, IPV6_IFADDR, IPV6_ROUTE, IPV6_RULE, NEXTHOP
_GROUPS = (1, 3, 5, 7, 8, 9, 11, 19, 32)
_RTM_NEXTHOP = (104, 105)  # RTM_NEWNEXTHOP, RTM_DELNEXTHOP
_ADDRESS = struct.Struct("=BBBBI")  # struct ifaddrmsg
_IFA_ADDRESS = 1
_ADDRESSES = (rtnl.RTM_NEWADDR, rtnl.RTM_DELADDR)
# Attribute IFA_RT_PRIORITY (9) of the addresses we hold: they come and go in great numbers.
_HELD = struct.pack("=HHI", 8, 9, ADDRESS_METRIC)
_WAYS = {
    *(rtnl.RTM_NEWADDR, rtnl.RTM_DELADDR, rtnl.RTM_NEWROUTE, rtnl.RTM_DELROUTE),
    *(rtnl.RTM_NEWRULE, rtnl.RTM_DELRULE, *_RTM_NEXTHOP),
}
# NUD_REACHABLE, STALE, DELAY, PROBE, PERMANENT: the link-layer address is known. NUD_NOARP has none to
# change.
_NUD_KNOWN = 0x02 | 0x04 | 0x08 | 0x10 | 0x80
_LINK_STATE = 0x1 | 0x40 | 0x1_0000  # IFF_UP, IFF_RUNNING, IFF_LOWER_UP


@dataclass(frozen=True, slots=True)
class LinkChanged:
    """An interface is new, or its name, state, size, kind, master or one of its addresses changed."""

    index: IfIndex


@dataclass(frozen=True, slots=True)
class LinkRemoved:
    """An interface is gone (removed, or moved to another namespace)."""

    index: IfIndex


@dataclass(frozen=True, slots=True)
class RoutesChanged:
    """A route, rule, next hop, address or known neighbour changed: packets may have to go another way."""


@dataclass(frozen=True, slots=True)
class HeldAddressRemoved:
    """An address that is marked as ours is not on this interface any more, whoever took it away."""

    address: IPAddress
    index: IfIndex


NetworkEvent = LinkChanged | LinkRemoved | RoutesChanged | HeldAddressRemoved


def subscribe() -> socket.socket:
    """Open a non-blocking socket on which the kernel reports changes in the calling thread's namespace."""
    channel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    try:
        channel.setblocking(False)
        channel.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
        channel.bind((0, 0))
        for group in _GROUPS:
            channel.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)
    except OSError:
        channel.close()
        raise
    return channel


def drain(channel: socket.socket) -> tuple[list[bytes], bool]:
    """Read everything that waits; the second value is true when the kernel had to drop messages."""
    chunks: list[bytes] = []
    overrun = False
    while True:
        try:
            chunks.append(channel.recv(1 << 16))
        except BlockingIOError:
            return chunks, overrun
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            overrun = True


class Tracker:
    """Knows the links and resolved neighbours, and tells real changes from noise."""

    def __init__(self) -> None:
        """Start knowing nothing."""
        self._links: dict[int, tuple[object, ...]] = {}
        self._neighbours: dict[tuple[int, str], str] = {}

    def reset(self, links: Iterable[Message], neighbours: Iterable[Message]) -> list[NetworkEvent]:
        """Take full dumps as the truth: every link may have other addresses now, and routes may have changed."""
        known = self._links
        self._links = {link["index"]: _signature(link) for link in links}
        self._neighbours = {}
        for message in neighbours:
            self._neighbour(message)
        gone: list[NetworkEvent] = [LinkRemoved(IfIndex(i)) for i in sorted(known.keys() - self._links.keys())]
        return [*gone, *(LinkChanged(IfIndex(i)) for i in sorted(self._links)), RoutesChanged()]

    def digest(self, chunks: Iterable[bytes]) -> list[NetworkEvent]:
        """Return the events in raw messages, each once: links in order of arrival, then RoutesChanged."""
        events = dict.fromkeys(event for chunk in chunks for event in self._chunk(chunk))
        routes = any(isinstance(event, RoutesChanged | HeldAddressRemoved) for event in events)
        events.pop(RoutesChanged(), None)
        return [*events, *([RoutesChanged()] if routes else [])]

    def _chunk(self, data: bytes) -> Iterator[NetworkEvent]:
        offset = 0
        while offset + _HEADER.size <= len(data):
            length, kind, *_ = _HEADER.unpack_from(data, offset)
            if length < _HEADER.size:
                return
            event = self._event(kind, data, offset)
            if event is not None:
                yield event
            offset += (length + 3) & ~3

    def _event(self, kind: int, data: bytes, offset: int) -> NetworkEvent | None:
        # Routes can come by the hundred thousand and say all by their type: only links and neighbours are
        # decoded.
        if kind in _ADDRESSES and len(data) >= offset + _HEADER.size + _ADDRESS.size:
            return self._address(kind, data, offset)
        if kind in _WAYS:
            return RoutesChanged()
        if kind in (rtnl.RTM_NEWLINK, rtnl.RTM_DELLINK):
            return self._link(_decode(ifinfmsg, data, offset), gone=kind == rtnl.RTM_DELLINK)
        if kind in (rtnl.RTM_NEWNEIGH, rtnl.RTM_DELNEIGH):
            changed = self._neighbour(_decode(ndmsg, data, offset), gone=kind == rtnl.RTM_DELNEIGH)
            return RoutesChanged() if changed else None
        return None

    def _address(self, kind: int, data: bytes, offset: int) -> NetworkEvent:
        (length,) = struct.unpack_from("=I", data, offset)
        message = data[offset + _HEADER.size : offset + length]
        index = IfIndex(_ADDRESS.unpack_from(message)[-1])
        if _HELD not in message:
            return LinkChanged(index)
        # Both families have IFA_ADDRESS, and a host address no other.
        packed = attributes(message, _ADDRESS.size).get(_IFA_ADDRESS) if kind == rtnl.RTM_DELADDR else None
        return RoutesChanged() if packed is None else HeldAddressRemoved(ip_address(packed), index)

    def _link(self, link: Message, *, gone: bool) -> NetworkEvent | None:
        if link["family"] != socket.AF_UNSPEC:  # a bridge speaking of its port
            return None
        index = IfIndex(link["index"])
        if gone:
            self._links.pop(index, None)
            return LinkRemoved(index)
        signature = _signature(link)
        if self._links.get(index) == signature:
            return None
        self._links[index] = signature
        return LinkChanged(index)

    def _neighbour(self, message: Message, *, gone: bool = False) -> bool:
        """Record a neighbour; true when one that was known has another address now, or none."""
        if message["family"] not in (socket.AF_INET, socket.AF_INET6):  # a bridge's forwarding entry
            return False
        key = (message["ifindex"], message.get("dst"))
        before = self._neighbours.get(key)
        mac = message.get("lladdr")
        if gone or not message["state"] & _NUD_KNOWN or mac is None:
            return self._neighbours.pop(key, None) is not None
        self._neighbours[key] = mac
        return before is not None and before != mac


def _decode(form: type[Message], data: bytes, offset: int) -> Message:
    message = form(data, offset=offset)
    message.decode()
    return message


def _signature(link: Message) -> tuple[object, ...]:
    fields = ("ifname", "mtu", "address", "master", "carrier", "carrier_changes")
    return (*map(link.get, fields), link["flags"] & _LINK_STATE, kind_of(link))
