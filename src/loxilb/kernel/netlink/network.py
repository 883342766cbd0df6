# SPDX-License-Identifier: Apache-2.0
"""``Network``: the host side of the load balancer, over rtnetlink (rtnetlink(7), pyroute2)."""

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import TracebackType
from typing import ParamSpec, TypeVar

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from loxilb.errors import KernelError
from loxilb.kernel.netlink.addresses import present, routes_to
from loxilb.kernel.netlink.announce import Announcer
from loxilb.kernel.netlink.batch import Batches
from loxilb.kernel.netlink.events import HeldAddressRemoved, NetworkEvent, Tracker, drain, subscribe
from loxilb.kernel.netlink.holdings import LOOPBACK, Holdings
from loxilb.kernel.netlink.host import HostSwitches
from loxilb.kernel.netlink.links import IFF_UP, ports_of
from loxilb.model import IPAddress, Port
from loxilb.model.port import IfIndex

_P = ParamSpec("_P")
_R = TypeVar("_R")
_GATHER_S = 0.01  # bursts of messages become one event
_IPV6_OFF = "IPv6 is switched off: sysctl -w net.ipv6.conf.all.disable_ipv6=0, or that of the interface"


class Network:
    """Interfaces, routes and service addresses of one network namespace (``ports.Links``, ``ports.VipHost``).

    It works in the namespace of the thread that creates it. All netlink requests run on one worker
    thread, one after the other, so any method may be called from any thread.
    """

    def __init__(self) -> None:
        """Connect, and find the addresses an earlier process left in our name; raises KernelError."""
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="netlink")
        self._announcer = Announcer()
        self._tracker = Tracker()
        self._holdings: Holdings
        self._netlink: IPRoute
        self._batches: Batches
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
        return self._call(f"route to {destination}", self._source_for, destination)

    def way_to(self, destination: IPAddress) -> IfIndex | None:
        """Return the interface towards ``destination``; None without a route, or where it is this host."""
        return self._call(f"route to {destination}", self._way_to, destination)

    def hold(self, *addresses: IPAddress) -> None:
        """Own ``addresses``, all or none, and announce those on link; one the host already has is left alone."""
        if addresses:
            self._call(f"hold {_some(addresses)}", self._hold, *addresses)

    def release(self, *addresses: IPAddress) -> None:
        """Give up those of ``addresses`` that are marked as ours, by this process or an earlier one, all or none."""
        if addresses:
            self._call(f"release {_some(addresses)}", self._release, *addresses)

    def refresh(self) -> None:
        """Follow the subnets of the held addresses: move and announce what is new there. Raises KernelError."""
        self._call("refresh service addresses", self._refresh)

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
            news = [event for event in news if not self._is_own(event)]
            if news:
                yield news

    def _is_own(self, event: NetworkEvent) -> bool:
        """Tell whether an event only says that we gave an address up, or moved it."""
        return isinstance(event, HeldAddressRemoved) and not self._holdings.is_on(event.address, event.index)

    def _call(self, operation: str, work: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
        with kernel_errors(operation):
            return self._worker.submit(work, *args, **kwargs).result()

    def _resynchronise(self) -> list[NetworkEvent]:
        return self._call("list neighbours", self._dump_tracked)

    # What follows runs on the worker thread.

    def _open(self) -> None:
        self._switches = HostSwitches()
        self._netlink = IPRoute()
        self._channel = subscribe()
        self._dump_tracked()
        self._batches = Batches.open()
        self._holdings = Holdings(self._netlink, self._batches, self._announcer)

    def _close(self) -> None:
        self._batches.close()
        self._netlink.close()
        self._channel.close()

    def _dump_tracked(self) -> list[NetworkEvent]:
        return self._tracker.reset(self._netlink.get_links(), self._netlink.get_neighbours())

    def _ports(self) -> tuple[Port, ...]:
        return ports_of(self._netlink.get_links(), present(self._batches))

    def _source_for(self, destination: IPAddress) -> IPAddress | None:
        return routes_to(self._batches, [destination])[0].source

    def _way_to(self, destination: IPAddress) -> IfIndex | None:
        (found,) = routes_to(self._batches, [destination])
        return None if found.local or found.interface is None else IfIndex(found.interface)

    def _hold(self, *addresses: IPAddress) -> None:
        if any(address not in self._holdings for address in addresses):
            self._raise_loopback()
            self._holdings.hold(*addresses)

    def _release(self, *addresses: IPAddress) -> None:
        self._holdings.release(*addresses)

    def _refresh(self) -> None:
        if len(self._holdings):
            self._netlink.link("set", index=LOOPBACK, state="up")  # somebody may have taken it down
        self._holdings.refresh()

    def _raise_loopback(self) -> None:
        (loopback,) = self._netlink.get_links(LOOPBACK)
        if not loopback["flags"] & IFF_UP:  # as in a new namespace; nothing on it is reachable then
            self._switches.remember_loopback_down()
            self._netlink.link("set", index=LOOPBACK, state="up")

    def _enable_forwarding(self) -> None:
        self._raise_loopback()
        self._switches.enable_forwarding()

    def _remove_all(self) -> int:
        removed = self._holdings.release_all() + self._switches.remembered
        if self._switches.restore():
            self._netlink.link("set", index=LOOPBACK, state="down")
        return removed


@contextmanager
def kernel_errors(operation: str) -> Iterator[None]:
    """Have what rtnetlink refuses raised as KernelError, named by the operation."""
    try:
        yield
    except NetlinkError as error:
        raise KernelError(operation, error.code, remedy=_remedy(error.code)) from error
    except OSError as error:
        code = error.errno or errno.EIO
        raise KernelError(operation, code, remedy=_remedy(code, of_a_file=error.filename is not None)) from error


def _some(addresses: Sequence[IPAddress]) -> str:
    return str(addresses[0]) if len(addresses) == 1 else f"{len(addresses)} addresses, {addresses[0]} and others"


def _remedy(code: int, *, of_a_file: bool = False) -> str:
    if code == errno.EAGAIN:
        return "addresses change without a break: find out what changes them, with ip monitor address"
    if code == errno.EACCES and not of_a_file:  # of inet6_addr_add() in the kernel; who may not is told EPERM
        return _IPV6_OFF
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
