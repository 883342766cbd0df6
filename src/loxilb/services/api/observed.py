# SPDX-License-Identifier: Apache-2.0
"""What the kernel reports, as answers: interfaces."""

from collections.abc import Sequence

from loxiapi import wire
from loxilb.model import LinkKind, Port
from loxilb.model.port import IPInterface

_PORT_REAL, _PORT_IN_BOND, _PORT_BOND, _PORT_IN_BRIDGE, _PORT_BRIDGE, _PORT_VXLAN = 1, 2, 4, 8, 16, 64
_KIND_BITS = {LinkKind.BRIDGE: _PORT_BRIDGE, LinkKind.BOND: _PORT_BOND, LinkKind.VXLAN: _PORT_VXLAN}
_MASTER_BITS = {LinkKind.BRIDGE: _PORT_IN_BRIDGE, LinkKind.BOND: _PORT_IN_BOND}
_NO_MAC = bytes(6)


def ports_of(ports: Sequence[Port]) -> list[wire.PortEntry]:
    """Convert interfaces; masters are looked up among them."""
    by_index = {port.index: port for port in ports}
    return [_port_of(port, by_index.get(port.master) if port.master else None) for port in ports]


def _port_of(port: Port, master: Port | None) -> wire.PortEntry:
    mac = port.mac or _NO_MAC
    return wire.PortEntry(
        name=port.name,
        number=port.index,
        zone="root",
        software=wire.PortSoftware(
            os_id=port.index,
            port_type=_type_of(port, master),
            active=port.up,
            bpf_loaded=bool(port.hooks),
        ),
        hardware=wire.PortHardware(
            raw_mac=list(mac),
            mac=mac.hex(":"),
            link=port.carrier,
            state=port.up,
            mtu=port.mtu,
            master=master.name if master else "",
        ),
        statistics=wire.PortStatistics(
            received_bytes=port.received.bytes,
            sent_bytes=port.sent.bytes,
            received_packets=port.received.packets,
            sent_packets=port.sent.packets,
            receive_errors=port.receive_errors,
            send_errors=port.send_errors,
        ),
        layer3=_layer3_of(port.addresses),
        layer2=wire.PortLayer2(),
    )


def _type_of(port: Port, master: Port | None) -> int:
    return _KIND_BITS.get(port.kind, _PORT_REAL) | (_MASTER_BITS.get(master.kind, 0) if master else 0)


def _layer3_of(addresses: Sequence[IPInterface]) -> wire.PortLayer3:
    shown = [address for address in addresses if not address.ip.is_link_local or address.version == 4]
    return wire.PortLayer3(
        routed=bool(shown),
        ipv4=[_addresses_text([address for address in shown if address.version == 4])],
        ipv6=[_addresses_text([address for address in shown if address.version == 6])],
    )


def _addresses_text(addresses: Sequence[IPInterface]) -> str:
    """Mark the first address of a network as primary (P), the others as secondary (S)."""
    seen = set()
    text = ""
    for address in addresses:
        text += f"{address} ({'S' if address.network in seen else 'P'}) "
        seen.add(address.network)
    return text
