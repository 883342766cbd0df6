# SPDX-License-Identifier: Apache-2.0
"""The ring buffers through which the programs report flows (Documentation/bpf/ringbuf.rst).

The programs drop what finds a buffer full: a packet never waits for a reader.
"""

import asyncio
import ctypes
import errno
from collections.abc import AsyncIterator, Callable
from typing import Any, Generic, TypeVar

from loxilb.kernel.bpf import libbpf
from loxilb.kernel.bpf.libbpf import check, check_pointer

BATCH = 256
"""Records taken at once; the event loop does other work in between."""

_Record = TypeVar("_Record")
_Callback: Any = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


class RingReader(Generic[_Record]):
    """Reads a ring buffer. One reader at a time: what one has read, another does not see."""

    def __init__(self, descriptor: int, decode: Callable[[bytes], _Record]) -> None:
        """Map the ring buffer with this descriptor; raises KernelError."""
        self._decode = decode
        self._records: list[bytes] = []
        self._callback = _Callback(self._keep)  # libbpf holds no reference of its own
        ring = libbpf.ring_buffer_new(descriptor, ctypes.cast(self._callback, ctypes.c_void_p), None, None)
        self._ring = check_pointer(ring, "open a ring buffer")

    def _keep(self, _context: int | None, data: int, size: int) -> int:
        """Copy a record; a negative result ends this round of ``ring_buffer__consume`` after it.

        Called from C, through which no exception can pass, so nothing is decoded here.
        """
        self._records.append(ctypes.string_at(data, size))
        return 0 if len(self._records) < BATCH else -errno.ECANCELED

    def fileno(self) -> int:
        """Return a descriptor that is readable while there are records."""
        return int(libbpf.ring_buffer_epoll_fd(self._ring))

    def read(self) -> list[_Record]:
        """Take the oldest records, at most :data:`BATCH`, without waiting; raises KernelError."""
        result = libbpf.ring_buffer_consume(self._ring)
        records, self._records = self._records, []
        if result != -errno.ECANCELED:
            check(result, "read a ring buffer")
        return [self._decode(record) for record in records]

    async def follow(self) -> AsyncIterator[list[_Record]]:
        """Report records as they come, some at once, without end; raises KernelError."""
        while True:
            await self._readable()
            if records := self.read():
                yield records

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        descriptor = self.fileno()

        def wake() -> None:
            if not ready.done():
                ready.set_result(None)

        loop.add_reader(descriptor, wake)
        try:
            await ready
        finally:
            loop.remove_reader(descriptor)

    def close(self) -> None:
        """Unmap; records not read stay for the next reader."""
        if self._ring:
            libbpf.ring_buffer_free(self._ring)
            self._ring = 0
