# SPDX-License-Identifier: Apache-2.0
"""Telling the neighbours on a link that an address lives here now.

IPv4: ARP announcements (RFC 5227 §2.3), as request and as reply because some stacks take only one of them.
IPv6: unsolicited neighbour advertisements (RFC 4861 §7.2.6). Each goes out at once and twice more, one second
apart: frames get lost, and a switch may still be learning. Very many are spread out, as neighbours have to take all of
them in: first each once, then the repetitions.
"""

import heapq
import socket
import struct
import threading
import time
from collections.abc import Container, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from math import inf
from typing import NamedTuple

import structlog

from loxilb.model import IPAddress

PER_SECOND = 1000  # announcements of all addresses together, after BURST at once
BURST = 100
REPEATS = 3  # RFC 4861 §10 MAX_NEIGHBOR_ADVERTISEMENT
INTERVAL_S = 1.0  # RFC 4861 §10 RETRANS_TIMER

_ETH_P_ARP = 0x0806
_ETH_P_IPV6 = 0x86DD
_BROADCAST = b"\xff" * 6
_ALL_NODES = IPv6Address("ff02::1")
_ALL_NODES_MAC = bytes.fromhex("333300000001")  # RFC 2464 §7
_ICMPV6 = 58
_NEIGHBOR_ADVERTISEMENT = 136
_ROUTER_AND_OVERRIDE = 0xA000_0000  # this host forwards, and its answer replaces an older one
_TARGET_LINK_LAYER_ADDRESS = 2
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Station:
    """A link to announce on: interface name and its six-byte address."""

    name: str
    mac: bytes


def arp_frame(address: IPv4Address, mac: bytes, *, operation: int) -> bytes:
    """Build an ARP frame (RFC 826), ``address`` being sender and target; operation 1 asks, 2 replies."""
    target = mac if operation == 2 else bytes(6)
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation) + mac + address.packed + target + address.packed
    return _BROADCAST + mac + struct.pack("!H", _ETH_P_ARP) + body


def advertisement_frame(address: IPv6Address, mac: bytes) -> bytes:
    """Build an unsolicited neighbour advertisement (RFC 4861 §4.4) to all nodes."""
    option = bytes((_TARGET_LINK_LAYER_ADDRESS, 1)) + mac
    head = struct.pack("!BBHI", _NEIGHBOR_ADVERTISEMENT, 0, 0, _ROUTER_AND_OVERRIDE)
    body = head + address.packed + option
    pseudo = address.packed + _ALL_NODES.packed + struct.pack("!II", len(body), _ICMPV6)
    body = body[:2] + struct.pack("!H", _checksum(pseudo + body)) + body[4:]
    header = struct.pack("!IHBB", 6 << 28, len(body), _ICMPV6, 255) + address.packed + _ALL_NODES.packed
    return _ALL_NODES_MAC + mac + struct.pack("!H", _ETH_P_IPV6) + header + body


def frames(address: IPAddress, mac: bytes) -> Iterator[bytes]:
    """Return what one announcement of ``address`` consists of."""
    if isinstance(address, IPv4Address):
        yield arp_frame(address, mac, operation=1)
        yield arp_frame(address, mac, operation=2)
    else:
        yield advertisement_frame(address, mac)


def _checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071) of data of even length."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class _Due(NamedTuple):
    """One announcement to make: when (monotonic seconds), its number as tie-breaker, and what."""

    at: float
    number: int
    address: IPAddress
    station: Station
    left: int


class Announcer:
    """Makes announcements from a thread of its own, so nobody waits for the repetitions.

    The thread starts with the first announcement and lives in the network namespace of the thread that made
    it.
    """

    def __init__(self) -> None:
        """Start with nothing to announce."""
        self._changed = threading.Condition()
        self._due: list[_Due] = []
        self._number = 0
        self._closed = False
        self._free_at = -inf
        self._thread: threading.Thread | None = None

    def announce(self, address: IPAddress, station: Station) -> None:
        """Announce ``address`` on a link now and ``REPEATS`` times in all."""
        with self._changed:
            self._push(time.monotonic(), address, station, REPEATS)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="announcer", daemon=True)
                self._thread.start()
            self._changed.notify()

    def withdraw(self, addresses: Container[IPAddress]) -> None:
        """Forget the repetitions still due for ``addresses``: they are no longer ours, or no longer there."""
        with self._changed:
            self._due = [due for due in self._due if due.address not in addresses]
            heapq.heapify(self._due)

    def close(self) -> None:
        """Stop; what is still due is not sent."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _push(self, at: float, address: IPAddress, station: Station, left: int) -> None:
        self._number += 1
        heapq.heappush(self._due, _Due(at, self._number, address, station, left))

    def _run(self) -> None:
        while (due := self._next()) is not None:
            try:
                send(due.address, due.station)
            except OSError as error:  # the link may be gone or down; the next one must still be told
                _log.warning("announce failed", address=str(due.address), link=due.station.name, cause=str(error))

    def _next(self) -> _Due | None:
        """Wait for the next announcement and schedule its repetition; None when closed."""
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                wait = max(self._due[0].at - now, self._free_at - now) if self._due else None
                if wait is not None and wait <= 0:
                    due = heapq.heappop(self._due)
                    self._free_at = max(self._free_at, now - BURST / PER_SECOND) + 1 / PER_SECOND
                    if due.left > 1:
                        self._push(due.at + INTERVAL_S, due.address, due.station, due.left - 1)
                    return due
                self._changed.wait(wait)
            return None


def send(address: IPAddress, station: Station) -> None:
    """Send one announcement as raw frames (packet(7)); raises OSError."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((station.name, 0))
        for frame in frames(address, station.mac):
            raw.send(frame)
