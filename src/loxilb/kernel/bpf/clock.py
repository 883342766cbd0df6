# SPDX-License-Identifier: Apache-2.0
"""The kernel's jiffies: flows are stamped with them, operators think in seconds."""

import struct
import time
from dataclasses import dataclass

from loxilb.kernel.bpf.run import run_syscall

_RATES = (100, 250, 300, 1000)
_EDGES = 8
_MASK = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class JiffyClock:
    """Converts between seconds and jiffies; ``program`` is the descriptor of ``lox_read_clock``."""

    program: int
    rate: int

    @classmethod
    def measure(cls, program: int) -> "JiffyClock":
        """Find the tick rate (CONFIG_HZ, which user space cannot ask for) by watching a few ticks."""
        first, began = _next_tick(program)
        last, ended = first, began
        while last - first < _EDGES:
            last, ended = _next_tick(program)
        measured = (last - first) * 1e9 / (ended - began)
        return cls(program, min(_RATES, key=lambda rate: abs(rate - measured)))

    def now(self) -> int:
        """Jiffies, truncated to 32 bits as in the maps."""
        return _read(self.program)[0] & _MASK

    def ticks(self, seconds: float) -> int:
        """Jiffies in ``seconds``, at least 1."""
        return max(1, round(seconds * self.rate))

    def seconds_since(self, stamp: int, now: int) -> float:
        """Seconds from the jiffy ``stamp`` to ``now``; 0 for a stamp that is newer."""
        ticks = (now - stamp) & _MASK
        return 0.0 if ticks > _MASK // 2 else ticks / self.rate


def _read(program: int) -> tuple[int, int]:
    _, context = run_syscall(program, bytes(16))
    jiffies, nanoseconds = struct.unpack("=QQ", context)
    return jiffies, nanoseconds


def _next_tick(program: int) -> tuple[int, int]:
    """Return the jiffies and time right after the next tick."""
    before, _ = _read(program)
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        now, at = _read(program)
        if now != before:
            return now, at
    raise RuntimeError("the kernel's jiffies stand still")
