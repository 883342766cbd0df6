# SPDX-License-Identifier: Apache-2.0
"""The operations about single packets."""

from collections.abc import Mapping

from loxilb.codec.packets import made_of, report_of
from loxilb.ports import Tracer
from loxilb.services.api.handlers import Answer, Call, Handler


class PacketHandlers:
    """Traces packets; errors are those of ``loxilb.errors``."""

    def __init__(self, tracer: Tracer) -> None:
        """Keep what is asked."""
        self._tracer = tracer

    def by_operation(self) -> Mapping[str, Handler]:
        """Return the method for every operation about packets."""
        return {"trace_packet": self._trace}

    async def _trace(self, call: Call) -> Answer:
        return report_of(await self._tracer.trace(made_of(call.body), interface=call.body.interface))
