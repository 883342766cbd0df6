# SPDX-License-Identifier: Apache-2.0
"""The traffic of endpoints, while flows end as it is read."""

import struct
from collections.abc import Callable

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


class Kernel:
    """An endpoint with one flow of 10 packets and 1000 bytes; ``happens`` is done after each sum."""

    def __init__(self) -> None:
        """Start with the flow alive."""
        self.ended, self.live = Array(), Array()
        self.alive = True
        self.sums = 0
        self.happens: Callable[[], None] = lambda: None
        self.reader = TrafficReader(self.fold, ended=self.ended, live=self.live)  # type: ignore[arg-type]

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
        """Return what is reported."""
        return self.reader.read([AT])[AT]


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


def test_an_endpoint_new_in_its_slot_begins_at_zero() -> None:
    """What was reported of the one before is nothing to it."""
    kernel = Kernel()
    kernel.read()
    kernel.alive = False

    assert kernel.read().packets == 10
    kernel.reader.forget([AT])
    assert kernel.read().packets == 0
