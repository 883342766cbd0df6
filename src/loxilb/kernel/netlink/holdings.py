# SPDX-License-Identifier: Apache-2.0
"""The service addresses that this host holds: where each is, and who was told."""

import errno
import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from pyroute2 import IPRoute

from loxilb.kernel.netlink.addresses import adding, present, removing, routes_to
from loxilb.kernel.netlink.announce import Announcer, Station
from loxilb.kernel.netlink.batch import Batches, Request
from loxilb.kernel.netlink.links import ADDRESS_METRIC, Message, port_of, ports_of
from loxilb.kernel.netlink.subnets import Connection, connected, connection_of, has
from loxilb.model import IPAddress, Port

LOOPBACK = 1  # LOOPBACK_IFINDEX, the same in every namespace
_GONE = {errno.EADDRNOTAVAIL, errno.ENODEV}  # alone or with its interface


_Step = Callable[[IPAddress, int], Request]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Host:
    """The host as it is: interfaces with the addresses of others, and where those are that are marked as ours."""

    ports: tuple[Port, ...]
    ours: Mapping[IPAddress, Collection[int]]


class Holdings:
    """Holds addresses and announces them; one thread at a time.

    An address is /32 or /128 on the loopback; an IPv6 address inside a connected subnet is on that interface,
    since the kernel answers neighbour solicitations only for addresses of the interface they come in on (it answers
    ARP for any address it has). IPv6 addresses are added as deprecated (RFC 4862 §5.5.4), so that the host
    does not choose them as a source. All methods raise NetlinkError and OSError.
    """

    def __init__(self, netlink: IPRoute, batches: Batches, announcer: Announcer) -> None:
        """Find the addresses an earlier process left in our name."""
        self._netlink = netlink
        self._batches = batches
        self._announcer = announcer
        self._told: dict[IPAddress, Connection] = {}
        self._held = {address: indexes[-1] for address, indexes in _ours(present(batches)).items()}

    def __len__(self) -> int:
        """How many addresses are held."""
        return len(self._held)

    def __contains__(self, address: IPAddress) -> bool:
        """Tell whether an address is held."""
        return address in self._held

    def is_on(self, address: IPAddress, index: int) -> bool:
        """Tell whether an address is held on an interface; for any thread."""
        return self._held.get(address) == index

    def hold(self, *addresses: IPAddress) -> None:
        """Own ``addresses``, all or none, and announce those on link; one the host already has is left alone."""
        wanted = [address for address in dict.fromkeys(addresses) if address not in self._held]
        routes = dict(zip(wanted, routes_to(self._batches, wanted), strict=True))
        on_link = {address: route.on_link for address, route in routes.items() if not route.local}
        places = {
            address: index if index is not None and address.version == 6 else LOOPBACK
            for address, index in on_link.items()
        }
        # Before anything changes: a link may be gone by now.
        links = {index: self._link(index) for index in set(on_link.values()) if index is not None}
        self._change(adding, places, removing)
        self._held.update(places)
        for address, index in on_link.items():
            if index is not None:
                self._announce(address, links[index])

    def release(self, *addresses: IPAddress) -> None:
        """Give up those of ``addresses`` that are held, all or none."""
        # The kernel looks an interface's addresses through from the first it was given, those of IPv6 from the last.
        order: list[IPAddress] = [one for one in addresses if one.version == 4]
        order += [one for one in reversed(addresses) if one.version == 6]
        places = {address: self._held[address] for address in order if address in self._held}
        self._announcer.withdraw(places.keys())
        self._change(removing, places, adding, fine=_GONE)
        for address in places:
            del self._held[address]
            self._told.pop(address, None)

    def _change(self, step: _Step, places: Mapping[IPAddress, int], back: _Step, fine: Collection[int] = ()) -> None:
        """Add or remove all addresses at their places, or none; errors in ``fine`` are none."""
        replies = self._batches.carry_out([step(address, index) for address, index in places.items()])
        failed = next((one.error for one in replies if one.error and one.error not in fine), 0)
        if failed:
            done = [place for place, one in zip(places.items(), replies, strict=True) if not one.error]
            self._batches.carry_out([back(address, index) for address, index in done])
            raise OSError(failed, os.strerror(failed))

    def _link(self, index: int) -> Connection:
        (link,) = self._netlink.get_links(index)
        return connection_of(port_of(link, ()))

    def release_all(self) -> int:
        """Give up all that is marked as ours, by whichever process; return how many there were."""
        ours = _ours(present(self._batches))
        self._announcer.withdraw(ours)
        everywhere = [(address, index) for address, indexes in ours.items() for index in indexes]
        replies = self._batches.carry_out([removing(address, index) for address, index in everywhere])
        failed = next((one.error for one in replies if one.error and one.error not in _GONE), 0)
        if failed:
            raise OSError(failed, os.strerror(failed))
        self._held, self._told = {}, {}
        return len(ours)

    def refresh(self) -> None:
        """Follow the subnets: each address to where it belongs now, announced where its link is new or came back.

        One that fails does not keep the others from it; the first error is raised at the end.
        """
        if not self._held:
            return
        host, failure, news = self._look(), None, {}
        for address in self._held:
            link = self._connection(address, host.ports)
            try:
                self._place(address, link, host)
            except OSError as error:
                failure = failure or error
                continue
            if self._told.get(address) != link:
                news[address] = link
        self._announcer.withdraw(news)  # what is still to be repeated is no longer true
        for address, new in news.items():
            self._told.pop(address, None)
            if new is not None:
                self._announce(address, new)
        if failure is not None:
            raise failure

    def _look(self) -> _Host:
        messages = present(self._batches)
        foreign = [message for message in messages if not _is_ours(message)]
        return _Host(ports=ports_of(self._netlink.get_links(), foreign), ours=_ours(messages))

    def _connection(self, address: IPAddress, ports: tuple[Port, ...]) -> Connection | None:
        """Return where to announce ``address``; nowhere, where somebody else gave it to the host meanwhile."""
        told = self._told.get(address)
        preferred = told.index if told else self._held[address]
        return None if has(ports, address) else connected(address, ports, preferred=preferred)

    def _place(self, address: IPAddress, link: Connection | None, host: _Host) -> None:
        """Bring ``address`` to its interface, there first; it may have gone down with the one it was on."""
        present = host.ours.get(address, ())
        index = self._held[address]
        if link is not None:
            index = link.index if address.version == 6 else LOOPBACK
        elif index not in present:
            index = LOOPBACK
        if index not in present:
            if has(host.ports, address):
                return
            self._add(address, index)
        self._held[address] = index
        for other in present:
            if other != index:
                self._remove(address, other)

    def _add(self, address: IPAddress, index: int) -> None:
        self._change(adding, {address: index}, removing)

    def _remove(self, address: IPAddress, index: int) -> None:
        self._change(removing, {address: index}, adding, fine=_GONE)

    def _announce(self, address: IPAddress, link: Connection) -> None:
        self._told[address] = link
        if len(link.mac) == 6:
            self._announcer.announce(address, Station(name=link.name, mac=link.mac))


def _is_ours(message: Message) -> bool:
    if message.get("rt_priority") != ADDRESS_METRIC:
        return False
    return bool(message["prefixlen"] == _address(message).max_prefixlen)


def _address(message: Message) -> IPAddress:
    address: IPAddress = message.get("local") or message.get("address")
    return address


def _ours(messages: Iterable[Message]) -> dict[IPAddress, list[int]]:
    """Return where each address is that is marked as ours: one place, two where a process died moving it."""
    found = defaultdict(list)
    for message in messages:
        if _is_ours(message):
            found[_address(message)].append(message["index"])
    return dict(found)
