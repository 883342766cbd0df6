# SPDX-License-Identifier: Apache-2.0
"""Whether what is pinned can be taken over: maps are read only by programs that know their layout.

A start that finds maps of another layout is refused before it changes anything, so they keep forwarding.
"""

import ctypes
import errno
import hashlib
import inspect
import os
from collections.abc import Mapping
from pathlib import Path

from loxilb.errors import KernelError
from loxilb.kernel import abi
from loxilb.kernel.bpf import maps, pins

_REMEDY = (
    "start the loxilb that made it; or, where its connections may be lost, loxilb down and start again: "
    "the configuration stays"
)
# What maps were made with; everything else of the configuration is of the start that loads the programs.
_LASTING = (
    *("secret", "flow4_mask", "flow6_mask", "half4_mask", "half6_mask", "link_mask", "next_hop_mask"),
    *("rules", "endpoints", "ring"),
)


def fingerprint() -> bytes:
    """Return 8 bytes that change with the name, place or size of any member of any struct in ``bpf/abi.h``."""
    kinds = [kind for _, kind in inspect.getmembers(abi, inspect.isclass) if issubclass(kind, ctypes.Structure)]
    layouts = [
        (kind.__name__, ctypes.sizeof(kind), member, getattr(kind, member).offset, getattr(kind, member).size)
        for kind in kinds
        for member, *_ in kind._fields_
    ]
    return hashlib.sha256(repr(layouts).encode()).digest()[:8]


def refused(root: Path, what: str) -> KernelError:
    """Return the error for a data plane in ``root`` that this program cannot take over."""
    detail = f"the one in place is of {what}, this loxilb reads ABI version {abi.ABI_VERSION} only; it keeps forwarding"
    return KernelError(f"take over the data plane in {root}", errno.EEXIST, detail=detail, remedy=_REMEDY)


def make_way(directory: pins.PinDirectory, bpffs: Path | None) -> None:
    """Refuse where a data plane is pinned elsewhere for this namespace, of another version; raises KernelError.

    What is left of a first start that was cut short holds no state, and is removed.
    """
    for root in pins.existing(bpffs):
        if root == directory.root:
            continue
        if pins.is_complete(root):
            raise refused(root, f"ABI version {root.name.removeprefix('v')}")
        pins.remove_root(root)


def pinned_maps(directory: pins.PinDirectory) -> dict[str, int]:
    """Return a descriptor of every pinned map; raises KernelError."""
    found = {}
    folder = directory.root / "maps"
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        descriptor = pins.get(path)
        if descriptor is not None:
            found[path.name] = descriptor
    return found


def close(descriptors: Mapping[str, int]) -> None:
    """Close descriptors of maps."""
    for descriptor in descriptors.values():
        os.close(descriptor)


def adopt_config(directory: pins.PinDirectory, found: Mapping[str, int], fresh: abi.Config) -> abi.Config | None:
    """Return what to load programs with on the maps ``found``: their sizes and secret, the rest of ``fresh``.

    None where the configuration is not pinned, which is pinned last: a start was cut short, and the maps have nothing
    in them. Raises KernelError for maps of another layout.
    """
    descriptor = found.get(pins.CONFIG)
    if descriptor is None:
        return None
    size, own = ctypes.sizeof(abi.Config), fingerprint()
    value = b""
    if maps.describe(descriptor).value_size == size + len(own):
        value = maps.lookup(descriptor, maps.index_key(0), size + len(own)) or b""
    if value[size:] != own:
        raise refused(directory.root, f"another layout, though of ABI version {abi.ABI_VERSION} too")
    adopted = abi.Config.from_buffer_copy(value)
    for name in _LASTING:
        setattr(fresh, name, getattr(adopted, name))
    return fresh


def keep_config(directory: pins.PinDirectory, config: abi.Config) -> int:
    """Pin the configuration and the fingerprint; returns the map's descriptor; raises KernelError."""
    value = bytes(config) + fingerprint()
    descriptor = maps.create_array("lox_config", len(value))
    try:
        maps.update(descriptor, maps.index_key(0), value, "write the load-time configuration")
        pins.pin(descriptor, directory.map_path(pins.CONFIG))
    except KernelError:
        os.close(descriptor)
        raise
    return descriptor
