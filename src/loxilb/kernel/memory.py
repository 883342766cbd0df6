# SPDX-License-Identifier: Apache-2.0
"""Memory that the kernel shares, and what the C library keeps of memory that was freed."""

import ctypes
import mmap
import os
import weakref

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_long)
_libc.mmap.restype = ctypes.c_void_p
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_FAILED = ctypes.c_void_p(-1).value


def shared(descriptor: int, length: int) -> "ctypes.Array[ctypes.c_char]":
    """Map memory of the kernel until nobody refers to it any more; it must not be written to. Raises OSError.

    Some tens of milliseconds for a hundred MiB. Other threads go on meanwhile, which they do not with :mod:`mmap`.
    """
    address = _libc.mmap(None, length, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
    if address == _FAILED:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    memory = (ctypes.c_char * length).from_address(address)
    weakref.finalize(memory, _libc.munmap, address, length).atexit = False
    return memory


def give_back() -> None:
    """Return freed memory to the kernel (malloc_trim(3)); the GNU C library keeps it, others may not.

    Some milliseconds for a hundred MiB. Other threads go on meanwhile.
    """
    trim = getattr(_libc, "malloc_trim", None)
    if trim is not None:
        trim(0)
