# SPDX-License-Identifier: Apache-2.0
"""The same programs on maps of their own: packets can be run through them without a trace in the live data plane.

The programs are loaded from the same object files with the same load-time configuration, but that only one IP version
is served, which halves the verifier's work: for that version they are the same instructions. What they only read
(services, endpoints, interfaces) they share with the live ones. All that they write is theirs alone, and starts as a
copy: the flow tables of one IP version, the positions and counts that the choice of an endpoint depends on, and the
next hops. For that time those tables take their memory twice.
"""

import ctypes
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from loxilb.kernel import abi
from loxilb.kernel.bpf import libbpf, loading, maps
from loxilb.kernel.bpf.maps import ArrayView
from loxilb.kernel.bpf.object import BpfObject

# No program of a packet writes these.
SHARED = frozenset(
    ("rules", "endpoints", "ring", "served", "listeners4", "listeners6", "sources", "hosts", "links"),
)
_OF_VERSION = ("flow{}", "used{}", "overflow{}", "half{}")
# Copied through memory, and by system calls.
_MAPPED: Mapping[str, type[ctypes.Structure]] = {
    "runtime": abi.Runtime,
    "rule_states": abi.RuleState,
    "endpoint_states": abi.EndpointState,
    "next_hops": abi.NextHop,
    "flow4": abi.Flow4,
    "flow4_cold": abi.Cold,
    "half4": abi.Whole4,
    "flow6": abi.Flow6,
    "half6": abi.Flow6,
}
_BATCHED: Mapping[str, tuple[int, int]] = {
    "used4": (4, 8),
    "used6": (4, 8),
    "overflow4": (ctypes.sizeof(abi.Key4), ctypes.sizeof(abi.Whole4)),
    "overflow6": (ctypes.sizeof(abi.Key6), ctypes.sizeof(abi.Flow6)),
    "affinities": (ctypes.sizeof(abi.Client), ctypes.sizeof(abi.Affinity)),
    "icmp_peers": (16, ctypes.sizeof(abi.Bucket)),
}


class Sandbox:
    """Copies of the data plane for packets of one IP version; everything goes away with it.

    ``config`` is what its programs are loaded with.
    """

    def __init__(self, loaded: loading.Loaded, version: int) -> None:
        """Nothing is loaded before a program is asked for."""
        self._loaded = loaded
        other = 10 - version
        self.config = abi.Config.from_buffer_copy(loaded.config)
        for mask in (f"flow{other}_mask", f"half{other}_mask"):
            setattr(self.config, mask, 0)
        idle = {name.format(other) for name in _OF_VERSION} | ({"flow4_cold"} if version == 6 else set())
        self._sizes = {name: 1 if name in idle else size for name, size in loaded.sizes.items()}
        self._idle = idle
        self._own: dict[str, int] = {}
        self._objects: dict[str, BpfObject] = {}
        self._views: dict[str, ArrayView] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Free everything."""
        self._stack.close()

    def program(self, hook: str) -> int:
        """Return the descriptor of an entry program (``xdp``, ``tc``); raises KernelError."""
        if hook not in self._objects:
            shared = {name: descriptor for name, descriptor in self._loaded.maps.items() if name in SHARED}
            loaded = BpfObject(
                self._loaded.path(hook),
                rodata=bytes(self.config),
                sizes=self._sizes,
                reuse=shared | self._own,
            )
            self._stack.callback(loaded.close)
            self._objects[hook] = loaded
            new = {name: one for name, one in loaded.maps.items() if name not in shared and name not in self._own}
            self._own |= new
            for name in new:
                self._copy(name)
        return self._objects[hook].programs[f"lox_{hook}"]

    def _copy(self, name: str) -> None:
        live = self._loaded.maps.get(name)
        if live is None or name in self._idle:
            return
        if name in _MAPPED:
            self._copy_array(name, live)
        elif name in _BATCHED:
            maps.copy(live, self._own[name], *_BATCHED[name])

    def _copy_array(self, name: str, live: int) -> None:
        size, entries = ctypes.sizeof(_MAPPED[name]), self._sizes.get(name, 1)
        view = ArrayView(self._own[name], entries=entries, value_size=size, writable=True)
        self._stack.callback(view.close)
        self._views[name] = view
        original = ArrayView(live, entries=entries, value_size=size)
        try:
            view.copy_from(original)
        finally:
            original.close()
        if name == "runtime":
            view.write(abi.Runtime.events.offset, bytes(4))

    def view(self, name: str) -> ArrayView:
        """Return one of the copied arrays."""
        return self._views[name]

    def lookup(self, name: str, key: bytes, size: int) -> bytes | None:
        """Read an element of a map, of its own or shared; None when it is missing."""
        return maps.lookup(self._own.get(name) or self._loaded.maps[name], key, size)

    def per_cpu(self, name: str, index: int, size: int) -> Iterator[bytes]:
        """Return one element of a map that has it once a processor; ``size`` is a multiple of 8."""
        raw = self.lookup(name, maps.index_key(index), size * libbpf.possible_cpus()) or b""
        return (raw[at : at + size] for at in range(0, len(raw), size))

    def clear_per_cpu(self, name: str, index: int, size: int) -> None:
        """Zero such an element."""
        zeros = bytes(size * libbpf.possible_cpus())
        maps.update(self._own[name], maps.index_key(index), zeros, f"clear {name}")
