# SPDX-License-Identifier: Apache-2.0
"""``Network``: the host side of the load balancer, over rtnetlink (rtnetlink(7), pyroute2)."""

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from types import TracebackType
from typing import ParamSpec, TypeVar

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from loxilb.errors import KernelError
from loxilb.kernel.netlink.announce import Announcer, Station
from loxilb.kernel.netlink.events import NetworkEvent, Tracker, drain, subscribe
from loxilb.kernel.netlink.host import HostSwitches
from loxilb.kernel.netlink.links import ADDRESS_METRIC, IFF_UP, mac_of, ports_of
from loxilb.model import IPAddress, Port

_P = ParamSpec("_P")
_R = TypeVar("_R")
_LOOPBACK = 1  # LOOPBACK_IFINDEX, the same in every namespace
_RTN_UNICAST, _RTN_LOCAL = 1, 2
_IFA_F_NODAD = 0x02
_IFA_F_NOPREFIXROUTE = 0x200
_NO_ROUTE = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL}
_GATHER_S = 0.01  # bursts of messages become one event


@dataclass(frozen=True, slots=True, kw_only=True)
class _Route:
    """What the kernel would do with a packet: ``on_link`` is the interface when there is no gateway."""

    local: bool = False
    on_link: int | None = None
    source: IPAddress | None = None


