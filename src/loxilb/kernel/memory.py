# SPDX-License-Identifier: Apache-2.0
"""What the C library keeps of memory that was freed."""

import ctypes


def give_back() -> None:
    """Return freed memory to the kernel (malloc_trim(3)); the GNU C library keeps it, others may not.

    Some milliseconds for a hundred MiB. Other threads go on meanwhile.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
