# SPDX-License-Identifier: Apache-2.0
"""Weighted round robin, smooth: no stretch of it is far from the shares.

The sequence is that of Steiner and Yeomans (Management Science 39, 1993): unit *j* of a member with share *s*
may come from slot floor(j/s) on and must come before slot ceil((j+1)/s); the earliest deadline goes first.
Every prefix then deviates from the ideal share by less than one slot.
"""

import heapq
from collections.abc import Sequence
from math import gcd

MAX_SLOTS = 65_536
_SMALL_MAX_SLOTS = 4_096
_SLOTS_PER_MEMBER = 128


def slot_counts(weights: Sequence[int]) -> list[int]:
    """Return how many slots each of the ``weights`` (all positive) gets.

    Exact (weight over the greatest common divisor) where that is short enough; else scaled down to 4096 slots
    (128 a member where that is more, at most 65536), everyone at least one.
    """
    divisor = gcd(*weights)
    exact = [weight // divisor for weight in weights]
    room = min(MAX_SLOTS, max(_SMALL_MAX_SLOTS, _SLOTS_PER_MEMBER * len(weights)))
    return exact if sum(exact) <= room else _scaled(exact, room)


def _scaled(weights: Sequence[int], room: int) -> list[int]:
    """Divide ``room`` slots by largest remainder; those who round to nothing get one from the largest."""
    total = sum(weights)
    counts = [max(1, weight * room // total) for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda one: (-(weights[one] * room % total), one))
    for one in by_remainder[: max(0, room - sum(counts))]:
        counts[one] += 1
    largest = [(-count, one) for one, count in enumerate(counts)]
    heapq.heapify(largest)
    for _ in range(sum(counts) - room):
        count, one = largest[0]
        counts[one] -= 1
        heapq.heapreplace(largest, (count + 1, one))
    return counts


def smooth_sequence(counts: Sequence[int]) -> list[int]:
    """Return the positions of ``counts`` (all positive), each as often as it says, evenly spread."""
    total = sum(counts)
    released: list[list[int]] = [[] for _ in range(total + 1)]
    released[0] = list(range(len(counts)))
    done = [0] * len(counts)
    ready: list[tuple[int, int]] = []
    sequence = []
    for slot in range(total):
        for one in released[slot]:
            heapq.heappush(ready, (-(-(done[one] + 1) * total // counts[one]), one))
        _, one = heapq.heappop(ready)
        sequence.append(one)
        done[one] += 1
        if done[one] < counts[one]:
            released[max(slot + 1, done[one] * total // counts[one])].append(one)
    return sequence
