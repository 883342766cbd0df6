# SPDX-License-Identifier: Apache-2.0
"""An event loop whose clock jumps to the next timer: hours of timed work in no time, and the same each time."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

_R = TypeVar("_R")


class _Selector(selectors.SelectSelector):
    """Waits for nothing: what would be waited for has passed."""

    def __init__(self) -> None:
        """Start at zero."""
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready; with nothing ready, let ``timeout`` pass."""
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "nothing is ready, and no timer runs: it would wait for ever"
            self.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop; ``time`` starts at zero."""

    def __init__(self) -> None:
        """Build it."""
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        """Return the seconds that have passed."""
        return self._virtual.now

    def stall(self, seconds: float) -> None:
        """Let time pass during which the loop does nothing, as when a callback takes that long."""
        self._virtual.now += seconds


def play(scene: Coroutine[Any, Any, _R]) -> _R:
    """Run ``scene`` on a virtual clock."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(scene)
