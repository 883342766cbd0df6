# SPDX-License-Identifier: Apache-2.0
"""Taking the data plane of a network namespace out of the kernel, with nothing but its pins.

No program is loaded, and nothing is mounted or created: where nothing is left there is nothing to do.
"""

import socket
from dataclasses import dataclass
from pathlib import Path

from loxilb.kernel.bpf import attach, pins


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """How much was removed: links and filters ran programs on interfaces, pins kept programs and maps alive."""

    links: int
    filters: int
    programs: int
    maps: int


def remove_data_plane(bpffs: Path | None) -> Removed:
    """Remove the data plane of the calling thread's namespace, of whatever ABI version it is.

    ``bpffs`` None looks wherever a daemon would have pinned. Raises KernelError.
    """
    directories = pins.existing(bpffs)
    links = sum(pins.unpin(directory / "links") for directory in directories)
    filters = sum(attach.detach_clsact(index) for index, _ in socket.if_nameindex())
    programs, maps = (sum(pins.unpin(directory / kind) for directory in directories) for kind in ("programs", "maps"))
    for directory in directories:
        pins.remove_empty(directory)
    return Removed(links=links, filters=filters, programs=programs, maps=maps)
