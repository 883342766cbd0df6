# SPDX-License-Identifier: Apache-2.0
"""Tracing a packet: its interface, what the data plane makes of it, and whose service that is."""

import asyncio
from collections.abc import Mapping
from typing import Protocol

from loxilb.errors import InvalidRequest
from loxilb.model import IPAddress, Port
from loxilb.model.packet import TRACE_ERROR, MadePacket
from loxilb.model.port import IfIndex
from loxilb.model.trace import Traced
from loxilb.ports import Configuration, Owners, TraceReport

_ETHERNET = 6


class PacketTracer(Protocol):
    """A data plane as far as traces go."""

    def trace(self, made: MadePacket, port: Port) -> Traced:
        """Say what becomes of a packet that comes in by ``port``; nothing changes. Raises KernelError."""


class Ways(Protocol):
    """The routes of this host."""

    def way_to(self, destination: IPAddress) -> IfIndex | None:
        """Return the interface towards ``destination``, None without one or where it is this host."""


class TraceService:
    """Traces one packet at a time: each takes copies of the flow tables."""

    def __init__(self, *, tracer: PacketTracer, ways: Ways, configuration: Configuration, owners: Owners) -> None:
        """Keep what to ask."""
        self._tracer, self._ways = tracer, ways
        self._configuration, self._owners = configuration, owners
        self._one = asyncio.Lock()

    async def trace(self, made: MadePacket, *, interface: str = "") -> TraceReport:
        """Trace a packet; without ``interface`` it comes in where its source is routed to.

        Raises InvalidRequest and KernelError.
        """
        ports = {port.index: port for port in await self._configuration.ports()}
        port = await self._port(made, interface, ports)
        async with self._one:
            traced = await asyncio.to_thread(self._tracer.trace, made, port)
        out = ports.get(traced.way.interface) if traced.way else None
        return TraceReport(
            traced=traced,
            interface=port.name,
            service=await self._owners.owner(traced.rule) if traced.rule else None,
            out=out.name if out else "",
        )

    async def _port(self, made: MadePacket, interface: str, ports: Mapping[IfIndex, Port]) -> Port:
        if interface:
            found = next((port for port in ports.values() if port.name == interface), None)
            if found is None:
                raise InvalidRequest(TRACE_ERROR, field="interface", cause=f"there is no interface {interface}")
        else:
            index = await asyncio.to_thread(self._ways.way_to, made.source)
            found = ports.get(index) if index is not None else None
            if found is None:
                cause = f"no interface leads to {made.source}"
                raise InvalidRequest(
                    TRACE_ERROR, field="sourceIP", cause=cause, remedy="name the interface it comes by"
                )
        return _taken(found, ports)


def _taken(port: Port, ports: Mapping[IfIndex, Port]) -> Port:
    """Return the interface at which a packet that comes by ``port`` meets the programs: maybe its bridge or bond."""
    master = ports.get(port.master) if port.master is not None and not port.hooks else None
    found = master or port
    if not found.hooks:
        raise InvalidRequest(TRACE_ERROR, field="interface", cause=f"{port.name} is not one that the daemon has taken")
    if len(found.mac) != _ETHERNET:
        raise InvalidRequest(TRACE_ERROR, field="interface", cause=f"{port.name} carries no Ethernet frames")
    return found
