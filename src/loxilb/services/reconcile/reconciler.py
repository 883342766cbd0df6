# SPDX-License-Identifier: Apache-2.0
"""The loop that does everything in the background."""

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Mapping

import structlog

from loxilb.errors import LoxilbError
from loxilb.model.work import ReconcilerStatus
from loxilb.services.reconcile.work import Run, Work

_log = structlog.get_logger(__name__)


class Reconciler:
    """``loxilb.ports.Reconciling``: works that are independent of each other, none of them twice at a time.

    A failed one is tried again until it succeeds, later each time. ``ask``, ``note`` and ``status`` are for any thread.
    """

    def __init__(self) -> None:
        """Start without work."""
        self._works: dict[str, Work] = {}
        self._repairs: Counter[str] = Counter()
        self._woken = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def add(self, name: str, run: Run) -> None:
        """Do ``run`` when ``name`` is asked for, and when the seconds that it returned are over."""
        self._works[name] = Work(name, run)

    def ask(self, *names: str) -> None:
        """Have works done soon; those asked for before ``run`` are done when it begins."""
        loop = self._loop  # which may end meanwhile
        if loop is None:
            self._ask(names)
        else:
            loop.call_soon_threadsafe(self._ask, names)

    def ask_in(self, name: str, seconds: float) -> None:
        """Have a work done after some time; called in the event loop."""
        self._works[name].wait_until(asyncio.get_running_loop().time() + seconds)
        self._woken.set()

    def note(self, repaired: Mapping[str, int]) -> None:
        """Count what was repaired, by what it was."""
        self._repairs.update({what: count for what, count in repaired.items() if count})

    def status(self) -> ReconcilerStatus:
        """Return how everything stands."""
        return ReconcilerStatus(works=tuple(one.status for one in self._works.values()), repairs=dict(self._repairs))

    async def run(self) -> None:
        """Work, without end."""
        self._loop = asyncio.get_running_loop()
        running: set[asyncio.Task[None]] = set()
        try:
            while True:
                self._woken.clear()
                running = {task for task in running if not task.done()} | self._begin()
                # Not wait_for: before Python 3.12 it loses a cancellation that comes together with what it waits for.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._wait()):
                        await self._woken.wait()
        finally:
            self._loop = None
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    def _ask(self, names: tuple[str, ...]) -> None:
        now = self._loop.time() if self._loop is not None else 0.0
        for name in names:
            self._works[name].ask(now)
        self._woken.set()

    def _begin(self) -> set[asyncio.Task[None]]:
        now, begun = asyncio.get_running_loop().time(), set()
        for work in self._works.values():
            if work.due is not None and work.due <= now:
                work.begin()
                begun.add(asyncio.create_task(self._do(work)))
        return begun

    def _wait(self) -> float | None:
        times = [work.due for work in self._works.values() if work.due is not None]
        return max(0.0, min(times) - asyncio.get_running_loop().time()) if times else None

    async def _do(self, work: Work) -> None:
        try:
            again = await work.run()
        except LoxilbError as error:
            self._failed(work, error.cause, error.remedy)
        except Exception as fault:  # noqa: BLE001 a fault in one work must not end the others
            _log.exception("background work hit a fault", work=work.name)
            self._failed(work, f"{type(fault).__name__}: {fault}", "worth a report, with the log")
        else:
            if work.failures:
                _log.info("background work done after failures", work=work.name, failures=work.failures)
            work.done(asyncio.get_running_loop().time(), time.time(), again)
        self._woken.set()

    def _failed(self, work: Work, cause: str, remedy: str) -> None:
        wait = work.fail(asyncio.get_running_loop().time(), time.time(), (cause, remedy), random.random())
        _log.error(
            "background work failed, trying again",
            **{"work": work.name, "failures": work.failures, "in": f"{wait:.1f} s", "cause": cause, "remedy": remedy},
        )
