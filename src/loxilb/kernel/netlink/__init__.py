# SPDX-License-Identifier: Apache-2.0
"""Interfaces, addresses, routes and neighbours of the daemon's network namespace, over rtnetlink.

Belongs here: everything that talks to rtnetlink, and the host's duties that go with it (owning and announcing
service addresses, forwarding switched on). Does not belong here: the packet path, policy about when to do
what.
"""

from loxilb.kernel.netlink.events import HeldAddressRemoved, LinkChanged, LinkRemoved, NetworkEvent, RoutesChanged
from loxilb.kernel.netlink.links import interface_name
from loxilb.kernel.netlink.network import Network

__all__ = [
    "HeldAddressRemoved",
    "LinkChanged",
    "LinkRemoved",
    "Network",
    "NetworkEvent",
    "RoutesChanged",
    "interface_name",
]
