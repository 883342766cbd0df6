# SPDX-License-Identifier: Apache-2.0
"""The root of the control groups, version 2 (Documentation/admin-guide/cgroup-v2.rst)."""

import contextlib
import ctypes
import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loxilb.errors import KernelError

_DETACH = 2  # MNT_DETACH
_libc = ctypes.CDLL(None, use_errno=True)


def mounted_root() -> Path | None:
    """Return where the root of the hierarchy is mounted, None when it is nowhere (proc_pid_mountinfo(5))."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, source = line.partition(" - ")
        root, place = fields.split()[3:5]
        if source.startswith("cgroup2 ") and root == "/":
            return Path(place)
    return None


@contextmanager
def open_root() -> Iterator[int]:
    """Return a descriptor of the root; raises KernelError.

    In a cgroup namespace it is that namespace's root. Where it is not mounted, as below ``ip netns exec``, it is
    mounted for a moment.
    """
    place = mounted_root()
    descriptor = _mounted_for_now() if place is None else _open(place)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _mounted_for_now() -> int:
    place = Path(tempfile.mkdtemp(prefix="loxilb-cgroup-"))
    try:
        if _libc.mount(b"loxilb", os.fsencode(place), b"cgroup2", 0, None) != 0:
            raise KernelError(
                "mount the control groups", ctypes.get_errno(), remedy="run as root, with cgroup version 2"
            )
        try:
            return _open(place)
        finally:
            _libc.umount2(os.fsencode(place), _DETACH)
    finally:
        with contextlib.suppress(OSError):
            place.rmdir()


def _open(place: Path) -> int:
    try:
        return os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise KernelError(f"open the control groups at {place}", error.errno or errno.EIO) from error
