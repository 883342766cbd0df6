# SPDX-License-Identifier: Apache-2.0
"""Notices that somebody else removed a pin or detached a program, and puts pins back.

A descriptor of each pinned link is held, so that a link outlives its pin. A link that was detached (``bpftool link
detach``) still exists, and says that it is on no interface (``struct bpf_link_info`` of linux/bpf.h).
"""

import ctypes
import errno
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from loxilb.errors import KernelError
from loxilb.kernel.bpf import libbpf, pins
from loxilb.kernel.bpf.libbpf import check


class PinGuard:
    """The pins of one directory; one thread at a time."""

    def __init__(self, directory: pins.PinDirectory, pinned: Callable[[], Mapping[Path, Mapping[str, int]]]) -> None:
        """Guard the pins of links, and what ``pinned`` returns: descriptors by folder and name."""
        self._directory = directory
        self._pinned = pinned
        self._links: dict[str, int] = {}
        self._info = libbpf.LinkInfo()
        self._size = ctypes.c_uint32(ctypes.sizeof(self._info))

    def close(self) -> None:
        """Let go of the links; their pins keep them."""
        for descriptor in self._links.values():
            os.close(descriptor)
        self._links.clear()

    def restore(self) -> int:
        """Pin again what lost its pin, and return how much that was; raises KernelError."""
        links, pinned = self._directory.root / "links", self._pinned()
        present = _names(links)
        self._follow(links, present)
        lost = {links / name: self._links[name] for name in self._links.keys() - present}
        for folder, content in pinned.items():
            lost |= {folder / name: content[name] for name in content.keys() - _names(folder)}
        if lost:
            self._directory.create()
        for path, descriptor in lost.items():
            pins.pin(descriptor, path)
        return len(lost)

    def missing(self, expected: Iterable[str]) -> frozenset[str]:
        """Return the links that are attached to nothing or not there, of those ``expected``: ``tcx-3``."""
        return frozenset(name for name in expected if name not in self._links)

    def _follow(self, folder: Path, present: frozenset[str]) -> None:
        """Hold exactly the links that are attached; a pin whose link is not is removed."""
        for name in [name for name, descriptor in self._links.items() if not self._is_attached(name, descriptor)]:
            os.close(self._links.pop(name))
        for name in present - self._links.keys():
            descriptor = pins.get(folder / name)
            if descriptor is not None and self._is_attached(name, descriptor):
                self._links[name] = descriptor
            elif descriptor is not None:
                os.close(descriptor)

    def _is_attached(self, name: str, descriptor: int) -> bool:
        ctypes.memset(ctypes.byref(self._info), 0, ctypes.sizeof(self._info))
        self._size.value = ctypes.sizeof(self._info)
        check(
            libbpf.object_info(descriptor, ctypes.byref(self._info), ctypes.byref(self._size)), f"ask for link {name}"
        )
        return bool(self._info.target)


def _names(folder: Path) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder))  # noqa: PTH208 once a second, a tenth of the time
    except FileNotFoundError:
        return frozenset()
    except OSError as error:
        raise KernelError(f"list {folder}", error.errno or errno.EIO) from error
