# SPDX-License-Identifier: Apache-2.0
"""The traffic of endpoints, while flows end as it is read."""

import struct
from collections.abc import Callable
from typing import Any

from loxilb.kernel.bpf.traffic import TrafficReader
from loxilb.model import Counter
from loxilb.model.image import EndpointId

AT = EndpointId(1)


class Array:
    """What an array in memory is to its reader."""

    def __init__(self) -> None:
        """Start with two elements, both zero."""
        self.values = [(0, 0), (0, 0)]

    def whole(self) -> bytes:
        """Return all elements."""
        return b"".join(struct.pack("=QQ", *one) for one in self.values)

    def write(self, _offset: int, data: bytes) -> None:
        """Write all elements."""
        self.values = list(struct.iter_unpack("=QQ", data))


class Kernel:
    """An endpoint with one flow of 10 packets and 1000 bytes; ``happens`` is done after each sum."""

    def __init__(self) -> None:
        """Start with the flow alive."""
        self.ended, self.live = Array(), Array()
        self.alive = True
        self.sums = 0
        self.happens: Callable[[], None] = lambda: None

    def fold(self) -> None:
        """Sum the live flows."""
        self.live.values[AT] = (10, 1000) if self.alive else (0, 0)
        self.sums += 1
        self.happens()

    def end(self) -> None:
        """End the flow."""
        if self.alive:
            self.alive = False
            self.ended.values[AT] = (10, 1000)

    def read(self) -> Counter:
        """Return what is reported, each time by another daemon."""
        arrays: dict[str, Any] = {"ended": self.ended, "live": self.live}
        return TrafficReader(self.fold, **arrays).read([AT])[AT]


def test_a_flow_that_ends_behind_the_sum_is_counted_once() -> None:
    """It is in both arrays then."""
    kernel = Kernel()
    kernel.happens = kernel.end

    assert kernel.read() == Counter(packets=10, bytes=1000)
    assert kernel.sums == 2


def test_what_was_reported_does_not_go_back() -> None:
    """Every time flows end before the sum, so that it has them no more, and the other array not yet."""
    kernel = Kernel()
    assert kernel.read() == Counter(packets=10, bytes=1000)
    before = kernel.ended.values[AT]

    def churn() -> None:
        kernel.live.values[AT] = (0, 0)
        kernel.ended.values[AT] = (kernel.ended.values[AT][0] + 1, before[1])

    kernel.happens = churn

    assert kernel.read() == Counter(packets=10, bytes=1000)
    assert kernel.sums == 4
    assert kernel.read() == Counter(packets=10, bytes=1000)
