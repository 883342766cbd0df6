# SPDX-License-Identifier: Apache-2.0
"""How long something took, as Prometheus wants it: how many took up to each bound."""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

from loxilb.proto.metrics.exposition import Sample

LATENCY_BOUNDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Seconds: from one map write to what a caller gives up on."""


class Histogram:
    """Counts observations by size; one thread observes, any may read."""

    def __init__(self, bounds: Sequence[float] = LATENCY_BOUNDS) -> None:
        """Start empty; ``bounds`` ascend, and what is above the last one is counted too."""
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one observation."""
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._sum += seconds

    def samples(self, labels: str = "") -> list[Sample]:
        """Return the samples of a family; ``labels`` are those of :func:`labelled`, without their braces."""
        counts, total = list(accumulate(self._counts)), self._sum
        before = f"{labels}," if labels else ""
        around = f"{{{labels}}}" if labels else ""
        bounds = [*map(str, self._bounds), "+Inf"]
        return [
            *((f'_bucket{{{before}le="{bound}"}}', count) for bound, count in zip(bounds, counts, strict=True)),
            (f"_sum{around}", total),
            (f"_count{around}", counts[-1]),
        ]
