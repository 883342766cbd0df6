# SPDX-License-Identifier: Apache-2.0
"""Processor time of threads, softirq work included (the kernel charges it to the thread that it interrupts).

That holds for kernels without CONFIG_IRQ_TIME_ACCOUNTING; with it, only what ksoftirqd does is seen.
"""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")


def _named(prefix: str) -> tuple[int, ...]:
    found = []
    for path in _PROC.glob("[0-9]*/comm"):
        with suppress(OSError):  # it ended meanwhile
            if path.read_text().startswith(prefix):
                found.append(int(path.parent.name))
    return tuple(found)


class Meter:
    """Time used since the meter was made, by all threads of some processes and by ksoftirqd, in nanoseconds.

    Without ``softirqs`` only by the processes, for those that forward nothing while others may.
    """

    def __init__(self, processes: Iterable[int] = (), *, softirqs: bool = True) -> None:
        """Start measuring."""
        self._processes = (*processes, *(_named("ksoftirqd/") if softirqs else ()))
        self._begin = self._now()

    def _now(self) -> int:
        total = 0
        for pid in self._processes:
            for path in (_PROC / str(pid) / "task").glob("*/schedstat"):
                with suppress(OSError):
                    total += int(path.read_text().split()[0])
        return total

    def read(self) -> int:
        """Return the nanoseconds used so far."""
        return self._now() - self._begin
