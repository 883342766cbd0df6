# SPDX-License-Identifier: Apache-2.0
"""The host and this process, from proc(5) and statvfs(3)."""

import os
import resource
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from loxilb.proto.metrics import Family, Kind

_PROC = Path("/proc")
_IDLE = (3, 4)  # idle and iowait in the line "cpu" of /proc/stat
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class System:
    """What is read of the host; processor use is that since the last time, and at first since the host started."""

    _last: tuple[int, int] = (0, 0)
    _busy: float = 0.0

    def families(self) -> Iterator[Family]:
        """Return the families of host and process."""
        gauges = (
            ("cpu", "Processor time not idle since the last scrape", self._cpu()),
            ("memory", "Memory in use, of what there is", _memory()),
            ("disk", "Space in use on the root file system", _disk()),
        )
        for name, about, value in gauges:
            samples = [] if value is None else [("", round(value, 2))]
            full = f"loxilb_system_{name}_utilization_percent"
            yield Family(name=full, kind=Kind.GAUGE, about=about, samples=samples)
        yield from _process()

    def _cpu(self) -> float:
        line = (_PROC / "stat").read_text().split("\n", 1)[0]
        ticks = [int(text) for text in line.split()[1:9]]
        now, before = (sum(ticks), sum(ticks[at] for at in _IDLE)), self._last
        if now[0] > before[0]:  # else no tick has passed
            self._busy = 100 * (1 - (now[1] - before[1]) / (now[0] - before[0]))
            self._last = now
        return self._busy


def _memory() -> float | None:
    lines = (line.split() for line in (_PROC / "meminfo").read_text().splitlines())
    found = {words[0]: int(words[1]) for words in lines}
    total, free = found.get("MemTotal:", 0), found.get("MemAvailable:")
    return 100 * (total - free) / total if total and free is not None else None


def _disk() -> float | None:
    root = os.statvfs("/")
    return 100 * (root.f_blocks - root.f_bfree) / root.f_blocks if root.f_blocks else None


def _process() -> Iterator[Family]:
    """Return what every Prometheus client says of its process, under the names they all use."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    pages = int((_PROC / "self/statm").read_text().split()[1])
    fields = (_PROC / "self/stat").read_text().rpartition(")")[2].split()
    values = (
        ("cpu_seconds_total", Kind.COUNTER, "User and system time", usage.ru_utime + usage.ru_stime),
        ("resident_memory_bytes", Kind.GAUGE, "Resident memory", pages * resource.getpagesize()),
        ("open_fds", Kind.GAUGE, "Open file descriptors", sum(1 for _ in (_PROC / "self/fd").iterdir())),
        ("start_time_seconds", Kind.GAUGE, "Start since the epoch", _boot() + int(fields[19]) / _TICK),
    )
    for name, kind, about, value in values:
        yield Family(name=f"process_{name}", kind=kind, about=about, samples=[("", value)])
    python = ".".join(map(str, sys.version_info[:3]))
    yield Family(name="python_info", kind=Kind.GAUGE, about="Python", samples=[(f'{{version="{python}"}}', 1)])


def _boot() -> int:
    lines = (_PROC / "stat").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("btime "))
