# SPDX-License-Identifier: Apache-2.0
"""The slow path's record of the packet in hand (``struct lox_work``), as far as a trace reads it.

It is none of the ABI: it lasts no longer than a packet, and is read in a sandbox only.
"""

import ctypes
from typing import Self

from loxilb.kernel.bpf.sandbox import Sandbox


class Work(ctypes.Structure):
    """``struct lox_work``; a test lets the compiler compare size and offsets."""

    _fields_ = (
        ("rule", ctypes.c_uint32),
        ("reason", ctypes.c_uint32),
        ("skipped", ctypes.c_uint8 * 240),
        ("rewrite", ctypes.c_uint8 * 40),
        ("dmac", ctypes.c_uint8 * 6),
        ("smac", ctypes.c_uint8 * 6),
        ("way_ifindex", ctypes.c_uint32),
        ("rest_of_way", ctypes.c_uint8 * 12),
        ("fib_head", ctypes.c_uint8 * 8),
        ("fib_ifindex", ctypes.c_uint32),
        ("fib_source", ctypes.c_uint8 * 20),
        ("fib_destination", ctypes.c_uint8 * 16),
        ("rest", ctypes.c_uint8 * 20),
    )

    @classmethod
    def read(cls, sandbox: Sandbox) -> Self:
        """Return that of the processor which ran the packet; all zero where none went off the plain path."""
        records = [cls.from_buffer_copy(raw) for raw in sandbox.per_cpu("work", 0, ctypes.sizeof(cls))]
        return next((one for one in records if any(bytes(one))), records[0])

    @property
    def went_slow(self) -> bool:
        """Whether the slow path knew what the packet becomes."""
        return any(self.rewrite)
