# SPDX-License-Identifier: Apache-2.0
"""Traces in memory: which flow or endpoint a packet would get. There is no packet path, so nothing else decides."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from loxilb.model import Flow, L4Protocol, Port
from loxilb.model.image import EndpointEntry, EndpointId, Image, Listener
from loxilb.model.packet import Headers, MadePacket
from loxilb.model.trace import HookTrace, Table, Traced, Verdict, Way

Choose = Callable[[Listener], tuple[EndpointId | None, str]]
"""Returns the endpoint that the next flow would get, and why."""


def trace(image: Image, flows: Sequence[Flow], made: MadePacket, port: Port, choose: Choose) -> Traced:
    """Say what becomes of a packet."""
    headers = _headers(made)
    ends = (made.number, made.source, made.source_port, made.destination, made.destination_port)
    flow = next((one for one in flows if _ends(one) == ends), None)
    if flow is not None:
        sent = replace(
            headers,
            source=flow.new_source,
            source_port=flow.new_source_port,
            destination=flow.new_destination,
            destination_port=flow.new_destination_port,
        )
        entry = image.endpoints[EndpointId(flow.endpoint)]
        return replace(
            _forwarded(headers, sent, port, flow.endpoint, entry, "established"), table=Table.LARGE, flow=flow
        )
    asked = 0 if made.protocol is L4Protocol.ICMP else made.destination_port
    listener = Listener.of(made.destination, made.protocol, asked)
    slot, reason = choose(listener)
    if slot is None:
        verdict = Verdict.PASSED if reason.startswith("pass") else Verdict.DROPPED
        step = HookTrace(hook="tc", verdict=verdict, reason=reason)
        return Traced(hooks=(step,), made=headers, rule=image.listeners.get(listener, 0))
    entry = image.endpoints[slot]
    sent = replace(headers, source=entry.source or made.source, destination=entry.address, destination_port=entry.port)
    return _forwarded(headers, sent, port, slot, entry, "new")


def _ends(flow: Flow) -> tuple[object, ...]:
    return (flow.protocol, flow.source, flow.source_port, flow.destination, flow.destination_port)


def _headers(made: MadePacket) -> Headers:
    return Headers(
        source_mac=bytes(6),
        destination_mac=bytes(6),
        protocol=made.number,
        source=made.source,
        destination=made.destination,
        source_port=made.source_port or None,
        destination_port=made.destination_port or None,
        ttl=64,
        flags=made.flags if made.protocol is L4Protocol.TCP else None,
    )


def _forwarded(made: Headers, sent: Headers, port: Port, slot: int, entry: EndpointEntry, what: str) -> Traced:
    step = HookTrace(hook="tc", verdict=Verdict.FORWARDED, reason=f"forward_{what}", plain=what == "established")
    return Traced(
        hooks=(step,),
        made=made,
        rule=entry.rule,
        endpoint=slot,
        endpoint_address=entry.address,
        endpoint_port=entry.port,
        sent=sent,
        way=Way(interface=port.index, mac=bytes(6)),
    )
