# SPDX-License-Identifier: Apache-2.0
"""Rules, endpoints and keys of listeners as the maps have them, very many at once: member by member, not one by one.

The layouts are those of ``bpf/abi.h``; addresses and ports are big-endian in them, all else is in host order.
"""

import ctypes
import sys
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache
from itertools import compress, repeat
from operator import or_
from typing import Any, cast

from loxilb.kernel import abi
from loxilb.kernel.bpf.clock import JiffyClock
from loxilb.model import L4Protocol, Mode, Selection
from loxilb.model.image import EndpointEntry, EndpointId, Listener, RuleId, SecondaryListener
from loxilb.model.service import PROTOCOLS
from loxilb.model.tables import Column, EndpointTable, RuleTable

_LAYOUTS = {4: abi.Listener4, 6: abi.Listener6}
_NUMBERS = {version: {one.value: one.number(version) for one in L4Protocol} for version in (4, 6)}
_NAMES = {number: one.value for number, one in PROTOCOLS.items()}
_SECONDARY = abi.LISTENER_SECONDARY
_LOW = (1 << 64) - 1
_USED = bytes(family in (4, 6) for family in range(256))
_LIVE = bytes(value == 1 for value in range(256))
_MODES = frozenset(map(int, Mode))
_SELECTIONS = frozenset(map(int, Selection))
_FLAGS = bytes(state & (1 << abi.SHARE_SHIFT) - 1 for state in range(256))
_SHARE_BITS = bytes(share % abi.FULL_SHARE << abi.SHARE_SHIFT for share in range(256))
_SHARES = bytes(state >> abi.SHARE_SHIFT or abi.FULL_SHARE for state in range(256))
# Without the slow constructor of a named tuple.
_new = cast("Callable[[type[Listener], tuple[object, ...]], Listener]", tuple.__new__)
_SIZES = {"B": 1, "H": 2, "I": 4, "Q": 8}


@cache
def _offsets(layout: type[ctypes.Structure]) -> tuple[Mapping[str, int], int]:
    """Return where each member of a layout is, and the size of all."""
    names = [name for name, *_ in layout._fields_]
    return {name: getattr(layout, name).offset for name in names}, ctypes.sizeof(layout)


