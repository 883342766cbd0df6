# SPDX-License-Identifier: Apache-2.0
"""Access to BPF maps: single elements, whole dumps, and arrays mapped into memory."""

import ctypes
import errno
import mmap
import struct
from collections.abc import Callable, Iterator, Sequence
from itertools import compress
from typing import Any

from loxilb.errors import KernelError
from loxilb.kernel import memory
from loxilb.kernel.bpf import libbpf
from loxilb.kernel.bpf.libbpf import check

_ANY = 0
_ENOTSUPP = 524  # of the kernel alone (linux/errno.h)
_BATCH = 4096
_UPDATE_BATCH = 1 << 16
_ARRAY = 2
_PART = 1 << 20


def index_key(index: int) -> bytes:
    """Return the key of an array element."""
    return struct.pack("=I", index)


def update(descriptor: int, key: bytes, value: bytes, operation: str, *, room: str = "") -> None:
    """Write one element; raises KernelError. ``room`` is the option to raise when a hash map is full."""
    result = libbpf.map_update(descriptor, key, value, _ANY)
    check(result, operation, remedy=_remedy(result, room))


def update_all(descriptor: int, keys: bytes, values: bytes, count: int, operation: str, *, room: str = "") -> None:
    """As :func:`update` for so many elements in a row, in few calls; those before one that is refused are done."""
    wide, broad = (len(keys) // count, len(values) // count) if count else (0, 0)
    for at in range(0, count, _UPDATE_BATCH):
        end = min(at + _UPDATE_BATCH, count)
        size = ctypes.c_uint32(end - at)
        options = libbpf.BatchOptions(sz=ctypes.sizeof(libbpf.BatchOptions), elem_flags=_ANY)
        result = libbpf.map_update_batch(
            descriptor,
            keys[at * wide : end * wide],
            values[at * broad : end * broad],
            ctypes.byref(size),
            ctypes.byref(options),
        )
        check(result, operation, remedy=_remedy(result, room))


def _remedy(result: int, room: str) -> str:
    """Say how to get more room in a hash map that is full (E2BIG)."""
    full = room and result == -errno.E2BIG
    return f"raise {room}; sizes stay those of the first start, until loxilb down" if full else ""


def delete(descriptor: int, key: bytes, operation: str) -> None:
    """Remove one element; a missing one is no error; raises KernelError."""
    result = libbpf.map_delete(descriptor, key)
    if result != -errno.ENOENT:
        check(result, operation)


def describe(descriptor: int) -> libbpf.MapInfo:
    """Return what a map was made as: entries, size of keys and values; raises KernelError."""
    info, size = libbpf.MapInfo(), ctypes.c_uint32(ctypes.sizeof(libbpf.MapInfo))
    check(libbpf.object_info(descriptor, ctypes.byref(info), ctypes.byref(size)), "ask for the size of a map")
    return info


def lookup(descriptor: int, key: bytes, size: int) -> bytes | None:
    """Read one element of ``size`` bytes; None when it is missing; raises KernelError."""
    value = ctypes.create_string_buffer(size)
    result = libbpf.map_lookup(descriptor, key, value)
    if result == -errno.ENOENT:
        return None
    check(result, "look up a map element")
    return value.raw


def dump(descriptor: int, key_size: int, value_size: int) -> Iterator[tuple[bytes, bytes]]:
    """Return every element of a hash map, read in batches; raises KernelError."""
    for keys, values in batches(descriptor, key_size, value_size):
        yield from zip(pieces(keys, key_size), pieces(values, value_size), strict=True)


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    """Return what follows each other in ``data``, ``size`` bytes each."""
    return (piece for (piece,) in struct.iter_unpack(f"={size}s", data))


def count(descriptor: int, key_size: int, value_size: int = 8) -> int:
    """Return how many elements a hash map has, read in batches; raises KernelError."""
    return sum(len(keys) // key_size for keys, _ in batches(descriptor, key_size, value_size))


def copy(source: int, target: int, key_size: int, value_size: int) -> None:
    """Write every element of an array or hash map into another one of its kind, in batches; raises KernelError.

    What changes meanwhile may or may not be copied.
    """
    options = libbpf.BatchOptions(sz=ctypes.sizeof(libbpf.BatchOptions))
    for keys, values in batches(source, key_size, value_size):
        if keys:
            size = ctypes.c_uint32(len(keys) // key_size)
            result = libbpf.map_update_batch(target, keys, values, ctypes.byref(size), ctypes.byref(options))
            check(result, "copy a map")


def batches(descriptor: int, key_size: int, value_size: int) -> Iterator[tuple[bytes, bytes]]:
    """Return the elements of a hash map some at once: their keys in a row, and their values; raises KernelError."""
    options = libbpf.BatchOptions(sz=ctypes.sizeof(libbpf.BatchOptions))
    position = ctypes.create_string_buffer(max(key_size, 8))
    size, started = _BATCH, False
    while True:
        keys = ctypes.create_string_buffer(size * key_size)
        values = ctypes.create_string_buffer(size * value_size)
        found = ctypes.c_uint32(size)
        result = libbpf.map_lookup_batch(
            descriptor,
            position if started else None,
            position,
            keys,
            values,
            ctypes.byref(found),
            ctypes.byref(options),
        )
        if result == -_ENOTSUPP:
            yield from _one_by_one(descriptor, key_size, value_size)
            return
        if result == -errno.ENOSPC:  # a bucket's chain is longer than the batch
            size *= 2
            continue
        if result != -errno.ENOENT:
            check(result, "dump a map")
        yield keys.raw[: found.value * key_size], values.raw[: found.value * value_size]
        if result == -errno.ENOENT:
            return
        started = True


def _one_by_one(descriptor: int, key_size: int, value_size: int) -> Iterator[tuple[bytes, bytes]]:
    """Return each element of a map whose kind the kernel does not read in batches (a trie, before Linux 5.13).

    Elements may come twice, or not at all, where others are removed meanwhile. Raises KernelError.
    """
    key, following = None, ctypes.create_string_buffer(key_size)
    while (result := libbpf.map_next_key(descriptor, key, following)) == 0:
        key = following.raw
        value = lookup(descriptor, key, value_size)
        if value is not None:
            yield key, value
    if result != -errno.ENOENT:
        check(result, "dump a map")


def create_array(name: str, value_size: int) -> int:
    """Create an array map of one element and return its descriptor; raises KernelError."""
    return check(libbpf.map_create(_ARRAY, name.encode(), 4, value_size, 1, None), f"create map {name}")


class ArrayView:
    """An MMAPABLE array in memory: no system call per element.

    ``stride`` is the size of an element in the kernel (rounded up to 8 bytes).
    """

    def __init__(self, descriptor: int, *, entries: int, value_size: int, writable: bool = False) -> None:
        """Map the whole array; raises KernelError."""
        self.entries = entries
        self.stride = (value_size + 7) & ~7
        length = -(-entries * self.stride // mmap.PAGESIZE) * mmap.PAGESIZE
        self._memory: Any  # read and written in slices, either of them
        try:
            self._memory = mmap.mmap(descriptor, length) if writable else memory.shared(descriptor, length)
        except OSError as error:
            raise KernelError("map an array into memory", error.errno or errno.EINVAL) from error

    @property
    def memory(self) -> memoryview:
        """The whole array, live; whoever keeps a view of it keeps it mapped."""
        whole = memoryview(self._memory).cast("B")
        return whole if isinstance(self._memory, mmap.mmap) else whole.toreadonly()

    def element(self, index: int) -> memoryview:
        """Return the element's bytes (live, not a copy)."""
        return self.memory[index * self.stride : (index + 1) * self.stride]

    def column(self, offset: int) -> bytes:
        """Return the byte at ``offset`` of every element."""
        column: bytes = self._memory[offset : self.entries * self.stride : self.stride]
        return column

    def indexes(self, offset: int, value: int) -> Iterator[int]:
        """Return the index of every element whose byte at ``offset`` is ``value``."""
        column = self.column(offset)
        wanted = bytes((value,))
        at = column.find(wanted)
        while at >= 0:
            yield at
            at = column.find(wanted, at + 1)

    def places(self, offset: int, values: bytes) -> list[int]:
        """Return the index of every element whose byte at ``offset`` is one of ``values``: quick where many are."""
        chosen = bytes(value in values for value in range(256))
        return list(compress(range(self.entries), self.column(offset).translate(chosen)))

    def rows(self, form: str) -> list[tuple[int, ...]]:
        """Return every element, unpacked by ``form`` (:mod:`struct`)."""
        return list(struct.iter_unpack(form, self._memory[: self.entries * self.stride]))

    def whole(self) -> bytes:
        """Return every element."""
        return self.read(0, self.entries * self.stride)

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes from a byte offset on."""
        content: bytes = self._memory[offset : offset + length]
        return content

    def write(self, offset: int, data: bytes | bytearray) -> None:
        """Write at a byte offset of a writable view; aligned words of up to 8 bytes change at once.

        Raises KernelError when the data would reach past the end.
        """
        if offset + len(data) > self.entries * self.stride:
            raise KernelError("write to an array", errno.E2BIG, detail=f"no room at byte {offset}")
        self._memory[offset : offset + len(data)] = data

    def copy_from(self, other: "ArrayView") -> None:
        """Write all elements of another array of the same layout over those of a writable view.

        Part by part, so that other threads get their turn.
        """
        length = min(self.entries * self.stride, other.entries * other.stride)
        for at in range(0, length, _PART):
            end = min(at + _PART, length)
            self._memory[at:end] = other.read(at, end - at)

    def get(self, indexes: Sequence[int]) -> bytes:
        """Return whole elements one after the other; raises KernelError for an index beyond the end."""
        row, stride = in_a_row(indexes), self.stride
        self._check(row)
        return b"".join(self.read(row[start] * stride, (end - start) * stride) for start, end in _neighbours(row))

    def put(self, indexes: Sequence[int], elements: bytes, undo: list[Callable[[], None]]) -> None:
        """Write whole elements, which follow each other in ``elements``, in this order; adds what undoes it.

        Neighbours are written at once. Raises KernelError for an index beyond the end, and has written nothing then.
        """
        row = in_a_row(indexes)
        self._check(row)
        for start, end in _neighbours(row):
            self._put_neighbours(row[start], elements[start * self.stride : end * self.stride], undo)

    def _check(self, indexes: Sequence[int]) -> None:
        ends = (indexes[0], indexes[-1]) if indexes and isinstance(indexes, range) else indexes
        if ends and (min(ends) < 0 or max(ends) >= self.entries):
            beyond = next(at for at in indexes if not 0 <= at < self.entries)
            raise KernelError("reach into an array", errno.E2BIG, detail=f"no element {beyond}")

    def _put_neighbours(self, first: int, elements: bytes, undo: list[Callable[[], None]]) -> None:
        offset = first * self.stride
        before = self.read(offset, len(elements))
        undo.append(lambda: self.write(offset, before))
        self.write(offset, elements)

    def close(self) -> None:
        """Unmap; where somebody still has a view of :attr:`memory`, as soon as that is gone."""
        self._memory = b""


def in_a_row(indexes: Sequence[int]) -> Sequence[int]:
    """Return the same as a range where each is one more than the one before it, as nearly always of many.

    It is found out once then, however often they are used.
    """
    if isinstance(indexes, range) or not indexes or indexes[-1] != indexes[0] + len(indexes) - 1:
        return indexes
    row = range(indexes[0], indexes[-1] + 1)
    return row if list(indexes) == list(row) else indexes


def _neighbours(indexes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Return the places in ``indexes`` between which each is one more than the one before it."""
    count = len(indexes)
    if isinstance(indexes, range) and indexes.step == 1:
        yield 0, count
        return
    start = 0
    for end in range(1, count + 1):
        if end == count or indexes[end] != indexes[end - 1] + 1:
            yield start, end
            start = end
