# SPDX-License-Identifier: Apache-2.0
"""A host in memory: the addresses it holds, its interfaces and its routes."""

import asyncio
import errno
from collections.abc import AsyncIterator, Sequence

from loxilb.errors import KernelError
from loxilb.kernel.netlink import NetworkEvent
from loxilb.kernel.netlink.holdings import LOOPBACK
from loxilb.kernel.netlink.subnets import Connection, connected, has
from loxilb.model import IPAddress, Port
from loxilb.model.port import IfIndex


class FakeVipHost:
    """``loxilb.ports.VipHost`` in memory.

    ``addresses`` is what the host has, those it was given at first included; an address in ``refused`` can
    neither be added, moved nor removed. ``places`` says on which of the ``interfaces`` each held address is,
    ``announced`` where each was announced, in order. An interface that is down has lost the IPv6 addresses it held.
    """

    def __init__(self, present: Sequence[IPAddress] = ()) -> None:
        """Start with the addresses ``present``, which are never removed."""
        self.addresses: set[IPAddress] = set(present)
        self.refused: set[IPAddress] = set()
        self.interfaces: list[Port] = []
        self.places: dict[IPAddress, int] = {}
        self.announced: list[tuple[IPAddress, str]] = []
        self._told: dict[IPAddress, Connection] = {}

    def hold(self, *addresses: IPAddress) -> None:
        """Own ``addresses``, all or none; raises KernelError."""
        new = [one for one in addresses if one not in self.addresses and not has(self.interfaces, one)]
        for address in new:
            self._check(address, "add address")
        for address in dict.fromkeys(new):
            self.addresses.add(address)
            self.places[address] = LOOPBACK
            self._settle(address)

    def release(self, *addresses: IPAddress) -> None:
        """Give those of ``addresses`` up that ``hold`` added, all or none; raises KernelError."""
        held = [one for one in dict.fromkeys(addresses) if one in self.places]
        for address in held:
            self._check(address, "delete address")
        for address in held:
            self._told.pop(address, None)
            del self.places[address]
            self.addresses.remove(address)

    def refresh(self) -> None:
        """Follow the interfaces; raises KernelError for the first address that is refused, after all others."""
        failure = None
        for address in self.places:
            try:
                self._settle(address)
            except KernelError as error:
                failure = failure or error
        if failure is not None:
            raise failure

    def _settle(self, address: IPAddress) -> None:
        told, place = self._told.get(address), self.places[address]
        link = None
        if not has(self.interfaces, address):
            link = connected(address, self.interfaces, preferred=told.index if told else place)
        lost = place not in (LOOPBACK, *(port.index for port in self.interfaces if port.up))
        wanted = LOOPBACK if lost else place
        if link is not None:
            wanted = link.index if address.version == 6 else LOOPBACK
        if wanted != place:
            self._check(address, "move address")
            self.places[address] = wanted
        if link is None:
            self._told.pop(address, None)
        elif link != told:
            self._told[address] = link
            self.announced.append((address, link.name))

    def _check(self, address: IPAddress, operation: str) -> None:
        if address.version == 6 and address.is_multicast:
            raise KernelError(operation, errno.EADDRNOTAVAIL, detail=str(address))
        if address in self.refused:
            raise KernelError(operation, errno.EPERM, detail=str(address))


class FakeLinks:
    """``loxilb.ports.Links`` in memory; ``routes`` maps a destination to the address to send from.

    An address leads to the interface whose subnet it is in.
    """

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

    def way_to(self, destination: IPAddress) -> IfIndex | None:
        """Return the interface towards ``destination``; None without a route, or where it is this host."""
        own = {one.ip for port in self.interfaces for one in port.addresses}
        near = (port.index for port in self.interfaces for one in port.addresses if destination in one.network)
        return None if destination in own else next(near, None)


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
