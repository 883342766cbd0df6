# SPDX-License-Identifier: Apache-2.0
"""Addresses that packets may be ours by: an index derived from listeners and endpoints.

Two maps of the packet path follow from what is programmed and are kept here, not by the planner: ``served`` (a bit a
service address, so that other packets pass quickly) and ``hosts`` (addresses of services and endpoints, whose stray
fragments must not pass untranslated).
"""

import struct
from collections import Counter
from collections.abc import Iterable

from loxilb.kernel import abi
from loxilb.kernel.bpf import maps
from loxilb.kernel.bpf.maps import ArrayView
from loxilb.model import IPAddress

_KNOWN, _LOCAL = struct.pack("=I", abi.HOST_KNOWN), struct.pack("=I", abi.HOST_LOCAL)


def served_bit(address: IPAddress) -> int:
    """Return the bit of ``served`` that stands for an address (``LOX_SERVED_FACTOR`` in bpf/abi.h)."""
    word = 0
    for (part,) in struct.iter_unpack("=I", address.packed):
        word ^= part
    return (word * abi.SERVED_FACTOR & 0xFFFFFFFF) >> 16


class HostIndex:
    """Reference counts of addresses, and the two maps that follow from them.

    An endpoint is local when its address is one of this host's interfaces, or a service's, which this host owns too.
    """

    def __init__(self, hosts: int, served: ArrayView) -> None:
        """Take the descriptor of ``hosts`` and a writable view of ``served``; call :meth:`rebuild` next."""
        self._hosts = hosts
        self._served = served
        self._services: Counter[IPAddress] = Counter()
        self._endpoints: Counter[IPAddress] = Counter()
        self._bits: Counter[int] = Counter()
        self._own: frozenset[IPAddress] | None = None
        self._local: set[IPAddress] = set()

    @property
    def has_local_endpoint(self) -> bool:
        """Tell whether any endpoint is on this host."""
        return bool(self._local)

    def know_own(self, addresses: frozenset[IPAddress]) -> None:
        """Learn the addresses of this host's interfaces; raises KernelError."""
        changed, self._own = addresses ^ (self._own or frozenset()), addresses
        for address in changed:
            if address in self._endpoints:
                self._write(address)

    def rebuild(self, services: Iterable[IPAddress], endpoints: Iterable[IPAddress]) -> None:
        """Count anew what is programmed and make the maps agree; raises KernelError.

        Until :meth:`know_own` tells, those endpoints are on this host that were for the daemon before.
        """
        found = tuple(maps.dump(self._hosts, 16, 4))
        self._services, self._endpoints = Counter(services), Counter(endpoints)
        self._bits = Counter(map(served_bit, self._services.elements()))
        self._local.clear()
        wanted = self._services.keys() | self._endpoints.keys()
        if self._own is None:
            local = {key for key, value in found if value == _LOCAL}
            self._own = frozenset(one for one in self._endpoints if _key(one) in local)
        keys = {_key(address) for address in wanted}
        for key, _ in found:
            if key not in keys:
                maps.delete(self._hosts, key, "forget an address")
        for address in wanted:
            self._write(address)
        for at in range(abi.SERVED_BITS // 64):
            self._write_word(at)

    def add_service(self, address: IPAddress) -> None:
        """Note one more listener on ``address``; raises KernelError."""
        self._services[address] += 1
        if self._services[address] == 1:
            self._write(address)
        bit = served_bit(address)
        self._bits[bit] += 1
        if self._bits[bit] == 1:
            self._write_word(bit // 64)

    def drop_service(self, address: IPAddress) -> None:
        """Note one listener less on ``address``; raises KernelError."""
        self._drop(self._services, address)
        bit = served_bit(address)
        self._bits[bit] -= 1
        if not self._bits[bit]:
            del self._bits[bit]
            self._write_word(bit // 64)

    def add(self, address: IPAddress) -> None:
        """Note one more endpoint at ``address``; raises KernelError."""
        self._endpoints[address] += 1
        if self._endpoints[address] == 1:
            self._write(address)

    def drop(self, address: IPAddress) -> None:
        """Note one endpoint less at ``address``; raises KernelError."""
        self._drop(self._endpoints, address)

    def _drop(self, users: Counter[IPAddress], address: IPAddress) -> None:
        users[address] -= 1
        if not users[address]:
            del users[address]
            self._write(address)

    def _write(self, address: IPAddress) -> None:
        """Make the map say what an address is now."""
        local = address in self._endpoints and (address in (self._own or ()) or address in self._services)
        (self._local.add if local else self._local.discard)(address)
        if address in self._endpoints or address in self._services:
            value = _LOCAL if local else _KNOWN
            maps.update(self._hosts, _key(address), value, f"note address {address}")
        else:
            maps.delete(self._hosts, _key(address), f"forget address {address}")

    def _write_word(self, at: int) -> None:
        word = sum(1 << bit for bit in range(64) if self._bits.get(at * 64 + bit))
        self._served.write(at * 8, struct.pack("=Q", word))


def _key(address: IPAddress) -> bytes:
    return address.packed.ljust(16, b"\0")
