# SPDX-License-Identifier: Apache-2.0
"""A BPF object file: open, configure, load, and the maps and programs in it."""

import ctypes
import errno
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from loxilb.errors import KernelError
from loxilb.kernel.bpf import libbpf, maps
from loxilb.kernel.bpf.libbpf import check, check_pointer


class BpfObject:
    """One loaded object. Map and program descriptors live as long as the object.

    ``rodata`` is written over the start of the read-only data, ``sizes`` overrides ``max_entries``, ``reuse`` takes
    maps that exist already instead of creating new ones. Internal maps (``.rodata``) are never shared.
    """

    def __init__(
        self,
        path: Path,
        *,
        rodata: bytes = b"",
        sizes: Mapping[str, int] | None = None,
        reuse: Mapping[str, int] | None = None,
    ) -> None:
        """Open and load; raises KernelError with the verifier's last lines."""
        self.path = path
        self._handle = _open(path)
        try:
            self._maps = dict(_walk(self._handle, libbpf.next_map, libbpf.map_name))
            self._programs = dict(_walk(self._handle, libbpf.next_program, libbpf.program_name))
            self._configure(rodata, sizes or {}, reuse or {})
            check(libbpf.object_load(self._handle), f"load {path.name}")
        except BaseException:
            self.close()
            raise

    def _configure(self, rodata: bytes, sizes: Mapping[str, int], reuse: Mapping[str, int]) -> None:
        for name, item in self._maps.items():
            if name in reuse:
                _expect_layout(name, item, reuse[name])
                check(libbpf.map_reuse_fd(item, reuse[name]), f"reuse map {name}")
            elif name in sizes:
                check(libbpf.map_set_max_entries(item, sizes[name]), f"size map {name}")
            elif name.endswith(".rodata") and rodata:
                length = ctypes.c_size_t()
                address = libbpf.map_initial_value(item, ctypes.byref(length))
                ctypes.memmove(address, rodata, min(len(rodata), length.value))

    @property
    def maps(self) -> dict[str, int]:
        """Descriptor of every map that is not internal to the object."""
        return {name: libbpf.map_fd(item) for name, item in self._maps.items() if not libbpf.map_is_internal(item)}

    @property
    def internal(self) -> dict[str, int]:
        """Descriptor of every map that holds the object's own data."""
        return {name: libbpf.map_fd(item) for name, item in self._maps.items() if libbpf.map_is_internal(item)}

    @property
    def programs(self) -> dict[str, int]:
        """Descriptor of every program."""
        return {name: libbpf.program_fd(item) for name, item in self._programs.items()}

    def close(self) -> None:
        """Close the object's descriptors; what is pinned or attached stays."""
        if self._handle:
            libbpf.object_close(self._handle)
            self._handle = 0

    def __enter__(self) -> Self:
        """Return the object."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the object."""
        self.close()


def names_in(path: Path) -> tuple[frozenset[str], frozenset[str]]:
    """Return the programs of an object file, and its maps but for internal ones; nothing is loaded.

    Raises KernelError.
    """
    handle = _open(path)
    try:
        programs = frozenset(name for name, _ in _walk(handle, libbpf.next_program, libbpf.program_name))
        every = dict(_walk(handle, libbpf.next_map, libbpf.map_name))
        return programs, frozenset(name for name, item in every.items() if not libbpf.map_is_internal(item))
    finally:
        libbpf.object_close(handle)


def _open(path: Path) -> int:
    return check_pointer(libbpf.object_open(os.fsencode(path), None), f"open {path}")


def _walk(handle: int, step: Any, name: Any) -> Iterator[tuple[str, int]]:
    item = step(handle, None)
    while item:
        yield name(item).decode(), item
        item = step(handle, item)


def _expect_layout(name: str, item: int, descriptor: int) -> None:
    """Raise KernelError where the object's map has other keys or values: libbpf would take it all the same."""
    wanted, found = (libbpf.map_key_size(item), libbpf.map_value_size(item)), maps.describe(descriptor)
    if wanted != (found.key_size, found.value_size):
        detail = f"bytes of key and value are {found.key_size}, {found.value_size} there, {wanted[0]}, {wanted[1]} here"
        raise KernelError(f"reuse map {name}", errno.EINVAL, detail=detail, remedy="loxilb down, then start again")
