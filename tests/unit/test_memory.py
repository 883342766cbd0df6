# SPDX-License-Identifier: Apache-2.0
"""Memory that was freed goes back to the kernel."""

import re
from pathlib import Path

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
