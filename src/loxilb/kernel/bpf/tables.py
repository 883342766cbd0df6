# SPDX-License-Identifier: Apache-2.0
"""Reading the flow tables through memory: no system call per flow."""

import ctypes
import os
import threading
from collections.abc import Iterator, Mapping

from loxilb.kernel import abi, memory
from loxilb.kernel.bpf import maps
from loxilb.kernel.bpf.maps import ArrayView
from loxilb.model.flow_list import FlowQuery
from loxilb.ports import FlowPage

ARRAYS: Mapping[str, type[ctypes.Structure]] = {
    "rules": abi.Rule,
    "endpoints": abi.Endpoint,
    "endpoint_states": abi.EndpointState,
    "traffic": abi.Traffic,
    "live_traffic": abi.Traffic,
    "rule_states": abi.RuleState,
    "ring": abi.RingLine,
}
"""Arrays that are read whole or written, with the layout of their elements."""
COUNTED: Mapping[str, int] = {
    "listeners4": ctypes.sizeof(abi.Listener4),
    "listeners6": ctypes.sizeof(abi.Listener6),
    "sources": ctypes.sizeof(abi.SourceKey),
    "affinities": ctypes.sizeof(abi.Client),
}
"""Hash tables whose elements are counted, with the size of their keys."""
_HOT = abi.Flow4 | abi.Flow6
_MANY = 16
"""Copies of a page, some thousand flows each, whose search leaves memory behind that is worth giving back."""
_TABLES: Mapping[str, type[ctypes.Structure]] = {
    "flow4": abi.Flow4,
    "flow4_cold": abi.Cold,
    "flow6": abi.Flow6,
    "half4": abi.Whole4,
    "half6": abi.Flow6,
}


class FlowTables:
    """The four tables and the two overflow maps, read only.

    The tables are in memory only while they are read: all of what is mapped counts as memory of the daemon.
    """

    def __init__(self, descriptors: Mapping[str, int], sizes: Mapping[str, int]) -> None:
        """Take the maps; ``sizes`` are their numbers of slots."""
        self._descriptors = descriptors
        self._sizes = sizes
        self._searching = threading.Lock()

    def _mapped(self) -> dict[str, ArrayView]:
        """Map the tables, until nobody refers to them any more; raises KernelError."""
        return {
            name: ArrayView(self._descriptors[name], entries=self._sizes[name], value_size=ctypes.sizeof(layout))
            for name, layout in _TABLES.items()
        }

    def page(self, query: FlowQuery, rules: ArrayView) -> FlowPage:
        """Return the flows asked for, in order; ``rules`` says what is done with the packets of each.

        It takes some 70 bytes for each one found until they are in order, 8 from then on, and one search at a time.
        """
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy would start threads for matrices
        from loxilb.kernel.bpf import listing  # noqa: PLC0415 loads numpy, for those who list flows

        with self._searching:
            page = listing.page({**self._mapped(), "rules": rules}, self._descriptors, query)
            if len(page.columns) > _MANY:
                memory.give_back()
            return page

    def live(self) -> Iterator[tuple[_HOT, abi.Cold]]:
        """Return both halves of every live slot. A flow that ends meanwhile may or may not be among them."""
        views = self._mapped()
        yield from _established4(views)
        for name in ("flow6", "half6"):
            view = views[name]
            for at in view.indexes(0, abi.SLOT_LIVE):
                six = abi.Flow6.from_buffer_copy(view.element(at))
                yield six, six.cold
        view = views["half4"]
        for at in view.indexes(0, abi.SLOT_LIVE):
            whole = abi.Whole4.from_buffer_copy(view.element(at))
            yield whole.flow, whole.cold
        yield from self._overflowing()

    def _overflowing(self) -> Iterator[tuple[_HOT, abi.Cold]]:
        whole_size, six_size = ctypes.sizeof(abi.Whole4), ctypes.sizeof(abi.Flow6)
        for _, value in maps.dump(self._descriptors["overflow4"], ctypes.sizeof(abi.Key4), whole_size):
            whole = abi.Whole4.from_buffer_copy(value)
            yield whole.flow, whole.cold
        for _, value in maps.dump(self._descriptors["overflow6"], ctypes.sizeof(abi.Key6), six_size):
            six = abi.Flow6.from_buffer_copy(value)
            yield six, six.cold


def _established4(views: Mapping[str, ArrayView]) -> Iterator[tuple[abi.Flow4, abi.Cold]]:
    hot, cold = views["flow4"], views["flow4_cold"]
    for at in hot.indexes(0, abi.SLOT_LIVE):
        yield abi.Flow4.from_buffer_copy(hot.element(at)), abi.Cold.from_buffer_copy(cold.element(at))
