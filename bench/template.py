# SPDX-License-Identifier: Apache-2.0
"""The record that tells the measuring programs which packet to make: ``struct lox_bench`` of ``bpf/bench.h``."""

import struct
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address
from pathlib import Path

import loxilb.kernel.bpf
from loxilb.kernel.bpf import maps
from loxilb.kernel.bpf.object import BpfObject

_L3 = 14
_HEADERS = 64


class Vary(IntEnum):
    """How the client changes from packet to packet (``enum lox_bench_vary``)."""

    FIXED = 0
    NEXT = 1
    RANDOM = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A frame, restored before each packet, and what is varied in it.

    ``reply``: the client is the destination. The rest is for live frames: they leave by the device ``ifindex``, and
    the sink counts those for ``sink``.
    """

    frame: bytes
    vary: Vary = Vary.FIXED
    flows: int = 1
    first: int = 0
    reply: bool = False
    ifindex: int = 0
    sink: tuple[IPv4Address, int] = (IPv4Address(0), 0)

    def __bytes__(self) -> bytes:
        """Return the element of the map ``bench``."""
        headers = self.frame[_L3 : _L3 + _HEADERS].ljust(_HEADERS, b"\0")
        varied = struct.pack("=4I", self.vary, self.flows, self.first, self.reply)
        sink = self.sink[0].packed + struct.pack("!H", self.sink[1])
        return headers + varied + self.frame[:12] + struct.pack("=I", self.ifindex) + sink + bytes(2)

    def write(self, programs: BpfObject) -> None:
        """Have the programs of an object make this packet; raises KernelError."""
        maps.update(programs.maps["bench"], maps.index_key(0), bytes(self), "write the packet template")


def open_object(name: str) -> BpfObject:
    """Load a measuring object; raises KernelError."""
    return BpfObject(Path(loxilb.kernel.bpf.__file__).parent / "objects" / f"{name}.bpf.o")
