# SPDX-License-Identifier: Apache-2.0
"""Translation of link and address messages (linux/if_link.h, linux/if_addr.h) into ``model.Port``."""

import socket
from collections import defaultdict
from collections.abc import Iterable
from ipaddress import ip_interface
from typing import Any

from loxilb.model import Counter, LinkKind, Port
from loxilb.model.port import IfIndex, IPInterface

Message = Any  # pyroute2 messages have no types of their own

ADDRESS_METRIC = 11111
"""IFA_RT_PRIORITY of the addresses that are ours (``metric 11111`` in ``ip address``).

It is the one attribute that the kernel keeps for both families (Linux 4.18) and that does nothing on a host
address, which has no prefix route. A later process tells our addresses by it.
"""

IFF_UP = 0x1
_ARPHRD_ETHER = 1
_ARPHRD_LOOPBACK = 772
_KINDS = {
    "veth": LinkKind.VETH,
    "bridge": LinkKind.BRIDGE,
    "bond": LinkKind.BOND,
    "vlan": LinkKind.VLAN,
    "vxlan": LinkKind.VXLAN,
    "tun": LinkKind.TUN,
}


def kind_of(link: Message) -> LinkKind:
    """Return the kind of a link: what the driver says, else what its hardware type says."""
    name = link.get(("linkinfo", "kind"))
    if name is not None:
        return _KINDS.get(name, LinkKind.OTHER)
    if link["ifi_type"] == _ARPHRD_LOOPBACK:
        return LinkKind.LOOPBACK
    return LinkKind.PHYSICAL if link["ifi_type"] == _ARPHRD_ETHER else LinkKind.OTHER


def mac_of(link: Message) -> bytes:
    """Return the link-layer address of an Ethernet device, b"" for a device of another type."""
    if link["ifi_type"] != _ARPHRD_ETHER:
        return b""
    return bytes.fromhex((link.get("address") or "").replace(":", ""))


def port_of(link: Message, addresses: tuple[IPInterface, ...]) -> Port:
    """Build the port of one link message."""
    kind = kind_of(link)
    stats = link.get("stats64") or defaultdict(int)
    master = link.get("master")
    return Port(
        index=IfIndex(link["index"]),
        name=link.get("ifname"),
        kind=kind,
        mac=mac_of(link),
        mtu=link.get("mtu"),
        up=bool(link["flags"] & IFF_UP),
        carrier=bool(link.get("carrier")),
        carrier_changes=link.get("carrier_changes") or 0,
        master=IfIndex(master) if master else None,
        peer_elsewhere=kind is LinkKind.VETH and link.get("link_netnsid") is not None,
        addresses=addresses,
        received=Counter(packets=stats["rx_packets"], bytes=stats["rx_bytes"]),
        sent=Counter(packets=stats["tx_packets"], bytes=stats["tx_bytes"]),
        receive_errors=stats["rx_errors"],
        send_errors=stats["tx_errors"],
    )


def ports_of(links: Iterable[Message], addresses: Iterable[Message]) -> tuple[Port, ...]:
    """Build the ports of a link dump and an address dump, ordered by index."""
    by_index: dict[int, list[IPInterface]] = defaultdict(list)
    for message in addresses:
        # IFA_ADDRESS is the far end of a point-to-point link, IFA_LOCAL ours where both are given.
        local = message.get("local") or message.get("address")
        by_index[message["index"]].append(ip_interface(f"{local}/{message['prefixlen']}"))
    ports = (port_of(link, tuple(by_index[link["index"]])) for link in links)
    return tuple(sorted(ports, key=lambda port: port.index))


def interface_name(index: int) -> str:
    """Return the name of an interface of the calling thread's namespace; "" where there is none."""
    try:
        return socket.if_indextoname(index)
    except OSError:
        return ""
