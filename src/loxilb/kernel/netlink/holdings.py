# SPDX-License-Identifier: Apache-2.0
"""The service addresses that this host holds: where each is, and who was told."""

import errno
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from loxilb.kernel.netlink.announce import Announcer, Station
from loxilb.kernel.netlink.links import ADDRESS_METRIC, Message, port_of, ports_of
from loxilb.kernel.netlink.routes import route_to
from loxilb.kernel.netlink.subnets import Connection, connected, connection_of, has
from loxilb.model import IPAddress, Port

LOOPBACK = 1  # LOOPBACK_IFINDEX, the same in every namespace
_IFA_F_NODAD = 0x02
_IFA_F_NOPREFIXROUTE = 0x200
_GONE = {errno.EADDRNOTAVAIL, errno.ENODEV}  # alone or with its interface


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
    does not choose them as a source. All methods raise NetlinkError.
    """

    def __init__(self, netlink: IPRoute, announcer: Announcer) -> None:
        """Find the addresses an earlier process left in our name."""
        self._netlink = netlink
        self._announcer = announcer
        self._told: dict[IPAddress, Connection] = {}
        self._held = {address: indexes[-1] for address, indexes in _ours(netlink.get_addr()).items()}

    def __len__(self) -> int:
        """How many addresses are held."""
        return len(self._held)

    def __contains__(self, address: IPAddress) -> bool:
        """Tell whether an address is held."""
        return address in self._held

    def is_on(self, address: IPAddress, index: int) -> bool:
        """Tell whether an address is held on an interface; for any thread."""
        return self._held.get(address) == index

    def hold(self, address: IPAddress) -> None:
        """Own ``address`` and announce it where it is on link; one the host already has is left alone."""
        route = route_to(self._netlink, address)
        if address in self._held or route.local:
            return
        on_interface = address.version == 6 and route.on_link is not None
        index = route.on_link if on_interface and route.on_link is not None else LOOPBACK
        self._add(address, index)
        self._held[address] = index
        if route.on_link is not None:
            (link,) = self._netlink.get_links(route.on_link)
            self._announce(address, connection_of(port_of(link, ())))

    def release(self, address: IPAddress) -> None:
        """Give up ``address`` if it is held."""
        index = self._held.get(address)
        if index is None:
            return
        self._announcer.withdraw({address})
        self._remove(address, index)
        del self._held[address]
        self._told.pop(address, None)

    def release_all(self) -> int:
        """Give up all that is marked as ours, by whichever process; return how many there were."""
        ours = _ours(self._netlink.get_addr())
        self._announcer.withdraw(ours)
        for address, indexes in ours.items():
            for index in indexes:
                self._remove(address, index)
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
            except NetlinkError as error:
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
        messages = list(self._netlink.get_addr())
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
        flags = {"flags": _IFA_F_NODAD | _IFA_F_NOPREFIXROUTE, "preferred": 0} if address.version == 6 else {}
        self._netlink.addr(
            "add",
            index=index,
            address=str(address),
            prefixlen=address.max_prefixlen,
            rt_priority=ADDRESS_METRIC,
            **flags,
        )

    def _remove(self, address: IPAddress, index: int) -> None:
        try:
            self._netlink.addr("del", index=index, address=str(address), prefixlen=address.max_prefixlen)
        except NetlinkError as error:
            if error.code not in _GONE:
                raise

    def _announce(self, address: IPAddress, link: Connection) -> None:
        self._told[address] = link
        if len(link.mac) == 6:
            self._announcer.announce(address, Station(name=link.name, mac=link.mac))


def _is_ours(message: Message) -> bool:
    if message.get("rt_priority") != ADDRESS_METRIC:
        return False
    return bool(message["prefixlen"] == _address(message).max_prefixlen)


def _address(message: Message) -> IPAddress:
    return ip_address(message.get("local") or message.get("address"))


def _ours(messages: Iterable[Message]) -> dict[IPAddress, list[int]]:
    """Return where each address is that is marked as ours: one place, two where a process died moving it."""
    found = defaultdict(list)
    for message in messages:
        if _is_ours(message):
            found[_address(message)].append(message["index"])
    return dict(found)
