# SPDX-License-Identifier: Apache-2.0
"""A host in memory: the addresses it holds, its interfaces and its routes."""

import asyncio
import errno
from collections.abc import AsyncIterator, Sequence

from loxilb.errors import KernelError
from loxilb.kernel.netlink import NetworkEvent
from loxilb.model import IPAddress, Port


class FakeVipHost:
    """``loxilb.ports.VipHost`` in memory.

    ``addresses`` is what the host has, those it was given at first included; an address in ``refused`` can
    neither be added nor removed.
    """

    def __init__(self, present: Sequence[IPAddress] = ()) -> None:
        """Start with the addresses ``present``, which are never removed."""
        self.addresses: set[IPAddress] = set(present)
        self.refused: set[IPAddress] = set()
        self._held: set[IPAddress] = set()

    def hold(self, address: IPAddress) -> None:
        """Own ``address``; raises KernelError."""
        if address not in self.addresses:
            self._check(address, "add address")
            self.addresses.add(address)
            self._held.add(address)

    def release(self, address: IPAddress) -> None:
        """Give ``address`` up if ``hold`` added it; raises KernelError."""
        if address in self._held:
            self._check(address, "delete address")
            self._held.remove(address)
            self.addresses.remove(address)

    def _check(self, address: IPAddress, operation: str) -> None:
        if address in self.refused:
            raise KernelError(operation, errno.EPERM, detail=str(address))


class FakeLinks:
    """``loxilb.ports.Links`` in memory; ``routes`` maps a destination to the address to send from."""

    def __init__(self) -> None:
        """Start without interfaces and routes."""
        self.interfaces: list[Port] = []
        self.routes: dict[IPAddress, IPAddress] = {}

    def ports(self) -> Sequence[Port]:
        """Return every interface, ordered by index."""
        return sorted(self.interfaces, key=lambda port: port.index)

    def source_for(self, destination: IPAddress) -> IPAddress | None:
        """Return the address to send from towards ``destination``; None without a route."""
        return self.routes.get(destination)


class FakeNetwork(FakeVipHost, FakeLinks):
    """Both of them, with events that a test puts into ``news``; an error there is raised instead."""

    def __init__(self) -> None:
        """Start with nothing."""
        FakeVipHost.__init__(self)
        FakeLinks.__init__(self)
        self.news: asyncio.Queue[NetworkEvent | Exception] = asyncio.Queue()

    async def events(self) -> AsyncIterator[Sequence[NetworkEvent]]:
        """Report what is put into ``news``, one by one, without end."""
        while True:
            event = await self.news.get()
            if isinstance(event, Exception):
                raise event
            yield [event]
