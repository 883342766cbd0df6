# SPDX-License-Identifier: Apache-2.0
"""The order in which things are measured that are compared with each other."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

_T = TypeVar("_T")


def interleaved(things: Sequence[_T], rounds: int) -> Iterator[_T]:
    """Yield every thing once a round, the order reversed every other round: what drifts hits all alike."""
    for number in range(rounds):
        yield from things if number % 2 == 0 else reversed(things)
