# SPDX-License-Identifier: Apache-2.0
"""What the data plane and the kernel report, as answers: flows and interfaces."""

from collections.abc import Mapping, Sequence

from loxiapi import wire
from loxilb.model import Flow, FlowState, LinkKind, Mode, Port
from loxilb.model.port import IPInterface
from loxilb.ports import FlowStatus

_TCP, _UDP, _SCTP, _ICMP, _ICMP6 = 6, 17, 132, 1, 58
_PROTOCOL_WORDS = {_TCP: "tcp", _UDP: "udp", _SCTP: "sctp", _ICMP: "icmp", _ICMP6: "icmp6"}

_TCP_WORDS = {
    FlowState.NONE: "closed",
    FlowState.SYN_SENT: "sync-sent",
    FlowState.SYN_RECEIVED: "sync-ack",
    FlowState.ESTABLISHED: "est",
    FlowState.CLOSING: "fini",
    FlowState.TIME_WAIT: "closed-wait",
    FlowState.RESET: "h/e",
}
_SCTP_WORDS = {
    FlowState.NONE: "closed",
    FlowState.SYN_SENT: "init",
    FlowState.SYN_RECEIVED: "init-ack",
    FlowState.ESTABLISHED: "est",
    FlowState.CLOSING: "shut",
    FlowState.TIME_WAIT: "shut-complete",
    FlowState.RESET: "abort",
}
_UDP_WORDS = {FlowState.NONE: "closed", FlowState.ONE_WAY: "udp-uni", FlowState.TWO_WAY: "udp-est"}
_ICMP_WORDS = {FlowState.NONE: "closed", FlowState.ONE_WAY: "req-sent", FlowState.TWO_WAY: "bidir"}
_STATE_WORDS: Mapping[int, Mapping[FlowState, str]] = {
    _TCP: _TCP_WORDS,
    _SCTP: _SCTP_WORDS,
    _UDP: _UDP_WORDS,
    _ICMP: _ICMP_WORDS,
    _ICMP6: _ICMP_WORDS,
}
_ONE_SIDED = {Mode.DEFAULT: ("dnat", "snat"), Mode.DSR: ("ddsr", "sdsr")}

_PORT_REAL, _PORT_IN_BOND, _PORT_BOND, _PORT_IN_BRIDGE, _PORT_BRIDGE, _PORT_VXLAN = 1, 2, 4, 8, 16, 64
_KIND_BITS = {LinkKind.BRIDGE: _PORT_BRIDGE, LinkKind.BOND: _PORT_BOND, LinkKind.VXLAN: _PORT_VXLAN}
_MASTER_BITS = {LinkKind.BRIDGE: _PORT_IN_BRIDGE, LinkKind.BOND: _PORT_IN_BOND}
_NO_MAC = bytes(6)


def conntrack_of(status: FlowStatus) -> wire.ConntrackEntry:
    """Convert one direction of a flow."""
    flow = status.flow
    return wire.ConntrackEntry(
        destination_ip=str(flow.destination),
        source_ip=str(flow.source),
        destination_port=flow.destination_port,
        source_port=flow.source_port,
        protocol=_PROTOCOL_WORDS.get(flow.protocol, str(flow.protocol)),
        ident="0:0",
        state=_STATE_WORDS.get(flow.protocol, {}).get(flow.state, "unk"),
        act=_act_of(flow),
        packets=flow.counter.packets,
        bytes=flow.counter.bytes,
        service_name=status.service_name,
    )


def _act_of(flow: Flow) -> str:
    """Say what becomes of the packets, for example ``fdnat-<source>,<endpoint>:<port>:w0``."""
    port = flow.new_source_port if flow.reply else flow.new_destination_port
    if flow.mode in _ONE_SIDED:
        word = _ONE_SIDED[flow.mode][flow.reply]
        return f"{word}-{flow.new_source if flow.reply else flow.new_destination}:{port}:w0"
    word = "fsnat" if flow.reply else "fdnat"
    return f"{word}-{flow.new_source},{flow.new_destination}:{port}:w0"


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