class _Elements:
    """Elements of one layout in a row."""

    def __init__(self, layout: type[ctypes.Structure], data: bytearray | bytes) -> None:
        self._offsets, self._size = _offsets(layout)
        self._view = memoryview(data)

    def column(self, member: str, code: str = "B", *, shift: int = 0) -> "memoryview[Any]":
        """Return a member of each, which is ``code`` of :mod:`array`, ``shift`` bytes after its first one."""
        width, offset = _SIZES[code], self._offsets[member] + shift
        return self._view.cast(cast("Any", code))[offset // width :: self._size // width]

    def put(self, member: str, values: Iterable[int], code: str = "B", *, big: bool = False, shift: int = 0) -> None:
        """Write a member of each."""
        if code == "B":
            self.column(member)[:] = bytes(values)
            return
        words = array(code, values)
        if big and sys.byteorder == "little":
            words.byteswap()
        self.column(member, code, shift=shift)[:] = words

    def get(self, member: str, code: str = "B", *, big: bool = False, shift: int = 0) -> list[int]:
        """Read a member of each."""
        words = array(code, self.column(member, code, shift=shift).tobytes())
        if big and sys.byteorder == "little":
            words.byteswap()
        return words.tolist()

    def put_addresses(self, member: str, versions: Column, addresses: Column) -> None:
        """Write an address of 16 bytes of each; an IPv4 address is their beginning."""
        if 6 not in versions:
            self.put(member, addresses, "I", big=True)
            return
        pairs = list(zip(versions, addresses, strict=True))
        high = [address << 32 if version == 4 else address >> 64 for version, address in pairs]
        self.put(member, high, "Q", big=True)
        low = [0 if version == 4 else address & _LOW for version, address in pairs]
        self.put(member, low, "Q", big=True, shift=8)

    def get_addresses(self, member: str, versions: Column) -> list[int]:
        """Read an address of each."""
        if 6 not in versions:
            return self.get(member, "I", big=True)
        high = self.get(member, "Q", big=True)
        low = self.get(member, "Q", big=True, shift=8)
        return [
            one >> 32 if version == 4 else one << 64 | rest
            for version, one, rest in zip(versions, high, low, strict=True)
        ]


def endpoints_to_values(table: EndpointTable) -> bytes:
    """Return elements of the endpoint array in a row."""
    data = bytearray(len(table) * ctypes.sizeof(abi.Endpoint))
    rules, versions, addresses, ports, sources, flags, shares = table.columns
    elements = _Elements(abi.Endpoint, data)
    elements.put_addresses("addr", versions, addresses)
    if any(sources):
        elements.put_addresses("source", versions, sources)
    elements.put("rule", rules, "I")
    elements.put("port", ports, "H", big=True)
    elements.put("flags", map(or_, flags, bytes(shares).translate(_SHARE_BITS)))
    elements.put("family", versions)
    return bytes(data)


def endpoints_from_values(data: bytes) -> EndpointTable:
    """Inverse of :func:`endpoints_to_values`, of a whole array: those that are used."""
    size, family = ctypes.sizeof(abi.Endpoint), abi.Endpoint.family.offset
    used = data[family::size].translate(_USED).rstrip(b"\0")
    elements = _Elements(abi.Endpoint, data[: len(used) * size])
    families = elements.get("family")
    states = bytes(elements.column("flags"))
    columns = (
        elements.get("rule", "I"),
        families,
        elements.get_addresses("addr", families),
        elements.get("port", "H", big=True),
        elements.get_addresses("source", families),
        states.translate(_FLAGS),
        states.translate(_SHARES),
    )
    numbers = cast("list[EndpointId]", list(compress(range(len(used)), used)))
    return EndpointTable(numbers, [list(compress(column, used)) for column in columns])


def endpoint_from_value(value: bytes) -> EndpointEntry | None:
    """Return one endpoint; None for one that is not used."""
    return next(iter(endpoints_from_values(value).values()), None)


def rules_to_values(table: RuleTable, clock: JiffyClock) -> bytes:
    """Return elements of the rule array in a row."""
    data = bytearray(len(table) * ctypes.sizeof(abi.Rule))
    modes, selections, timeouts, bases, lengths, persists, restricted, limits = table.columns
    elements = _Elements(abi.Rule, data)
    ticks = {0: 0} | {seconds: clock.ticks(seconds) for seconds in {*timeouts, *persists} if seconds}
    elements.put("ring_base", bases, "I")
    elements.put("ring_length", lengths, "I")
    elements.put("timeout", map(ticks.__getitem__, timeouts), "I")
    if any(persists):
        elements.put("persist", map(ticks.__getitem__, persists), "I")
    elements.put("mode", modes)
    elements.put("select", selections)
    elements.put("live", bytes([1]) * len(table))
    if any(restricted):
        elements.put("restricted", restricted)
    if any(limits):
        elements.put("half_open_limit", limits, "I")
    return bytes(data)


def rules_from_values(data: bytes, clock: JiffyClock, room: int) -> RuleTable:
    """Inverse of :func:`rules_to_values`, of a whole array: those that are used and make sense.

    The others somebody else wrote; ``room`` is the length of the ring, which no slice reaches beyond.
    """
    size, live = ctypes.sizeof(abi.Rule), abi.Rule.live.offset
    used = data[live::size].translate(_LIVE).rstrip(b"\0")
    elements = _Elements(abi.Rule, data[: len(used) * size])
    modes, selections = elements.get("mode"), elements.get("select")
    bases, lengths = elements.get("ring_base", "I"), elements.get("ring_length", "I")
    timeouts, persists = elements.get("timeout", "I"), elements.get("persist", "I")
    seconds = {ticks: round(ticks / clock.rate) for ticks in {*timeouts, *persists}}
    columns = (
        modes,
        selections,
        [seconds[ticks] for ticks in timeouts],
        bases,
        lengths,
        [seconds[ticks] for ticks in persists],
        [1 if one else 0 for one in elements.get("restricted")],
        elements.get("half_open_limit", "I"),
    )
    right = [
        one and base + length <= room and mode in _MODES and selection in _SELECTIONS
        for one, base, length, mode, selection in zip(used, bases, lengths, modes, selections, strict=True)
    ]
    numbers = cast("list[RuleId]", list(compress(range(len(used)), right)))
    return RuleTable(numbers, [list(compress(column, right)) for column in columns])


def listeners_to_keys(listeners: Sequence[Listener], version: int) -> bytes:
    """Return the keys of listeners, all of one IP version, in a row."""
    layout, numbers = _LAYOUTS[version], _NUMBERS[version]
    data = bytearray(len(listeners) * ctypes.sizeof(layout))
    elements, addresses = _Elements(layout, data), [one.address for one in listeners]
    if version == 4:
        elements.put("addr", addresses, "I", big=True)
    else:
        elements.put_addresses("addr", [version] * len(listeners), addresses)
    elements.put("port", [one.port for one in listeners], "H", big=True)
    elements.put("proto", [numbers[one.protocol] for one in listeners])
    marks = [one.mark for one in listeners]
    if any(marks):
        elements.put("mark", marks, "I")
    return bytes(data)


def listener_to_key(listener: Listener) -> bytes:
    """Return the key of one."""
    return listeners_to_keys([listener], listener.version)


def listeners_from_elements(keys: bytes, values: bytes, version: int) -> list[tuple[Listener, int]]:
    """Return listeners and their words from elements in a row; not those of a protocol that there is not."""
    elements = _Elements(_LAYOUTS[version], keys)
    marks, ports, protocols = elements.get("mark", "I"), elements.get("port", "H", big=True), elements.get("proto")
    if version == 4:
        addresses = elements.get("addr", "I", big=True)
    else:
        addresses = elements.get_addresses("addr", [version] * len(marks))
    rows = zip(repeat(version), addresses, map(_NAMES.get, protocols), ports, marks)
    return [
        (_new(SecondaryListener if word & _SECONDARY else Listener, row), word)
        for row, word in zip(rows, array("I", values), strict=True)
        if row[2]  # else no packet finds it
    ]


def have_marks(keys: bytes, version: int) -> bool:
    """Tell whether any of the keys of listeners in a row has a mark."""
    return any(_Elements(_LAYOUTS[version], keys).column("mark", "I"))


def led_counted(keys: bytes, values: bytes, version: int) -> Mapping[bytes, int]:
    """Return how many listeners of each address lead to a rule, packed; of elements in a row."""
    elements = _Elements(_LAYOUTS[version], keys)
    pairs = zip(elements.get("proto"), array("I", values), strict=True)
    leads = [number in _NAMES and word & abi.LISTENER_RULE for number, word in pairs]
    if version == 4:
        return _counted4(compress(elements.column("addr", "I"), leads))
    addresses = list(compress(elements.get_addresses("addr", [version] * len(leads)), leads))
    return _counted([version] * len(addresses), addresses)


def endpoints_counted(data: bytes) -> Mapping[bytes, int]:
    """Return how many of the endpoints in elements of their array are at each address, packed."""
    size, family = ctypes.sizeof(abi.Endpoint), abi.Endpoint.family.offset
    used = data[family::size].translate(_USED).rstrip(b"\0")
    if not used:
        return {}
    elements = _Elements(abi.Endpoint, data[: len(used) * size])
    families = elements.get("family")
    if 6 not in families:
        return _counted4(compress(elements.column("addr", "I"), used))
    addresses = elements.get_addresses("addr", families)
    return _counted(list(compress(families, used)), list(compress(addresses, used)))


def listeners_counted(listeners: Collection[Listener]) -> Mapping[bytes, int]:
    """Return how many listeners each address has, packed."""
    return _counted([one.version for one in listeners], [one.address for one in listeners])


def _counted4(words: Iterable[int]) -> Mapping[bytes, int]:
    """Count IPv4 addresses, which are words as they lie in memory."""
    return {one.to_bytes(4, sys.byteorder): often for one, often in Counter(words).items()}


def _counted(versions: Sequence[int], addresses: Sequence[int]) -> Mapping[bytes, int]:
    which = set(versions)
    if len(which) == 1:  # as most often
        size = 4 if which == {4} else 16
        return {one.to_bytes(size, "big"): often for one, often in Counter(addresses).items()}
    counted = Counter(zip(versions, addresses, strict=True))
    return {one.to_bytes(4 if version == 4 else 16, "big"): often for (version, one), often in counted.items()}
