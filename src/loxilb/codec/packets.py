# SPDX-License-Identifier: Apache-2.0
"""Packets to be traced, what became of them, and dropped packets, between the wire and the model."""

from msgspec import structs

from loxiapi import wire
from loxilb.codec.rules import address_of
from loxilb.codec.steps import DROP_REASONS, step_of
from loxilb.codec.times import shown_time
from loxilb.errors import InvalidRequest
from loxilb.model import L4Protocol, Service
from loxilb.model.packet import TRACE_ERROR, Headers, MadePacket, TcpFlags, tcp_flags_of
from loxilb.model.service import PROTOCOLS
from loxilb.model.trace import Table, Traced, Verdict
from loxilb.ports import DropReport, TraceReport

_WORDS = {number: one.value for number, one in PROTOCOLS.items()}


def made_of(body: wire.TraceRequest) -> MadePacket:
    """Convert a request; raises InvalidRequest. An echo without identifier is a request."""
    protocol = L4Protocol(body.protocol or L4Protocol.TCP.value)
    if body.flags and protocol is not L4Protocol.TCP:
        raise InvalidRequest(TRACE_ERROR, field="flags", cause=f"{protocol.value} has none")
    source_port = body.source_port
    if protocol is L4Protocol.ICMP and not (body.source_port or body.destination_port):
        source_port = 1
    return MadePacket(
        protocol=protocol,
        source=address_of(body.source_ip, TRACE_ERROR, "sourceIP"),
        destination=address_of(body.destination_ip, TRACE_ERROR, "destinationIP"),
        source_port=source_port,
        destination_port=body.destination_port,
        flags=tcp_flags_of(body.flags) or TcpFlags.SYN,
    )


def report_of(report: TraceReport) -> wire.TraceAnswer:
    """Convert what became of a packet."""
    traced = report.traced
    last = traced.hooks[-1]
    return wire.TraceAnswer(
        interface=report.interface,
        verdict=last.verdict.value,
        reason=last.reason,
        hooks=[
            wire.TraceHook(
                hook=hook.hook,
                verdict=hook.verdict.value,
                reason=hook.reason,
                cause=hook.cause,
                step=step_of(hook, traced.table),
            )
            for hook in traced.hooks
        ],
        packet=_ends_of(headers_of(traced.made)),
        flow=_flow_of(traced),
        service=_service_of(report.service) if report.service else None,
        endpoint=_endpoint_of(traced),
        sent=_sent_of(traced),
        next_hop=_next_hop_of(report),
        untraced=" ".join(traced.untraced),
    )


def headers_of(headers: Headers) -> wire.PacketHeaders:
    """Convert what a packet says of itself."""
    protocol = headers.protocol
    return wire.PacketHeaders(
        protocol="" if protocol is None else _WORDS.get(protocol, str(protocol)),
        source_ip=str(headers.source or ""),
        source_port=headers.source_port or 0,
        destination_ip=str(headers.destination or ""),
        destination_port=headers.destination_port or 0,
        flags=headers.flags.letters if headers.flags is not None else "",
        ttl=headers.ttl,
        source_mac=headers.source_mac.hex(":"),
        destination_mac=headers.destination_mac.hex(":"),
    )


def reason_of(text: str) -> str:
    """Read a reason to drop, with or without what all of them begin with; raises InvalidRequest."""
    name = text if not text or text.startswith("drop_") else f"drop_{text}"
    if name and name not in DROP_REASONS:
        known = ", ".join(one.removeprefix("drop_") for one in DROP_REASONS)
        raise InvalidRequest("malformed-args error", field="reason", cause=f"{text!r} is none of {known}")
    return name


def dropped_of(report: DropReport) -> wire.DroppedPacket:
    """Convert a dropped packet, or how many were lost."""
    packet = report.packet
    if packet is None:
        return wire.DroppedPacket(lost=report.lost)
    return wire.DroppedPacket(
        time=shown_time(report.time),
        reason=packet.reason,
        hook=packet.hook,
        interface=report.interface,
        length=packet.length,
        packet=headers_of(packet.headers),
    )


def _ends_of(headers: wire.PacketHeaders) -> wire.PacketHeaders:
    """Leave out the MAC addresses where the sender's is made up."""
    return structs.replace(headers, source_mac="", destination_mac="")


def _sent_of(traced: Traced) -> wire.PacketHeaders | None:
    if traced.sent is None:
        return None
    headers = headers_of(traced.sent)
    resolved = traced.way is not None and traced.way.mac is not None
    return headers if traced.hooks[-1].verdict is Verdict.FORWARDED and resolved else _ends_of(headers)


def _flow_of(traced: Traced) -> wire.TraceFlow | None:
    flow, table = traced.flow, traced.table or Table.LARGE
    if flow is None:
        return None
    state = flow.state.name.lower().replace("_", "-")
    idle, age = round(flow.idle, 3), round(flow.age, 3)
    return wire.TraceFlow(table=table.value, state=state, reply=flow.reply, idle=idle, age=age)


def _service_of(service: Service) -> wire.TraceService:
    key = service.key
    return wire.TraceService(
        name=service.name,
        external_ip=str(key.address),
        port=key.port,
        port_max=key.port_max if key.port_max != key.port else 0,
        protocol=key.protocol.value,
    )


def _endpoint_of(traced: Traced) -> wire.TraceEndpoint | None:
    if traced.endpoint_address is None:
        return None
    return wire.TraceEndpoint(endpoint_ip=str(traced.endpoint_address), target_port=traced.endpoint_port)


def _next_hop_of(report: TraceReport) -> wire.NextHop | None:
    way = report.traced.way
    if way is None:
        return None
    return wire.NextHop(
        interface=report.out or str(way.interface),
        mac=way.mac.hex(":") if way.mac else "",
        gateway=str(way.gateway or ""),
    )
