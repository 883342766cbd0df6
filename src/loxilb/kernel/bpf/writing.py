# SPDX-License-Identifier: Apache-2.0
"""What is configured, in the maps: operations carried out in order, all or none.

Operations of one kind that follow each other are carried out together: arrays are written through memory, neighbours at
once, hash maps in batches. So a hundred thousand services take as many seconds as a thousand take milliseconds.
"""

import contextlib
import ctypes
import struct
from array import array
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

from loxilb.errors import KernelError
from loxilb.kernel import abi
from loxilb.kernel.bpf import convert, layouts, maps
from loxilb.kernel.bpf.clock import JiffyClock
from loxilb.kernel.bpf.hosts import HostIndex
from loxilb.kernel.bpf.listeners import Leads, ListenerMaps, leads_of
from loxilb.kernel.bpf.maps import ArrayView
from loxilb.kernel.bpf.packing import Packed, joined, packed
from loxilb.model import IPNetwork
from loxilb.model.image import (
    Add,
    DropEndpoint,
    DropListener,
    DropRule,
    DropSource,
    Op,
    PutEndpoint,
    PutListener,
    PutRing,
    PutRule,
    PutSource,
    RuleId,
)
from loxilb.model.tables import EndpointTable, RuleTable

_Undo = Callable[[], None]
_Step = Callable[[Sequence[Any], list[_Undo]], None]

_NO_ENDPOINT = bytes(ctypes.sizeof(abi.Endpoint))
_NO_RULE = bytes(ctypes.sizeof(abi.Rule))
_NO_TRAFFIC = bytes(ctypes.sizeof(abi.Traffic))
_EPOCH, _STATE_WORDS = abi.EndpointState.epoch.offset // 4, ctypes.sizeof(abi.EndpointState) // 4
_POSITION = abi.RuleState.position.offset // 4


