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

_PRESENT = struct.pack("=I", 1)


def served_bit(address: IPAddress) -> int:
    """Return the bit of ``served`` that stands for an address (``LOX_SERVED_FACTOR`` in bpf/abi.h)."""
    word = 0
    for (part,) in struct.iter_unpack("=I", address.packed):
        word ^= part
    return (word * abi.SERVED_FACTOR & 0xFFFFFFFF) >> 16


class HostIndex:
    """Reference counts of addresses, and the two maps that follow from them."""

    def __init__(self, hosts: int, served: ArrayView) -> None:
        """Take the descriptor of ``hosts`` and a writable view of ``served``; call :meth:`rebuild` next."""
        self._hosts = hosts
        self._served = served
        self._users: Counter[IPAddress] = Counter()
        self._bits: Counter[int] = Counter()

    def rebuild(self, services: Iterable[IPAddress], endpoints: Iterable[IPAddress]) -> None:
        """Count anew what is programmed and make the maps agree; raises KernelError."""
        self._users.clear()
        self._bits.clear()
        for address in services:
            self.add_service(address)
        for address in endpoints:
            self.add(address)
        wanted = {_key(address) for address in self._users}
        for key, _ in tuple(maps.dump(self._hosts, 16, 4)):
            if key not in wanted:
                maps.delete(self._hosts, key, "forget an address")
        for at in range(abi.SERVED_BITS // 64):
            self._write_word(at)

    def add_service(self, address: IPAddress) -> None:
        """Note one more listener on ``address``; raises KernelError."""
        self.add(address)
        bit = served_bit(address)
        self._bits[bit] += 1
        if self._bits[bit] == 1:
            self._write_word(bit // 64)

    def drop_service(self, address: IPAddress) -> None:
        """Note one listener less on ``address``; raises KernelError."""
        self.drop(address)
        bit = served_bit(address)
        self._bits[bit] -= 1
        if not self._bits[bit]:
            del self._bits[bit]
            self._write_word(bit // 64)

    def add(self, address: IPAddress) -> None:
        """Note one more user of ``address``; raises KernelError."""
        self._users[address] += 1
        if self._users[address] == 1:
            maps.update(self._hosts, _key(address), _PRESENT, f"note address {address}")

    def drop(self, address: IPAddress) -> None:
        """Note one user of ``address`` less; raises KernelError."""
        self._users[address] -= 1
        if not self._users[address]:
            del self._users[address]
            maps.delete(self._hosts, _key(address), f"forget address {address}")

    def _write_word(self, at: int) -> None:
        word = sum(1 << bit for bit in range(64) if self._bits.get(at * 64 + bit))
        self._served.write(at * 8, struct.pack("=Q", word))


def _key(address: IPAddress) -> bytes:
    return address.packed.ljust(16, b"\0")
