# SPDX-License-Identifier: Apache-2.0
"""Dropped packets that the programs report while somebody watches (``bpf/drop.h``)."""

import struct
from collections.abc import AsyncIterator, Mapping, Sequence

from loxilb.kernel import abi
from loxilb.kernel.bpf import libbpf, maps
from loxilb.kernel.bpf.events import RingReader
from loxilb.kernel.bpf.maps import ArrayView
from loxilb.model.port import IfIndex
from loxilb.model.trace import DroppedPacket
from loxilb.proto.frame import read_frame

PER_SECOND = 100
"""Reports of one processor; it saves up 64."""
_INTERVAL_NS = 1_000_000_000 // PER_SECOND
_HOOKS = {abi.AT_XDP: "xdp", abi.AT_TC: "tc", abi.AT_EGRESS: "egress"}


class DropSampler:
    """The switch of the reports, and the reports; off at first, whatever an earlier process left."""

    def __init__(self, descriptors: Mapping[str, int]) -> None:
        """Take the maps; raises KernelError."""
        self._descriptors = descriptors
        self._interval = ArrayView(descriptors["drop_interval"], entries=1, value_size=4, writable=True)
        self.sample(False)

    def sample(self, wanted: bool) -> None:
        """Have drops reported or not, at once; each that is reported costs a record in the ring buffer."""
        self._interval.write(0, struct.pack("=I", _INTERVAL_NS if wanted else 0))

    async def dropped_packets(self) -> AsyncIterator[Sequence[DroppedPacket]]:
        """Report drops as they come, some at once, without end; one consumer at a time; raises KernelError.

        What was reported before nobody hears of any more.
        """
        reader = RingReader(self._descriptors["drops"], drop_from_record)
        try:
            while reader.read():
                pass
            async for dropped in reader.follow():
                yield dropped
        finally:
            reader.close()

    def lost(self) -> int:
        """Return how many drops were not reported while somebody watched: too many at once."""
        processors = libbpf.possible_cpus()
        raw = maps.lookup(self._descriptors["drops_lost"], maps.index_key(0), 8 * processors) or bytes(8 * processors)
        return sum(struct.unpack(f"={processors}Q", raw))

    def close(self) -> None:
        """Unmap; the switch stays as it is."""
        self._interval.close()


def drop_from_record(record: bytes) -> DroppedPacket:
    """Return what a record of the ring buffer (``struct lox_drop``) says."""
    raw = abi.Drop.from_buffer_copy(record)
    return DroppedPacket(
        at=raw.at / 1e9,
        interface=IfIndex(raw.ifindex),
        hook=_HOOKS[raw.hook],
        reason=abi.Reason(raw.reason).name.lower(),
        length=raw.length,
        headers=read_frame(bytes(raw.head)[: raw.captured]),
    )
