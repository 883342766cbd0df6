# SPDX-License-Identifier: Apache-2.0
"""Resets for the ends of aborted connections, as the data plane reports them."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Protocol

import structlog

from loxilb.errors import KernelError
from loxilb.model import AbortedConnection
from loxilb.proto.reset import Packet, packets_for

STALE_S = 10.0
"""Age from which on nobody is told: the ports may belong to another connection. No daemon ran at that time."""

_log = structlog.get_logger(__name__)


class AbortReporter(Protocol):
    """A data plane as far as the connections that it gives up go."""

    def aborted_connections(self) -> AsyncIterator[Sequence[AbortedConnection]]:
        """Report connections that were given up, some at once, without end; raises KernelError."""

    def aborts_lost(self) -> int:
        """Return how many connections were given up without a report, since there was no room for it."""


class PacketSender(Protocol):
    """Sends whole IP packets."""

    def send(self, packets: Iterable[Packet]) -> int:
        """Send packets, returns how many could not be sent; may wait; raises KernelError."""


class Resets:
    """Tells both ends of every aborted connection; lives in one event loop."""

    def __init__(
        self, reporter: AbortReporter, sender: PacketSender, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Keep the data plane and the sender; ``clock`` is CLOCK_MONOTONIC in seconds."""
        self._reporter = reporter
        self._sender = sender
        self._clock = clock
        self._lost = 0

    async def run(self) -> None:
        """Tell those that are reported, until cancelled; a kernel that does not let it is logged once."""
        try:
            self._lost = self._reporter.aborts_lost()
            async for aborted in self._reporter.aborted_connections():
                await self._tell(aborted)
                self._warn_of_lost()
        except KernelError as error:
            _log.error("connections not reset", cause=error.cause, remedy=error.remedy)

    async def _tell(self, aborted: Sequence[AbortedConnection]) -> None:
        oldest = self._clock() - STALE_S
        told = [one for one in aborted if one.at >= oldest]
        packets = [packet for one in told for packet in packets_for(one)]
        failed = await asyncio.to_thread(self._sender.send, packets) if packets else 0
        _log.debug(
            "connections reset",
            connections=len(told),
            packets=len(packets) - failed,
            failed=failed,
            stale=len(aborted) - len(told),
        )

    def _warn_of_lost(self) -> None:
        lost, self._lost = self._lost, self._reporter.aborts_lost()
        if self._lost != lost:
            _log.warning("connections not reset", lost=self._lost - lost, cause="too many ended at once")
