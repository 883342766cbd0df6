# SPDX-License-Identifier: Apache-2.0
"""Memory that the kernel shares is there as long as it is looked at; what was freed goes back to the kernel."""

import errno
import mmap
import os
import re
from pathlib import Path

import pytest

from loxilb.kernel import memory

BLOCK, COUNT = 1 << 16, 1 << 10


def own() -> int:
    """Return the bytes that this process has to itself."""
    (size,) = re.findall(r"^RssAnon:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(size) << 10


def test_freed_memory_is_given_back() -> None:
    """Also what lies below something that is still in use."""
    blocks = [b"x" * BLOCK for _ in range(COUNT)]
    last = blocks.pop()
    blocks.clear()
    before = own()

    memory.give_back()

    assert own() < before - BLOCK * COUNT // 2
    assert len(last) == BLOCK


def mapped() -> int:
    """Return how often the file of these tests is mapped."""
    return Path("/proc/self/maps").read_text().count("memfd:loxilb-test")


def test_shared_memory_is_mapped_while_somebody_looks_at_it() -> None:
    """Also at a part of it; what is written by others is seen."""
    descriptor = os.memfd_create("loxilb-test")
    try:
        os.truncate(descriptor, 2 * mmap.PAGESIZE)
        view = memoryview(memory.shared(descriptor, 2 * mmap.PAGESIZE))[mmap.PAGESIZE :]
        os.pwrite(descriptor, b"seen", mmap.PAGESIZE)
        assert (view[:4].tobytes(), len(view), mapped()) == (b"seen", mmap.PAGESIZE, 1)
        del view
        assert mapped() == 0
    finally:
        os.close(descriptor)


def test_what_cannot_be_mapped_is_an_error() -> None:
    """As the system says it."""
    with pytest.raises(OSError) as caught:
        memory.shared(-1, mmap.PAGESIZE)
    assert caught.value.errno == errno.EBADF
