# SPDX-License-Identifier: Apache-2.0
"""Consistent hashing with Maglev tables.

Source: Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section 3.4.
The table depends on the set of members only: not on their order, not on what was there before, so two load
balancers with one configuration agree. That is why the size has two values only: where it changes, all flows
move.
"""

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from itertools import cycle, islice
from typing import cast

TABLE = 16_381
LARGE_TABLE = 65_537
_TABLE_MEMBERS = 327
_KEY = b"loxilb maglev 1"
_FEW = 4  # of so many slots one is free: from then on many are tried at once
_LAST = 100  # so many slots are ranked
_COPIES = 16


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

    A turn is member, skip and place; its place moves on. With fewer and fewer slots free, ever more tries miss, so
    there are three ways to look for the next one.
    """
    table: list[int | None] = [None] * size
    order = cycle(turns)
    _step(islice(order, size - size // _FEW), table)
    _stride(islice(order, size // _FEW - _LAST), table)
    _rank(islice(order, _LAST), table)
    return cast("list[int]", table)  # full by now


def _step(turns: Iterable[list[int]], table: list[int | None]) -> None:
    """Try slot after slot: one of the first few is free."""
    size = len(table)
    for turn in turns:
        member, skip, place = turn
        while table[place] is not None:
            place += skip
            if place >= size:
                place -= size
        table[place] = member
        turn[2] = place


def _stride(turns: Iterable[list[int]], table: list[int | None]) -> None:
    """Try many slots at once: a slice of bytes is searched without a step of Python for each.

    Several copies of the table in a row let most slices be long enough.
    """
    size = len(table)
    taken = bytearray(owner is not None for owner in table) * _COPIES
    marks = b"\1" * _COPIES
    for turn in turns:
        member, skip, place = turn
        while (tries := taken[place::skip].find(0)) < 0:
            place = (place + -(-(len(taken) - place) // skip) * skip) % size
        place = (place + tries * skip) % size
        table[place] = member
        taken[place::size] = marks
        turn[2] = place


def _rank(turns: Iterable[list[int]], table: list[int | None]) -> None:
    """Look through the slots that are left: how many skips away is each? The size is prime: a skip has an inverse."""
    size = len(table)
    free = {slot for slot, owner in enumerate(table) if owner is None}
    for member, skip, place in turns:
        inverse = pow(skip, -1, size)
        _, nearest = min([((slot - place) * inverse % size, slot) for slot in free])
        table[nearest] = member
        free.discard(nearest)