class Network:
    """Interfaces, routes and service addresses of one network namespace (``ports.Links``, ``ports.VipHost``).

    It works in the namespace of the thread that creates it. All netlink requests run on one worker
    thread, one after the other, so any method may be called from any thread. A service address is held as /32
    or /128 on the loopback; an IPv6 address inside a connected subnet is held on that interface, since the
    kernel answers neighbour solicitations only for addresses of the interface they come in on (it answers ARP
    for any address it has). IPv6 addresses are added as deprecated (RFC 4862 §5.5.4), so that the host does
    not choose them as a source.
    """

    def __init__(self) -> None:
        """Connect, and find the addresses an earlier process left in our name; raises KernelError."""
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="netlink")
        self._announcer = Announcer()
        self._tracker = Tracker()
        self._held: dict[IPAddress, int] = {}
        self._netlink: IPRoute
        self._channel: socket.socket
        self._switches: HostSwitches
        try:
            self._call("open netlink", self._open)
        except KernelError:
            self._worker.shutdown()
            raise

    @classmethod
    def open(cls) -> "Network":
        """Connect; the same as the constructor, which says by its name that it does I/O."""
        return cls()

    def close(self) -> None:
        """Disconnect and leave everything as it is. End ``events`` first."""
        self._announcer.close()
        self._call("close netlink", self._close)
        self._worker.shutdown()

    def __enter__(self) -> "Network":
        """Return itself, open."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def ports(self) -> Sequence[Port]:
        """Return every interface, ordered by index; raises KernelError."""
        return self._call("list interfaces", self._ports)

    def source_for(self, destination: IPAddress) -> IPAddress | None:
        """Return the source the kernel prefers towards ``destination``; None without a route."""
        return self._call(f"route to {destination}", self._route, destination).source

    def hold(self, address: IPAddress) -> None:
        """Own ``address`` and announce it where it is on link; one the host already has is left alone."""
        self._call(f"hold {address}", self._hold, address)

    def release(self, address: IPAddress) -> None:
        """Give up ``address`` if it is marked as ours, by this process or an earlier one."""
        self._call(f"release {address}", self._release, address)

    def enable_forwarding(self) -> None:
        """Switch on forwarding and bring the loopback up; ``remove_all`` undoes it. Raises KernelError."""
        self._call("enable forwarding", self._enable_forwarding)

    def remove_all(self) -> int:
        """Remove every address marked as ours and put the host's switches back; return how many of both.

        Raises KernelError.
        """
        return self._call("remove service addresses", self._remove_all)

    async def events(self) -> AsyncIterator[Sequence[NetworkEvent]]:
        """Report changes since it was opened, those that came together at once, without end. One consumer at a time."""
        while True:
            await _readable(self._channel)
            await asyncio.sleep(_GATHER_S)
            chunks, overrun = drain(self._channel)
            news = await asyncio.to_thread(self._resynchronise) if overrun else self._tracker.digest(chunks)
            if news:
                yield news

    def _call(self, operation: str, work: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
        with _kernel_errors(operation):
            return self._worker.submit(work, *args, **kwargs).result()

    def _resynchronise(self) -> list[NetworkEvent]:
        return self._call("list neighbours", self._dump_tracked)

    # What follows runs on the worker thread.

    def _open(self) -> None:
        self._switches = HostSwitches()
        self._netlink = IPRoute()
        self._channel = subscribe()
        self._dump_tracked()
        self._held = dict(self._ours())

    def _close(self) -> None:
        self._netlink.close()
        self._channel.close()

    def _dump_tracked(self) -> list[NetworkEvent]:
        return self._tracker.reset(self._netlink.get_links(), self._netlink.get_neighbours())

    def _ports(self) -> tuple[Port, ...]:
        return ports_of(self._netlink.get_links(), self._netlink.get_addr())

    def _ours(self) -> Iterator[tuple[IPAddress, int]]:
        for message in self._netlink.get_addr():
            address = ip_address(message.get("local") or message.get("address"))
            if message.get("rt_priority") == ADDRESS_METRIC and message["prefixlen"] == address.max_prefixlen:
                yield address, message["index"]

    def _route(self, destination: IPAddress) -> _Route:
        try:
            (message,) = self._netlink.route("get", dst=str(destination))
        except NetlinkError as error:
            if error.code in _NO_ROUTE:  # unreachable, prohibit and blackhole answer by an error
                return _Route()
            raise
        kind, source = message["type"], message.get("prefsrc")
        gateway = message.get("gateway") or message.get("via") or message.get("multipath")
        return _Route(
            local=kind == _RTN_LOCAL,
            on_link=message.get("oif") if kind == _RTN_UNICAST and not gateway else None,
            source=ip_address(source) if source and kind in (_RTN_UNICAST, _RTN_LOCAL) else None,
        )

    def _hold(self, address: IPAddress) -> None:
        if address in self._held:
            return
        self._raise_loopback()
        route = self._route(address)
        if route.local:
            return
        on_interface = address.version == 6 and route.on_link is not None
        index = route.on_link if on_interface and route.on_link is not None else _LOOPBACK
        self._add(address, index)
        self._held[address] = index
        if route.on_link is not None:
            self._announce(address, route.on_link)

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

    def _announce(self, address: IPAddress, index: int) -> None:
        (link,) = self._netlink.get_links(index)
        mac = mac_of(link)
        if len(mac) == 6:
            self._announcer.announce(address, Station(name=link.get("ifname"), mac=mac))

    def _release(self, address: IPAddress) -> None:
        index = self._held.get(address)
        if index is None:
            return
        self._announcer.withdraw(address)
        try:
            self._netlink.addr("del", index=index, address=str(address), prefixlen=address.max_prefixlen)
        except NetlinkError as error:
            if error.code not in (
                errno.EADDRNOTAVAIL,
                errno.ENODEV,
            ):  # gone already, alone or with its interface
                raise
        del self._held[address]

    def _raise_loopback(self) -> None:
        (loopback,) = self._netlink.get_links(_LOOPBACK)
        if not loopback["flags"] & IFF_UP:  # as in a new namespace; nothing on it is reachable then
            self._switches.remember_loopback_down()
            self._netlink.link("set", index=_LOOPBACK, state="up")

    def _enable_forwarding(self) -> None:
        self._raise_loopback()
        self._switches.enable_forwarding()

    def _remove_all(self) -> int:
        self._held = dict(self._ours())
        removed = len(self._held) + self._switches.remembered
        for address in list(self._held):
            self._release(address)
        if self._switches.restore():
            self._netlink.link("set", index=_LOOPBACK, state="down")
        return removed


@contextmanager
def _kernel_errors(operation: str) -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        raise KernelError(operation, error.code, remedy=_remedy(error.code)) from error
    except OSError as error:
        code = error.errno or errno.EIO
        raise KernelError(operation, code, remedy=_remedy(code)) from error


def _remedy(code: int) -> str:
    return "run as root or with CAP_NET_ADMIN" if code in (errno.EPERM, errno.EACCES) else ""


async def _readable(channel: socket.socket) -> None:
    """Wait until ``channel`` has something to read."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(channel, wake)
    try:
        await ready
    finally:
        loop.remove_reader(channel)
