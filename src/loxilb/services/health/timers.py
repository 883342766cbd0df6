# SPDX-License-Identifier: Apache-2.0
"""Work that is done again and again, each piece at times of its own."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

_AFTER_A_FAULT_S = 5.0

_log = structlog.get_logger(__name__)


class Timers:
    """Does ``work`` for each name when its time has come, for at most ``width`` names at once.

    ``work`` returns the seconds until it is to be done again. There is one timer of the event loop for each name that
    waits and one task for each that works.
    """

    def __init__(self, work: Callable[[str], Awaitable[float]], width: int) -> None:
        """Start with no name."""
        self._work = work
        self._slots = asyncio.Semaphore(width)
        self._entries: dict[str, asyncio.TimerHandle | asyncio.Task[None]] = {}

    def start(self, name: str, delay: float) -> None:
        """Do the work for ``name`` in ``delay`` seconds, and from then on; work under way for it is cancelled."""
        self.stop(name)
        self._entries[name] = asyncio.get_running_loop().call_later(delay, self._fire, name)

    def stop(self, name: str) -> None:
        """Do the work for ``name`` no more."""
        entry = self._entries.pop(name, None)
        if entry is not None:
            entry.cancel()

    async def close(self) -> None:
        """Stop all, and wait for the work under way to end."""
        tasks = [entry for entry in self._entries.values() if isinstance(entry, asyncio.Task)]
        for name in tuple(self._entries):
            self.stop(name)
        await asyncio.gather(*tasks, return_exceptions=True)

    def _fire(self, name: str) -> None:
        self._entries[name] = asyncio.create_task(self._run(name))

    async def _run(self, name: str) -> None:
        delay = _AFTER_A_FAULT_S
        try:
            async with self._slots:
                delay = await self._work(name)
        except Exception:  # noqa: BLE001 one name's fault must not end its timer
            _log.exception("timed work hit a fault", name=name)
        if self._entries.get(name) is asyncio.current_task():
            self._entries[name] = asyncio.get_running_loop().call_later(delay, self._fire, name)
