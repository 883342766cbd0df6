# SPDX-License-Identifier: Apache-2.0
"""The operations about single packets: one that is made up, and those that are dropped."""

from collections.abc import AsyncGenerator, Mapping

from loxiapi import wire
from loxiapi.operations import LINES_TYPE
from loxilb.codec.packets import dropped_of, made_of, reason_of, report_of
from loxilb.ports import Packets
from loxilb.services.api.handlers import Answer, Call, Handler, Lines


class PacketHandlers:
    """Traces packets, and shows dropped ones; errors are those of ``loxilb.errors``."""

    def __init__(self, packets: Packets) -> None:
        """Keep what is asked."""
        self._tracer = packets.tracer
        self._drops = packets.drops

    def by_operation(self) -> Mapping[str, Handler]:
        """Return the method for every operation about packets."""
        return {"trace_packet": self._trace, "watch_drops": self._watch}

    async def _trace(self, call: Call) -> Answer:
        return report_of(await self._tracer.trace(made_of(call.body), interface=call.body.interface))

    async def _watch(self, call: Call) -> Answer:
        reason = reason_of(call.parameters.get("reason", ""))
        return Lines(parts=self._lines(reason), media=LINES_TYPE)

    async def _lines(self, reason: str) -> AsyncGenerator[bytes, None]:
        """Return a line a drop, an empty one as a sign of life; at once one, so that the client knows it watches."""
        watch = self._drops.watch()
        try:
            yield b"\n"
            async for report in watch:
                if report.packet is None and not report.lost:
                    yield b"\n"
                elif report.packet is None or reason in ("", report.packet.reason):
                    yield wire.encode(dropped_of(report)) + b"\n"
        finally:
            await watch.aclose()
