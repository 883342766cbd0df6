# SPDX-License-Identifier: Apache-2.0
"""The listener maps: which rule an address, a port and a mark lead to.

The packet path looks without a mark first. Where there are listeners with one beside, the element it finds says so, and
exists for that alone where there is no rule without a mark. That is kept here, not by the planner.
"""

import contextlib
import ctypes
import struct
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from loxilb.kernel import abi
from loxilb.kernel.bpf import convert, maps
from loxilb.model.image import Listener, RuleId

_Undo = Callable[[], None]


class ListenerMaps:
    """The maps of both families; call :meth:`count` before the first change, and after one that was taken back."""

    def __init__(self, descriptors: Mapping[str, int]) -> None:
        """Take the descriptors of all maps by name."""
        self._maps = {version: descriptors[f"listeners{version}"] for version in (4, 6)}
        self._marked: Counter[Listener] = Counter()

    def read(self) -> Iterator[tuple[Listener, RuleId]]:
        """Return every listener that a packet finds, and its rule; raises KernelError.

        One with a mark is not found while the element without says nothing of it.
        """
        words = dict(self._words())
        for listener, word in words.items():
            found = not listener.mark or words.get(replace(listener, mark=0), 0) & abi.LISTENER_MARKED
            if found and word & abi.LISTENER_RULE:
                yield (
                    replace(listener, secondary=True) if word & abi.LISTENER_SECONDARY else listener,
                    RuleId(word & abi.LISTENER_RULE),
                )

    def _words(self) -> Iterator[tuple[Listener, int]]:
        for version, layout in ((4, abi.Listener4), (6, abi.Listener6)):
            for key, value in maps.dump(self._maps[version], ctypes.sizeof(layout), 4):
                with contextlib.suppress(KeyError):  # a protocol that there is not: no packet finds it
                    yield convert.listener_from_key(key, version), int.from_bytes(value, sys.byteorder)

    def count(self) -> None:
        """Count anew the listeners with a mark; raises KernelError."""
        words = self._words()
        self._marked = Counter(replace(one, mark=0) for one, word in words if one.mark and word & abi.LISTENER_RULE)

    def put(self, listener: Listener, rule: RuleId | None, undo: list[_Undo]) -> bool:
        """Lead a listener to a rule (None: to none); tells whether it was there, and adds what undoes it.

        Raises KernelError.
        """
        before = self._word(listener)
        word = (rule or 0) | (abi.LISTENER_SECONDARY if rule and listener.secondary else 0)
        if not listener.mark:
            self._change(listener, before, word | (before & abi.LISTENER_MARKED), undo)
            return bool(before & abi.LISTENER_RULE)
        self._change(listener, before, word, undo)
        base = replace(listener, mark=0)
        self._marked[base] += bool(rule) - bool(before)
        marked = abi.LISTENER_MARKED if self._marked[base] else 0
        found = self._word(base)
        self._change(base, found, (found & ~abi.LISTENER_MARKED) | marked, undo)
        return bool(before)

    def _change(self, listener: Listener, before: int, word: int, undo: list[_Undo]) -> None:
        self._set(listener, word)
        undo.append(lambda: self._set(listener, before))

    def _word(self, listener: Listener) -> int:
        found = maps.lookup(self._maps[listener.version], convert.listener_to_key(listener), 4)
        return struct.unpack("=I", found)[0] if found else 0

    def _set(self, listener: Listener, word: int) -> None:
        key = convert.listener_to_key(listener)
        if word:
            maps.update(self._maps[listener.version], key, struct.pack("=I", word), "write a listener")
        else:
            maps.delete(self._maps[listener.version], key, "remove a listener")
