# SPDX-License-Identifier: Apache-2.0
"""The kernel's jiffies: flows are stamped with them, operators think in seconds."""

import time
from collections.abc import Callable
from dataclasses import dataclass

_RATES: tuple[int, ...] = (100, 250, 300, 1000)
_EDGES = 8
_MASK = 0xFFFFFFFF

_Between = tuple[int, int]
_Read = Callable[[], tuple[int, int]]


@dataclass(frozen=True, slots=True)
class JiffyClock:
    """Converts between seconds and jiffies; ``read`` returns jiffies and nanoseconds at one moment."""

    read: _Read
    rate: int

    @classmethod
    def measure(cls, read: _Read) -> "JiffyClock":
        """Find the tick rate (CONFIG_HZ, which user space cannot ask for) by watching ticks.

        A tick is seen some time after it came, on a busy machine much later. So each is known to lie between two
        looks, and the ticks are counted until only one rate is left that fits.
        """
        first, began = _next_tick(read)
        last, ended = first, began
        rates = _RATES
        while len(rates) > 1 or last - first < _EDGES:
            last, ended = _next_tick(read)
            rates = fitting_rates(last - first, began, ended)
        return cls(read, *rates)

    def now(self) -> int:
        """Jiffies, truncated to 32 bits as in the maps."""
        return self.read()[0] & _MASK

    def ticks(self, seconds: float) -> int:
        """Jiffies in ``seconds``, at least 1."""
        return max(1, round(seconds * self.rate))

    def seconds_since(self, stamp: int, now: int) -> float:
        """Seconds from the jiffy ``stamp`` to ``now``; 0 for a stamp that is newer."""
        ticks = (now - stamp) & _MASK
        return 0.0 if ticks > _MASK // 2 else ticks / self.rate


def fitting_rates(ticks: int, began: _Between, ended: _Between) -> tuple[int, ...]:
    """Return the rates at which so many ticks can lie between two that came between nanoseconds that are known.

    Where none fits exactly (a clock that was slewed meanwhile) it is the nearest.
    """
    shortest, longest = max(1, ended[0] - began[1]), ended[1] - began[0]
    fitting = tuple(rate for rate in _RATES if shortest <= ticks * 1_000_000_000 / rate <= longest)
    middle = ticks * 2e9 / (shortest + longest)
    return fitting or (min(_RATES, key=lambda rate: abs(rate - middle)),)


def _next_tick(read: _Read) -> tuple[int, _Between]:
    """Return the jiffies right after the next tick, and the times between which it came."""
    before, earlier = read()
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        now, at = read()
        if now != before:
            return now, (earlier, at)
        earlier = at
    raise RuntimeError("the kernel's jiffies stand still")
