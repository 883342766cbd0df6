# SPDX-License-Identifier: Apache-2.0
"""What a data plane has pinned for the calling thread's namespace."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loxilb.kernel.bpf import pins


def directory() -> pins.PinDirectory:
    """Return where the pins are."""
    return pins.PinDirectory(pins.find_bpffs(None))


@contextmanager
def opened_pin(path: Path) -> Iterator[int]:
    """Return a descriptor of a pinned map, program or link."""
    descriptor = pins.get(path)
    assert descriptor is not None
    try:
        yield descriptor
    finally:
        os.close(descriptor)
