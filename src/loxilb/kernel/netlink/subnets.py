# SPDX-License-Identifier: Apache-2.0
"""Which interface connects the subnet of a service address. No I/O."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from loxilb.model import IPAddress, Port
from loxilb.model.port import IfIndex


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """A subnet's way in, as the neighbours know it; equal as long as they need not be told anything new.

    ``carrier_changes`` differs after the link was away, however short.
    """

    index: IfIndex
    name: str
    mac: bytes
    carrier_changes: int


def connection_of(port: Port) -> Connection:
    """Return what an interface is to its neighbours now."""
    return Connection(index=port.index, name=port.name, mac=port.mac, carrier_changes=port.carrier_changes)


def connected(address: IPAddress, ports: Sequence[Port], *, preferred: int | None) -> Connection | None:
    """Return by which interface ``address`` is on link, None where no interface that works has its subnet.

    The longest prefix counts; ``preferred`` (an interface's index) among those that are equally long, else the
    lowest index. Host addresses connect nothing, nor do ports of a bridge, bond or VRF.
    """
    found = [
        (interface.network.prefixlen, port.index == preferred, -port.index, port)
        for port in ports
        if port.up and port.carrier and port.master is None
        for interface in port.addresses
        if interface.network.prefixlen < interface.max_prefixlen and address in interface.network
    ]
    return connection_of(max(found, key=lambda one: one[:3])[-1]) if found else None


def has(ports: Iterable[Port], address: IPAddress) -> bool:
    """Tell whether an interface has ``address``."""
    return any(interface.ip == address for port in ports for interface in port.addresses)