class ConfigurationWriter:
    """Writes rules, endpoints, slices, sources and listeners; its owner calls from one thread at a time."""

    def __init__(
        self,
        *,
        descriptors: Mapping[str, int],
        views: Mapping[str, ArrayView],
        listeners: ListenerMaps,
        hosts: HostIndex,
        clock: JiffyClock,
    ) -> None:
        """Take what to write to; the views are writable. Call :meth:`index` before the first change."""
        self._descriptors = descriptors
        self._views = views
        self._listeners = listeners
        self._hosts = hosts
        self._clock = clock
        self._steps: Mapping[type, _Step] = {
            Add: self._add,
            Packed: self._add,
            PutEndpoint: self._put_endpoints,
            DropEndpoint: self._drop_endpoints,
            PutRing: self._put_rings,
            PutRule: self._put_rules,
            DropRule: self._drop_rules,
            PutListener: self._put_listeners,
            DropListener: self._drop_listeners,
            PutSource: self._put_sources,
            DropSource: self._drop_sources,
        }

    def apply(self, ops: Sequence[Op], finish: Callable[[], None]) -> None:
        """Carry out ``ops`` in order, then ``finish``, all or none; raises KernelError."""
        undo: list[_Undo] = []
        try:
            for kind, run in groupby(ops, key=type):
                self._steps[kind](tuple(run), undo)
            self._hosts.flush()
            finish()
        except BaseException:  # also when the process is told to end: half of a change misleads packets
            for step in reversed(undo):
                with contextlib.suppress(KernelError):
                    step()
            self.index()
            raise

    def index(self) -> None:
        """Make the address index, and the count of marks, agree with what is programmed; raises KernelError."""
        endpoints = layouts.endpoints_counted(self._views["endpoints"].whole())
        self._hosts.rebuild(self._listeners.index(), endpoints)

    def packed(self, op: Add) -> Packed:
        """Return the operation as it is carried out: may take long, and changes nothing."""
        return packed(op, self._clock)

    def _add(self, ops: Sequence[Add], undo: list[_Undo]) -> None:
        for one in map(self.packed, ops):
            self._start_counting(one.slots, undo)
            self._write_endpoints(one.slots, one.endpoints, one.addresses, undo)
            for rule, networks in one.image.sources.items():
                for network in networks:
                    self._set_source(rule, network, True, undo)
            self._write_slices(one.slices)
            self._restart_positions(one.places, undo)
            self._views["rules"].put(one.places, one.rules, undo)
            self._lead(one.leads, undo)

    def _put_endpoints(self, ops: Sequence[PutEndpoint], undo: list[_Undo]) -> None:
        entries = {op.endpoint: op.entry for op in ops}
        if len(entries) < len(ops):  # one is replaced that is new itself
            for op in ops:
                self._put_endpoints([op], undo)
            return
        self._start_counting([op.endpoint for op in ops if op.fresh], undo)
        values = layouts.endpoints_to_values(EndpointTable.of(entries))
        self._write_endpoints(list(entries), values, layouts.endpoints_counted(values), undo)

    def _drop_endpoints(self, ops: Sequence[DropEndpoint], undo: list[_Undo]) -> None:
        slots = list(dict.fromkeys(op.endpoint for op in ops))
        self._write_elements(slots, _NO_ENDPOINT * len(slots), undo)

    def _start_counting(self, slots: Sequence[int], undo: list[_Undo]) -> None:
        for name in ("traffic", "live_traffic"):
            self._views[name].put(slots, _NO_TRAFFIC * len(slots), undo)
        self._views["endpoint_states"].put(slots, self._new_states(slots), undo)

    def _write_endpoints(
        self, slots: Sequence[int], values: bytes, addresses: Mapping[bytes, int], undo: list[_Undo]
    ) -> None:
        """Write endpoints to their slots; their addresses are known before."""
        self._hosts.add_endpoints(addresses)
        self._hosts.flush()
        self._write_elements(slots, values, undo)

    def _write_elements(self, slots: Sequence[int], after: bytes, undo: list[_Undo]) -> None:
        """Write slots; the addresses of the endpoints that were in them are forgotten after."""
        view = self._views["endpoints"]
        before = view.get(slots)
        view.put(slots, after, undo)
        self._hosts.drop_endpoints(layouts.endpoints_counted(before))

    def _new_states(self, slots: Sequence[int]) -> bytes:
        """Return states of endpoints new in their slots: what was counted for those before is not taken off them."""
        before = array("I", self._views["endpoint_states"].get(slots))
        after = array("I", bytes(len(before) * before.itemsize))
        after[_EPOCH::_STATE_WORDS] = array("I", [(one + 1) & 0xFFFFFFFF for one in before[_EPOCH::_STATE_WORDS]])
        return after.tobytes()

    def _put_rings(self, ops: Sequence[PutRing], _undo: list[_Undo]) -> None:
        self._write_slices(joined((op.base, op.endpoints) for op in ops))

    def _write_slices(self, slices: Sequence[tuple[int, bytes]]) -> None:
        """Write slices. No rule points there yet, so there is nothing to swap at once or to take back."""
        for at, slots in slices:
            self._views["ring"].write(at, slots)

    def _put_rules(self, ops: Sequence[PutRule], undo: list[_Undo]) -> None:
        rules = RuleTable.of({op.rule: op.entry for op in ops})
        if len(rules) < len(ops):  # one is replaced that is new itself
            for op in ops:
                self._put_rules([op], undo)
            return
        self._restart_positions([op.rule for op in ops if op.fresh], undo)
        self._views["rules"].put(rules.numbers, layouts.rules_to_values(rules, self._clock), undo)

    def _drop_rules(self, ops: Sequence[DropRule], undo: list[_Undo]) -> None:
        self._views["rules"].put([op.rule for op in ops], _NO_RULE * len(ops), undo)

    def _restart_positions(self, rules: Sequence[int], undo: list[_Undo]) -> None:
        """Restart round robin. Flows of a rule that had the id before still count themselves off beside it."""
        view = self._views["rule_states"]
        positions = array("I", view.get(rules))[_POSITION :: view.stride // 4]
        moved = list[tuple[int, bytes]]()
        undo.append(lambda: _write_back(view, moved))
        for rule, position in zip(rules, positions, strict=True) if any(positions) else ():
            offset = rule * view.stride + abi.RuleState.position.offset
            if position:
                moved.append((offset, view.read(offset, 4)))
                view.write(offset, bytes(4))

    def _put_listeners(self, ops: Sequence[PutListener], undo: list[_Undo]) -> None:
        self._lead(leads_of({op.listener: op.rule for op in ops}), undo)

    def _lead(self, leads: Leads, undo: list[_Undo]) -> None:
        """Lead listeners to rules; their addresses are known before."""
        self._hosts.add_services(leads.addresses)
        self._hosts.flush()
        self._hosts.drop_services(layouts.listeners_counted(self._listeners.put_all(leads, undo)))

    def _drop_listeners(self, ops: Sequence[DropListener], undo: list[_Undo]) -> None:
        for op in ops:
            if self._listeners.put(op.listener, None, undo):
                self._hosts.drop_services(layouts.listeners_counted([op.listener]))

    def _put_sources(self, ops: Sequence[PutSource], undo: list[_Undo]) -> None:
        for op in ops:
            self._set_source(op.rule, op.network, True, undo)

    def _drop_sources(self, ops: Sequence[DropSource], undo: list[_Undo]) -> None:
        for op in ops:
            self._set_source(op.rule, op.network, False, undo)

    def _set_source(self, rule: RuleId, network: IPNetwork, present: bool, undo: list[_Undo]) -> None:
        """Write or remove one prefix. A look-up would answer with a shorter one, which says nothing of it."""
        undo.append(lambda: self._write_source(rule, network, not present))
        self._write_source(rule, network, present)

    def _write_source(self, rule: RuleId, network: IPNetwork, present: bool) -> None:
        key = convert.source_to_key(rule, network)
        if present:
            value = struct.pack("=I", network.version)
            maps.update(self._descriptors["sources"], key, value, f"allow {network}")
        else:
            maps.delete(self._descriptors["sources"], key, f"stop allowing {network}")


def _write_back(view: ArrayView, moved: Sequence[tuple[int, bytes]]) -> None:
    for offset, before in moved:
        view.write(offset, before)
