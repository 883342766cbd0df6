# SPDX-License-Identifier: Apache-2.0
"""Consistent hashing with Maglev tables.

Source: Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section 3.4.
The table depends on the set of members only: not on their order, not on what was there before, so two load
balancers with one configuration agree. That is why the size has two values only: where it changes, all flows
move.
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import cast

TABLE = 16_381
LARGE_TABLE = 65_537
_TABLE_MEMBERS = 327
_KEY = b"loxilb maglev 1"


def table_size(members: int) -> int:
    """Return the number of slots for so many members: one, or a prime with 50 slots or more a member.

    From 1311 members on there are fewer, 16 a member at 4096.
    """
    if members <= 1:
        return members
    return TABLE if members <= _TABLE_MEMBERS else LARGE_TABLE


def maglev_table(identities: Sequence[bytes]) -> list[int]:
    """Return the table as positions in ``identities``; equal ones share the slots alike."""
    size = table_size(len(identities))
    if size <= 1:
        return list(range(size))
    members = sorted(range(len(identities)), key=identities.__getitem__)
    offsets, skips = _permutations([identities[member] for member in members], size)
    return _fill([list(turn) for turn in zip(members, skips, offsets, strict=True)], size)


def _permutations(identities: Sequence[bytes], size: int) -> tuple[list[int], list[int]]:
    digests = [blake2b(identity, digest_size=16, key=_KEY).digest() for identity in identities]
    offsets = [int.from_bytes(digest[:8], "big") % size for digest in digests]
    skips = [int.from_bytes(digest[8:], "big") % (size - 1) + 1 for digest in digests]
    return offsets, skips


def _fill(turns: list[list[int]], size: int) -> list[int]:
    """Let the members take turns: each takes the next slot of its permutation that is still free.

    A turn is member, skip and place; its place moves on. Most of the time goes into the last slots, which many tries
    miss: the inner loop does as little as possible.
    """
    table: list[int | None] = [None] * size

    def take(some: list[list[int]]) -> None:
        for turn in some:
            member, skip, place = turn
            while table[place] is not None:
                place += skip
                if place >= size:
                    place -= size
            table[place] = member
            turn[2] = place

    rounds, rest = divmod(size, len(turns))
    for _ in range(rounds):
        take(turns)
    take(turns[:rest])
    return cast("list[int]", table)  # full by now
