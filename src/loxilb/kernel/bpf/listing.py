# SPDX-License-Identifier: Apache-2.0
"""Lists of flows over both IP versions, from the tables that the kernel shares."""

import ctypes
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loxilb.kernel import abi
from loxilb.kernel.bpf import maps
from loxilb.kernel.bpf.flow_rows import Family, Slots, column
from loxilb.kernel.bpf.maps import ArrayView
from loxilb.model.flow_list import FlowColumns, FlowQuery
from loxilb.ports import FlowPage


def page(views: Mapping[str, ArrayView], descriptors: Mapping[str, int], query: FlowQuery) -> FlowPage:
    """Return the flows asked for, in order; ``views`` are the tables and the rules."""
    modes = _column(views["rules"], "u1", abi.Rule.mode.offset).copy()  # next to each other, for the caches
    left, count, last, more = query.limit, 0, None, False
    columns: list[Callable[[], FlowColumns]] = []
    for version, family_of in ((4, _family4), (6, _family6)):
        if query.after is None or query.after.version <= version:
            family = family_of(views, descriptors)
            found = family.find(query, left)
            left = None if left is None else left - found.count
            count += found.count
            last, more = found.last or last, more or found.more
            columns += family.columns(found, modes)
    return FlowPage(columns=columns, count=count, after=last if more else None)


def _family4(views: Mapping[str, ArrayView], descriptors: Mapping[str, int]) -> Family:
    whole = ctypes.sizeof(abi.Whole4)
    overflow = _overflowing(descriptors["overflow4"], ctypes.sizeof(abi.Key4), whole)
    passing = [_table(4, views["half4"]), Slots.over(4, overflow, count=len(overflow) // whole, stride=whole)]
    rules = _column(views["flow4_cold"], "u4", abi.Cold.rule.offset)
    return Family(4, passing=passing, main=_table(4, views["flow4"], rules))


def _family6(views: Mapping[str, ArrayView], descriptors: Mapping[str, int]) -> Family:
    whole = ctypes.sizeof(abi.Flow6)
    overflow = _overflowing(descriptors["overflow6"], ctypes.sizeof(abi.Key6), whole)
    passing = [_table(6, views["half6"]), Slots.over(6, overflow, count=len(overflow) // whole, stride=whole)]
    return Family(6, passing=passing, main=_table(6, views["flow6"]))


def _column(view: ArrayView, form: str, offset: int) -> NDArray[Any]:
    return column(view.memory, form, count=view.entries, stride=view.stride, offset=offset)


def _table(version: int, view: ArrayView, rules: NDArray[np.uint32] | None = None) -> Slots:
    return Slots.over(version, view.memory, count=view.entries, stride=view.stride, rules=rules)


def _overflowing(descriptor: int, key_size: int, value_size: int) -> bytes:
    return b"".join(value for _, value in maps.dump(descriptor, key_size, value_size))
