# SPDX-License-Identifier: Apache-2.0
"""Who watches dropped packets: the data plane reports while there is somebody, and each sees all."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from typing import Protocol

import structlog

from loxilb.errors import KernelError
from loxilb.model.trace import DroppedPacket
from loxilb.ports import DropReport

_QUEUE = 1024
_LOOK_S = 1.0
_QUIET_S = 15.0
_log = structlog.get_logger(__name__)


class DropReporter(Protocol):
    """A data plane as far as its reports of drops go."""

    def sample(self, wanted: bool) -> None:
        """Report drops, or stop to; idempotent and immediate."""

    def dropped_packets(self) -> AsyncIterator[Sequence[DroppedPacket]]:
        """Report drops as they come, some at once, without end; raises KernelError."""

    def lost(self) -> int:
        """Return how many drops were not reported while they were to be, since there were too many."""


class _Watcher:
    """One who watches: what is still to be shown, and what was lost."""

    def __init__(self, lost_before: int) -> None:
        self.queue: asyncio.Queue[DropReport | None] = asyncio.Queue(_QUEUE)
        self.lost_before = lost_before
        self.overrun = 0
        self.told = 0

    def put(self, report: DropReport | None) -> None:
        """Add something to be shown; who is too slow loses it. None ends the watch."""
        if report is None and self.queue.full():
            self.queue.get_nowait()
        try:
            self.queue.put_nowait(report)
        except asyncio.QueueFull:
            self.overrun += 1


class DropWatch:
    """Reports of dropped packets, shared by all who watch; lives in one event loop.

    ``name_of`` returns the name of an interface by its index, ``look`` is how often (seconds) losses are looked at.
    """

    def __init__(
        self,
        reporter: DropReporter,
        name_of: Callable[[int], str],
        *,
        look: float = _LOOK_S,
        quiet: float = _QUIET_S,
    ) -> None:
        """Start with nobody; a quiet watch shows a sign of life every ``quiet`` seconds."""
        self._reporter, self._name_of = reporter, name_of
        self._look, self._quiet = look, quiet
        self._watchers: set[_Watcher] = set()
        self._pump: asyncio.Task[None] | None = None
        self._closed = False

    async def watch(self) -> AsyncGenerator[DropReport, None]:
        """Show drops as they come, until the caller or :meth:`close` ends it.

        A report without a packet says how many were lost by now, or nothing but that the watch goes on.
        """
        watcher = self._join()
        try:
            while not self._closed or not watcher.queue.empty():
                report = await self._next(watcher)
                if report is None:
                    return
                yield report
        finally:
            self._leave(watcher)

    async def _next(self, watcher: _Watcher) -> DropReport | None:
        """Return what is to be shown next; None at the end."""
        end = time.monotonic() + self._quiet
        while time.monotonic() < end:
            try:
                return await asyncio.wait_for(watcher.queue.get(), self._look)
            except TimeoutError:
                lost = (self._reporter.lost() - watcher.lost_before) + watcher.overrun
                if lost != watcher.told and watcher.queue.empty():  # after those before them
                    watcher.told = lost
                    return DropReport(lost=lost)
        return DropReport(lost=watcher.told)

    def close(self) -> None:
        """End every watch."""
        self._closed = True
        for watcher in self._watchers:
            watcher.put(None)

    def _join(self) -> _Watcher:
        watcher = _Watcher(self._reporter.lost())
        self._watchers.add(watcher)
        if (self._pump is None or self._pump.done()) and not self._closed:
            self._pump = asyncio.create_task(self._run(), name="drops")
        return watcher

    def _leave(self, watcher: _Watcher) -> None:
        self._watchers.discard(watcher)
        if not self._watchers and self._pump is not None:
            self._reporter.sample(False)
            self._pump.cancel()
            self._pump = None

    async def _run(self) -> None:
        """Share out what is reported; a kernel that does not let it ends every watch."""
        try:
            reports = aiter(self._reporter.dropped_packets())
            self._reporter.sample(True)
            async for dropped in reports:
                self._share(dropped)
        except KernelError as error:
            _log.error("drops not reported", cause=error.cause, remedy=error.remedy)
            for watcher in self._watchers:
                watcher.put(None)

    def _share(self, dropped: Sequence[DroppedPacket]) -> None:
        offset = time.time() - time.monotonic()
        for packet in dropped:
            name = self._name_of(packet.interface) or str(packet.interface)
            for watcher in self._watchers:
                watcher.put(DropReport(packet=packet, time=packet.at + offset, interface=name))
