# SPDX-License-Identifier: Apache-2.0
"""The traffic of endpoints: that of their ended flows and that of the live ones, which the kernel sums when asked.

A flow may end while the live ones are summed, so that it is in both sums or in neither. What is reported is never more
than there was, and never less than was reported before, by an earlier daemon too.
"""

import struct
from collections.abc import Callable, Iterable

from loxilb.kernel.bpf.maps import ArrayView
from loxilb.model import Counter
from loxilb.model.image import EndpointId

_TRIES = 3
_PAIR = struct.Struct("=QQ")


class TrafficReader:
    """Reads the two arrays; one thread at a time."""

    def __init__(self, fold: Callable[[], object], *, ended: ArrayView, live: ArrayView) -> None:
        """Take what sums the live flows into ``live``, and both arrays.

        Between two reads ``live`` has what was told.
        """
        self._fold = fold
        self._ended = ended
        self._live = live

    def read(self, endpoints: Iterable[int]) -> dict[EndpointId, Counter]:
        """Return the traffic of each of ``endpoints``; raises KernelError.

        Where flows ended meanwhile it is tried again; on a busy endpoint some of them may stay out this once.
        """
        told = bytearray(self._live.whole())
        for _ in range(_TRIES):
            ended = self._ended.whole()
            self._fold()
            live = self._live.whole()
            if self._ended.whole() == ended:
                break
        found = {EndpointId(at): _at_least(at * _PAIR.size, ended, live, told) for at in endpoints}
        self._live.write(0, told)
        return found


def _at_least(at: int, ended: bytes, live: bytes, told: bytearray) -> Counter:
    """Return what is known to have been, or what was told before where that is more, and note it there."""
    ended_packets, ended_bytes = _PAIR.unpack_from(ended, at)
    live_packets, live_bytes = _PAIR.unpack_from(live, at)
    packets, size = _PAIR.unpack_from(told, at)
    packets, size = max(packets, ended_packets + live_packets), max(size, ended_bytes + live_bytes)
    _PAIR.pack_into(told, at, packets, size)
    return Counter(packets, size)
