# SPDX-License-Identifier: Apache-2.0
"""Network interfaces as the load balancer sees them."""

from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Interface, IPv6Interface
from typing import NewType

from loxilb.model.flow import Counter

IfIndex = NewType("IfIndex", int)
IPInterface = IPv4Interface | IPv6Interface


class LinkKind(Enum):
    """What kind of device a port is, as far as forwarding cares."""

    PHYSICAL = "physical"
    VETH = "veth"
    BRIDGE = "bridge"
    BOND = "bond"
    VLAN = "vlan"
    VXLAN = "vxlan"
    TUN = "tun"
    LOOPBACK = "loopback"
    OTHER = "other"


XDP_BY_DEFAULT = (LinkKind.PHYSICAL, LinkKind.BOND)
"""Kinds of devices that take an XDP program where nobody says otherwise; the others are served at TC alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """One interface of the daemon's network namespace.

    ``mac`` is six bytes (empty for devices without one). ``up`` is the administrative state, ``carrier`` the link,
    ``carrier_changes`` how often that came or went.
    ``peer_elsewhere`` is true for a veth whose other end is in another network namespace.
    """

    index: IfIndex
    name: str
    kind: LinkKind
    mac: bytes
    mtu: int
    up: bool
    carrier: bool
    carrier_changes: int = 0
    master: IfIndex | None = None
    peer_elsewhere: bool = False
    addresses: tuple[IPInterface, ...] = ()
    received: Counter = field(default_factory=Counter)
    sent: Counter = field(default_factory=Counter)
    receive_errors: int = 0
    send_errors: int = 0
    hooks: tuple[str, ...] = ()
