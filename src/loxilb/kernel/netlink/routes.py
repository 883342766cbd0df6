# SPDX-License-Identifier: Apache-2.0
"""What the kernel would do with a packet (RTM_GETROUTE, rtnetlink(7))."""

import errno
from dataclasses import dataclass
from ipaddress import ip_address

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from loxilb.model import IPAddress

_RTN_UNICAST, _RTN_LOCAL = 1, 2
NO_ROUTE = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL}


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """The kernel's answer: ``on_link`` is the interface when there is no gateway, ``interface`` it in any case."""

    local: bool = False
    interface: int | None = None
    on_link: int | None = None
    source: IPAddress | None = None


def route_to(netlink: IPRoute, destination: IPAddress) -> Route:
    """Ask for the route to ``destination``; all fields are empty without one. Raises NetlinkError."""
    try:
        (message,) = netlink.route("get", dst=str(destination))
    except NetlinkError as error:
        if error.code in NO_ROUTE:  # unreachable, prohibit and blackhole answer by an error
            return Route()
        raise
    kind, source = message["type"], message.get("prefsrc")
    gateway = message.get("gateway") or message.get("via") or message.get("multipath")
    return Route(
        local=kind == _RTN_LOCAL,
        interface=message.get("oif") if kind == _RTN_UNICAST else None,
        on_link=message.get("oif") if kind == _RTN_UNICAST and not gateway else None,
        source=ip_address(source) if source and kind in (_RTN_UNICAST, _RTN_LOCAL) else None,
    )
