# SPDX-License-Identifier: Apache-2.0
"""Drives ``bpf/flowcheck.bpf.c``: random operations on a flow table from every CPU at once, against a model."""

import ctypes
import os
import secrets
import struct
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from loxilb.kernel import abi
from loxilb.kernel.bpf import maps
from loxilb.kernel.bpf.builds import is_shared
from loxilb.kernel.bpf.control import Ager
from loxilb.kernel.bpf.features import ProgramSet
from loxilb.kernel.bpf.loading import object_path
from loxilb.kernel.bpf.maps import ArrayView
from loxilb.kernel.bpf.object import BpfObject
from loxilb.kernel.bpf.run import run, run_once

FIELDS = ("done", "put", "removed", "full", "busy", "lost", "phantom", "doubled", "torn", "unremoved")
VIOLATIONS = FIELDS[5:]
_LAYOUTS = {"flow4": abi.Flow4, "flow6": abi.Flow6, "half4": abi.Whole4, "half6": abi.Flow6}
_KEPT = 1 << 30  # a rule timeout in jiffies that never passes here


@dataclass(frozen=True, slots=True, kw_only=True)
class Arena:
    """A small data plane of its own: tables of ``slots`` slots, ``keys`` private keys a CPU and as many shared."""

    check: BpfObject
    collector: BpfObject
    slots: int
    keys: int

    @property
    def cpus(self) -> list[int]:
        return sorted(os.sched_getaffinity(0))

    def drive(self, program: str, *, rounds: int, operations: int) -> Counter[str]:
        """Run ``program`` on every CPU at once; returns the totals."""
        plan = struct.pack("=II", operations, self.keys)
        maps.update(self.check.maps["check_plan"], maps.index_key(0), plan, "plan")
        threads = [threading.Thread(target=self._run, args=(program, cpu, rounds)) for cpu in self.cpus]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return self.totals()

    def _run(self, program: str, cpu: int, rounds: int) -> None:
        os.sched_setaffinity(0, {cpu})  # of this thread alone
        for _ in range(rounds):
            run(self.check.programs[program], bytes(64), want_packet=False)

    def totals(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for cpu in self.cpus:
            value = maps.lookup(self.check.maps["checks"], maps.index_key(cpu), 8 * len(FIELDS))
            assert value is not None
            found.update(dict(zip(FIELDS, struct.unpack(f"={len(FIELDS)}Q", value), strict=True)))
        return found

    def balance(self) -> Counter[int]:
        """How often each number of copies (insertions minus removals) occurs among the keys."""
        count = self.keys * (max(self.cpus) + 2)
        values = (maps.lookup(self.check.maps["model"], maps.index_key(at), 4) for at in range(count))
        return Counter(struct.unpack("=i", value)[0] for value in values if value)

    def slot_states(self, table: str) -> Counter[int]:
        with self._view(table) as view:
            return Counter(view.column(0))

    def live_keys(self, table: str) -> list[bytes]:
        """Source address of every live flow of an IPv4 table, the overflow map included."""
        with self._view(table) as view:
            found = [self._source(table, bytes(view.element(at))) for at in view.indexes(0, abi.SLOT_LIVE)]
        for _, value in maps.dump(self.check.maps["overflow4"], ctypes.sizeof(abi.Key4), ctypes.sizeof(abi.Whole4)):
            found.append(bytes(abi.Whole4.from_buffer_copy(value).flow.saddr))
        return found

    def _source(self, table: str, element: bytes) -> bytes:
        flow = abi.Whole4.from_buffer_copy(element).flow if table == "half4" else abi.Flow4.from_buffer_copy(element)
        return bytes(flow.saddr)

    @contextmanager
    def _view(self, table: str) -> Iterator[ArrayView]:
        layout = _LAYOUTS[table]
        view = ArrayView(self.check.maps[table], entries=self.slots, value_size=ctypes.sizeof(layout))
        try:
            yield view
        finally:
            view.close()

    def runtime(self) -> abi.Runtime:
        value = maps.lookup(self.check.maps["runtime"], maps.index_key(0), ctypes.sizeof(abi.Runtime))
        assert value is not None
        return abi.Runtime.from_buffer_copy(value)


def sizes_of(slots: int, keys: int, overflow: int) -> dict[str, int]:
    """Return the sizes of all maps."""
    tables = dict.fromkeys(("flow4", "flow4_cold", "flow6", "half4", "half6"), slots)
    small = (
        "endpoint_states",
        "traffic",
        "live_traffic",
        "endpoints",
        "rules",
        "rule_states",
        "ring",
        "listeners4",
        "listeners6",
    )
    cpus = max(os.sched_getaffinity(0)) + 2
    return {
        **tables,
        "used4": slots // 64,
        "used6": slots // 64,
        **dict.fromkeys(small, 16),
        "next_hops": 64,
        "links": 64,
        "overflow4": overflow,
        "overflow6": overflow,
        "model": keys * cpus,
    }


def config_of(slots: int) -> abi.Config:
    """Return the configuration of tables of ``slots`` slots, with a secret of their own."""
    config = abi.Config(
        flow4_mask=slots - 1,
        flow6_mask=slots - 1,
        half4_mask=slots - 1,
        half6_mask=slots - 1,
        link_mask=63,
        next_hop_mask=63,
        rules=16,
        endpoints=16,
        ring=16,
    )
    config.secret[:] = (secrets.randbits(64), secrets.randbits(64))
    return config


@contextmanager
def arena(
    *,
    slots: int,
    keys: int,
    overflow: int = 4096,
    timeout: int = _KEPT,
    program_set: ProgramSet = ProgramSet.CURRENT,
) -> Iterator[Arena]:
    """A fresh data plane with a random secret, its ager running; ``timeout`` of all flows is in jiffies."""
    config, sizes = config_of(slots), sizes_of(slots, keys, overflow)
    with (
        BpfObject(object_path("flowcheck", program_set), rodata=bytes(config), sizes=sizes) as check,
        BpfObject(
            object_path("gc", program_set), rodata=bytes(config), sizes=sizes, reuse=shared(check.maps)
        ) as collector,
    ):
        rule = bytes(abi.Rule(timeout=timeout, live=1))
        maps.update(collector.maps["rules"], maps.index_key(0), rule, "rule")
        with _ageing(collector, program_set):
            yield Arena(check=check, collector=collector, slots=slots, keys=keys)


def shared(found: Mapping[str, int]) -> dict[str, int]:
    """Return the maps that all objects share."""
    return {name: one for name, one in found.items() if is_shared(name)}


@contextmanager
def _ageing(collector: BpfObject, program_set: ProgramSet) -> Iterator[None]:
    if program_set is ProgramSet.CURRENT:
        run_once(collector.programs["lox_age_start"])
        yield
        return
    ager = Ager(collector.programs, collector.maps)
    ager.start()
    try:
        yield
    finally:
        ager.stop()
