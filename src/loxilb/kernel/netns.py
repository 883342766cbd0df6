# SPDX-License-Identifier: Apache-2.0
"""Network namespaces: enter one, and tell two of them apart.

Python 3.11 has no ``os.setns``, so this goes to the C library. A namespace is entered for the calling thread
and every thread it starts afterwards; the daemon does it once, before it has any other thread.
"""

import ctypes
import errno
import os
import socket
import struct
from pathlib import Path

from loxilb.errors import KernelError

_CLONE_NEWNET = 0x4000_0000
_SO_NETNS_COOKIE = 71  # asm-generic/socket.h, Linux 5.14
_NAMED = Path("/run/netns")
_libc = ctypes.CDLL(None, use_errno=True)
_libc.setns.argtypes = (ctypes.c_int, ctypes.c_int)
_libc.setns.restype = ctypes.c_int


def path_of(namespace: str) -> Path:
    """Return the file of a namespace given by name (as ``ip netns`` keeps them) or by path."""
    return Path(namespace) if "/" in namespace else _NAMED / namespace


def enter(namespace: str) -> None:
    """Move the calling thread into a namespace (setns(2)); raises KernelError.

    Only the network changes: mounts, and with them bpffs and cgroups, stay as they are.
    """
    try:
        descriptor = os.open(path_of(namespace), os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise KernelError(
            f"open network namespace {namespace}", error.errno or errno.EIO, remedy="see: ip netns list"
        ) from error
    try:
        if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
            raise KernelError(f"enter network namespace {namespace}", ctypes.get_errno(), remedy="run as root")
    finally:
        os.close(descriptor)


def identity() -> str:
    """Return a word for the calling thread's namespace that no other namespace of this boot has.

    It is the namespace cookie of the kernel (``c7``); before Linux 5.14, which has none, the inode
    (``i4026531840``).
    """
    own = cookie()
    if own is not None:
        return f"c{own}"
    return f"i{os.stat('/proc/thread-self/ns/net').st_ino}"  # noqa: PTH116 the link's target, not a file of ours


def lasting_name() -> str | None:
    """Return a word by which the calling thread's namespace is found again after a reboot; None where there is none.

    ``netns-NAME`` is one that ``ip netns`` keeps, ``host`` the namespace of the first process, in a container that of
    the container's. Who may not look at the first process (proc_pid_ns(5)) is taken to be in its namespace.
    """
    own = _inode(Path("/proc/thread-self/ns/net"))
    for path in sorted(_NAMED.iterdir()) if _NAMED.is_dir() else ():
        if _inode(path) == own:
            return f"netns-{path.name}"
    return "host" if _inode(Path("/proc/1/ns/net")) in (own, None) else None


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def cookie() -> int | None:
    """Return the kernel's number for the calling thread's namespace (SO_NETNS_COOKIE); None before Linux 5.14."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            raw = probe.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
        except OSError as error:
            if error.errno == errno.ENOPROTOOPT:
                return None
            raise
    return int(struct.unpack("=Q", raw)[0])
