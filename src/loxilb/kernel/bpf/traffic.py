# SPDX-License-Identifier: Apache-2.0
"""The traffic of endpoints: that of their ended flows and that of the live ones, which the kernel sums when asked.

A flow may end while the live ones are summed, so that it is in both sums or in neither. What is reported is never more
than there was, and never less than was reported before.
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
        """Take what sums the live flows into ``live``, and both arrays."""
        self._fold = fold
        self._ended = ended
        self._live = live
        self._reported: dict[EndpointId, Counter] = {}

    def read(self, endpoints: Iterable[int]) -> dict[EndpointId, Counter]:
        """Return the traffic of each of ``endpoints``; raises KernelError.

        Where flows ended meanwhile it is tried again; on a busy endpoint some of them may stay out this once.
        """
        for _ in range(_TRIES):
            ended = self._ended.whole()
            self._fold()
            live = self._live.whole()
            if self._ended.whole() == ended:
                break
        self._reported = {EndpointId(at): self._at_least(EndpointId(at), ended, live) for at in endpoints}
        return dict(self._reported)

    def forget(self, endpoints: Iterable[EndpointId]) -> None:
        """Begin at zero for endpoints that are new in their slots."""
        for endpoint in endpoints if self._reported else ():
            self._reported.pop(endpoint, None)

    def _at_least(self, endpoint: EndpointId, ended: bytes, live: bytes) -> Counter:
        """Return what is known to have been, or what was reported before where that is more."""
        at = endpoint * _PAIR.size
        ended_packets, ended_bytes = _PAIR.unpack_from(ended, at)
        live_packets, live_bytes = _PAIR.unpack_from(live, at)
        packets, size = ended_packets + live_packets, ended_bytes + live_bytes
        before = self._reported.get(endpoint)
        if before is None or (packets >= before.packets and size >= before.bytes):
            return Counter(packets, size)
        return Counter(max(packets, before.packets), max(size, before.bytes))
