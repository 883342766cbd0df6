# SPDX-License-Identifier: Apache-2.0
"""Very many objects, some at a time: what is asked of them several times finds them in the processor's caches.

A hundred thousand services and what they consist of are some hundred megabytes. Asked one thing after the other of all,
each comes from memory again for every answer, which takes longer than the answer.
"""

from collections.abc import Iterator, Sequence
from typing import TypeVar

_T = TypeVar("_T")

_TOGETHER = 512


def portions(many: Sequence[_T]) -> Iterator[Sequence[_T]]:
    """Return all of them in order, some at a time."""
    for at in range(0, len(many), _TOGETHER):
        yield many[at : at + _TOGETHER]
