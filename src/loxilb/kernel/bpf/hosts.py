# SPDX-License-Identifier: Apache-2.0
"""Addresses that packets may be ours by: an index derived from listeners and endpoints.

Two maps of the packet path follow from what is programmed and are kept here, not by the planner: ``served`` (a bit a
service address, so that other packets pass quickly) and ``hosts`` (addresses of services and endpoints, whose stray
fragments must not pass untranslated). Addresses are packed here (4 or 16 bytes): their numbers are great, and bytes are
quicker to look up than address objects.
"""

import struct
from array import array
from collections.abc import Collection, Mapping

from loxilb.kernel import abi
from loxilb.kernel.bpf import maps
from loxilb.kernel.bpf.maps import ArrayView
from loxilb.model import IPAddress

_KEY = 16  # bytes of a key of ``hosts``: an IPv4 address is its beginning
_WORD_BITS = 64
_KNOWN = struct.pack("=I", abi.HOST_KNOWN)
_LOCAL = struct.pack("=I", abi.HOST_LOCAL)


def served_bit(address: bytes) -> int:
    """Return the bit of ``served`` that stands for a packed address (``LOX_SERVED_FACTOR`` in bpf/abi.h)."""
    word = 0
    for (part,) in struct.iter_unpack("=I", address):
        word ^= part
    return (word * abi.SERVED_FACTOR & 0xFFFFFFFF) >> 16


class HostIndex:
    """Reference counts of addresses, and the two maps that follow from them, once ``flush`` has written them.

    An endpoint is local when its address is one of this host's interfaces, or a service's, which this host owns too.
    """

    def __init__(self, hosts: int, served: ArrayView) -> None:
        """Take the descriptor of ``hosts`` and a writable view of ``served``; call :meth:`rebuild` next."""
        self._hosts = hosts
        self._served = served
        self._services: dict[bytes, int] = {}
        self._endpoints: dict[bytes, int] = {}
        self._bits = array("I", bytes(4 * abi.SERVED_BITS))
        self._own: frozenset[bytes] | None = None
        self._local: set[bytes] = set()
        self._stale: set[bytes] = set()
        self._stale_words: set[int] = set()

    @property
    def has_local_endpoint(self) -> bool:
        """Tell whether any endpoint is on this host."""
        return bool(self._local)

    def know_own(self, addresses: frozenset[IPAddress]) -> None:
        """Learn the addresses of this host's interfaces; raises KernelError."""
        own = frozenset(address.packed for address in addresses)
        changed, self._own = own ^ (self._own or frozenset()), own
        self._stale.update(changed & self._endpoints.keys())
        self.flush()

    def rebuild(self, services: Mapping[bytes, int], endpoints: Mapping[bytes, int]) -> None:
        """Count anew what is programmed and make the maps agree; raises KernelError.

        Until :meth:`know_own` tells, those endpoints are on this host that were for the daemon before.
        """
        found = tuple(maps.dump(self._hosts, _KEY, 4))
        self._services, self._endpoints = {}, {}
        self._bits = array("I", bytes(4 * abi.SERVED_BITS))
        self._local.clear()
        self.add_services(services)
        self.add_endpoints(endpoints)
        wanted = self._services.keys() | self._endpoints.keys()
        if self._own is None:
            local = {key for key, value in found if value == _LOCAL}
            self._own = frozenset(one for one in self._endpoints if _key(one) in local)
        keys = {_key(address) for address in wanted}
        for key, _ in found:
            if key not in keys:
                maps.delete(self._hosts, key, "forget an address")
        self._stale = set(wanted)
        self._stale_words = set(range(abi.SERVED_BITS // _WORD_BITS))
        self.flush()

    def add_services(self, addresses: Mapping[bytes, int]) -> None:
        """Note so many more listeners on each address."""
        for address, listeners in addresses.items():
            if self._add(self._services, address, listeners):
                self._count_bit(address, 1)

    def drop_services(self, addresses: Mapping[bytes, int]) -> None:
        """Note so many listeners less on each address."""
        for address, listeners in addresses.items():
            if self._drop(self._services, address, listeners):
                self._count_bit(address, -1)

    def add_endpoints(self, addresses: Mapping[bytes, int]) -> None:
        """Note so many more endpoints at each address."""
        for address, endpoints in addresses.items():
            self._add(self._endpoints, address, endpoints)

    def drop_endpoints(self, addresses: Mapping[bytes, int]) -> None:
        """Note so many endpoints less at each address."""
        for address, endpoints in addresses.items():
            self._drop(self._endpoints, address, endpoints)

    def flush(self) -> None:
        """Make the maps say what was noted, now or when called again after a failure; raises KernelError."""
        self._write(self._stale)
        self._stale.clear()
        for at in self._stale_words:
            bits = self._bits[at * _WORD_BITS : (at + 1) * _WORD_BITS]
            word = sum(1 << bit for bit, count in enumerate(bits) if count)
            self._served.write(at * 8, struct.pack("=Q", word))
        self._stale_words.clear()

    def _count_bit(self, address: bytes, by: int) -> None:
        bit = served_bit(address)
        before = self._bits[bit]
        self._bits[bit] = before + by
        if not before or not self._bits[bit]:
            self._stale_words.add(bit // _WORD_BITS)

    def _add(self, users: dict[bytes, int], address: bytes, more: int) -> bool:
        """Count so many more users; tells whether they are the first."""
        present = users.get(address, 0)
        users[address] = present + more
        if not present:
            self._stale.add(address)
        return not present

    def _drop(self, users: dict[bytes, int], address: bytes, less: int) -> bool:
        """Count so many users less; tells whether they were the last.

        Those that somebody else wrote were never counted.
        """
        present = users.pop(address, 0)
        if present > less:
            users[address] = present - less
            return False
        self._stale.add(address)
        return present > 0

    def _write(self, stale: Collection[bytes]) -> None:
        """Make ``hosts`` say what these addresses are now."""
        keys, values, own = list[bytes](), list[bytes](), self._own or frozenset()
        for address in stale:
            endpoint, service = address in self._endpoints, address in self._services
            local = endpoint and (service or address in own)
            (self._local.add if local else self._local.discard)(address)
            if endpoint or service:
                keys.append(_key(address))
                values.append(_LOCAL if local else _KNOWN)
            else:
                maps.delete(self._hosts, _key(address), "forget an address")
        together = b"".join(keys), b"".join(values)
        maps.update_all(self._hosts, *together, len(keys), "note addresses", room="--endpoints or --rules")


def _key(address: bytes) -> bytes:
    return address.ljust(_KEY, b"\0")
