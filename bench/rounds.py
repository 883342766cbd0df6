# SPDX-License-Identifier: Apache-2.0
"""The order in which things are measured that are compared with each other."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

_T = TypeVar("_T")


def rounds(things: Sequence[_T], count: int) -> Iterator[Sequence[_T]]:
    """Yield the things once a round, the order reversed every other round: what drifts hits all alike."""
    for number in range(count):
        yield things if number % 2 == 0 else things[::-1]
