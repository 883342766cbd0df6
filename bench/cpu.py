# SPDX-License-Identifier: Apache-2.0
"""What processes take: memory, and processor time.

Softirq work is in the time, as the kernel charges it to the thread that it interrupts. That holds for kernels without
CONFIG_IRQ_TIME_ACCOUNTING; with it, only what ksoftirqd does is seen.
"""

import re
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from bench.place import MeasurementError

_PROC = Path("/proc")
_SCHEDULED = 2  # the kernel's CPUCLOCK_SCHED: what the scheduler counted


def _named(prefix: str) -> tuple[int, ...]:
    found = []
    for path in _PROC.glob("[0-9]*/comm"):
        with suppress(OSError):  # it ended meanwhile
            if path.read_text().startswith(prefix):
                found.append(int(path.parent.name))
    return tuple(found)


def used(pid: int) -> int:
    """Return the nanoseconds that all threads of a process have used, ended ones too: clock_getcpuclockid(3)."""
    return time.clock_gettime_ns(~pid << 3 | _SCHEDULED)


def memory(pid: int, name: str) -> float:
    """Return a size of a process in MiB, by its name in proc_pid_status(5)."""
    found = re.search(rf"^{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    if found is None:
        raise MeasurementError(f"process {pid} has no {name}")
    return int(found[1]) / 1024


def idle(pid: int, seconds: float) -> float:
    """Return how much of a processor a process takes for so long that nobody asks anything, in percent."""
    before, began = used(pid), time.monotonic()
    time.sleep(seconds)
    return (used(pid) - before) / (time.monotonic() - began) / 1e7


class Meter:
    """Time used since the meter was made, by all threads of some processes and by ksoftirqd, in nanoseconds."""

    def __init__(self, processes: Iterable[int] = ()) -> None:
        """Start measuring."""
        self._processes = (*processes, *_named("ksoftirqd/"))
        self._begin = self._now()

    def _now(self) -> int:
        total = 0
        for pid in self._processes:
            with suppress(OSError):  # it ended meanwhile
                total += used(pid)
        return total

    def read(self) -> int:
        """Return the nanoseconds used so far."""
        return self._now() - self._begin
