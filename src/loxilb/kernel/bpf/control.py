# SPDX-License-Identifier: Apache-2.0
"""What the daemon has the programs do for it: tell the time, sum the traffic, end flows that are idle.

The current programs are called like functions, and a timer of the kernel ages the flows. The legacy ones are run on
packets that hold their arguments; a thread of the daemon ages, and nothing ages while there is no daemon.
"""

import ctypes
import errno
import struct
import threading
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Protocol

import structlog

from loxilb.errors import KernelError
from loxilb.kernel import abi
from loxilb.kernel.bpf import maps
from loxilb.kernel.bpf.features import ProgramSet
from loxilb.kernel.bpf.loading import Loaded
from loxilb.kernel.bpf.maps import ArrayView
from loxilb.kernel.bpf.run import run, run_once, run_syscall

_log = structlog.get_logger(__name__)
_CLOCK = struct.Struct("=QQ")  # struct lox_clock
_PART = struct.Struct("=4I")  # struct lox_part
_PAIR = struct.Struct("=QQ")  # struct lox_traffic
_TICKS = 10  # of 4 ms: as many as pass between two calls
_INTERVAL_S = 0.04
_CALLS_A_SECOND = 25
_NO_PACKET = bytes(14)
_Layout = type[ctypes.Structure]
_SPILLED: Mapping[str, tuple[_Layout, _Layout]] = {
    "overflow4": (abi.Key4, abi.Whole4),
    "overflow6": (abi.Key6, abi.Flow6),
}


class Control(Protocol):
    """What either set of programs can do. One thread at a time sums."""

    def clock(self) -> tuple[int, int]:
        """Return jiffies and nanoseconds (CLOCK_MONOTONIC) at one moment; raises KernelError."""

    def fold(self) -> None:
        """Sum the traffic of all live flows into the map ``live_traffic``; raises KernelError."""

    def start_ageing(self) -> None:
        """Have idle flows end from now on; raises KernelError."""

    def close(self) -> None:
        """Stop what needs the daemon, before its descriptors are closed."""


def control_of(loaded: Loaded, live: ArrayView) -> Control:
    """Return what controls the programs that are loaded; ``live`` is a view of ``live_traffic``."""
    return _Current(loaded) if loaded.program_set is ProgramSet.CURRENT else _Legacy(loaded, live)


class _Current:
    def __init__(self, loaded: Loaded) -> None:
        self._base, self._collector = loaded.programs("base"), loaded.programs("gc")

    def clock(self) -> tuple[int, int]:
        _, context = run_syscall(self._base["lox_read_clock"], bytes(_CLOCK.size))
        jiffies, nanoseconds = _CLOCK.unpack(context)
        return jiffies, nanoseconds

    def fold(self) -> None:
        run_syscall(self._base["lox_fold_counters"])

    def start_ageing(self) -> None:
        run_once(self._collector["lox_age_start"])

    def close(self) -> None:
        """Leave the timer: it runs as long as its map exists."""


class _Legacy:
    def __init__(self, loaded: Loaded, live: ArrayView) -> None:
        self._base, self._maps, self._live = loaded.programs("base"), loaded.maps, live
        self._ager = Ager(loaded.programs("gc"), loaded.maps)

    def clock(self) -> tuple[int, int]:
        jiffies, nanoseconds = _CLOCK.unpack(run(self._base["lox_read_clock"], bytes(_CLOCK.size)).packet)
        return jiffies, nanoseconds

    def fold(self) -> None:
        """Sum part by part, then the few that found no slot."""
        self._live.write(0, bytes(self._live.entries * self._live.stride))
        for v6, half in product((0, 1), repeat=2):
            at = self._fold_part(v6, half, 0)
            while at:
                at = self._fold_part(v6, half, at)
        for name, (key, layout) in _SPILLED.items():
            for _, value in maps.dump(self._maps[name], ctypes.sizeof(key), ctypes.sizeof(layout)):
                self._add(*_head_and_cold(layout.from_buffer_copy(value)))

    def _fold_part(self, v6: int, half: int, at: int) -> int:
        """Sum many slots of one table from slot ``at`` on; returns the next one, 0 at the end."""
        return run(self._base["lox_fold_counters"], _PART.pack(v6, half, at, 0), want_packet=False).code

    def _add(self, head: abi.FlowHead, cold: abi.Cold) -> None:
        if cold.endpoint < self._live.entries:
            packets, size = _PAIR.unpack(self._live.element(cold.endpoint))
            self._live.write(cold.endpoint * self._live.stride, _PAIR.pack(packets + head.packets, size + head.bytes))

    def start_ageing(self) -> None:
        self._ager.start()

    def close(self) -> None:
        self._ager.stop()


def _head_and_cold(flow: ctypes.Structure) -> tuple[abi.FlowHead, abi.Cold]:
    if isinstance(flow, abi.Whole4):
        return flow.flow.head, flow.cold
    assert isinstance(flow, abi.Flow6)
    return flow.head, flow.cold


class Ager:
    """The thread that stands for the kernel's timer."""

    def __init__(self, programs: Mapping[str, int], descriptors: Mapping[str, int]) -> None:
        """Take the programs of the object ``gc``, and the maps."""
        self._programs, self._maps = programs, descriptors
        self._stopped = threading.Event()
        self._failing = False
        self._thread = threading.Thread(target=self._work, name="ager", daemon=True)

    def start(self) -> None:
        """Age from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Return when the thread uses no descriptor any more."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def _work(self) -> None:
        calls = 0
        while not self._stopped.wait(_INTERVAL_S):
            calls += 1
            try:
                run(self._programs["lox_age_tick"], _NO_PACKET, repeat=_TICKS, want_packet=False)
                if calls % _CALLS_A_SECOND == 0:
                    self._visit_spilled()
                self._failing = False
            except KernelError as error:
                self._note(error)

    def _note(self, error: KernelError) -> None:
        """Say once what went wrong; an interrupted call is made again anyhow."""
        if error.errno != errno.EINTR and not self._failing:
            self._failing = True
            _log.warning("flows are not aged", cause=error.cause)

    def _visit_spilled(self) -> None:
        """Age what found no slot: the program is given key after key."""
        for name, program in (("overflow4", "lox_age_spilled4"), ("overflow6", "lox_age_spilled6")):
            for key in self._keys(name):
                if self._stopped.is_set():
                    return
                run(self._programs[program], key, want_packet=False)

    def _keys(self, name: str) -> Iterator[bytes]:
        key, layout = _SPILLED[name]
        return (one for one, _ in maps.dump(self._maps[name], ctypes.sizeof(key), ctypes.sizeof(layout)))
