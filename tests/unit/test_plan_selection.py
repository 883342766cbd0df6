# SPDX-License-Identifier: Apache-2.0
"""Which endpoint takes which flow: the slices of the ring."""

import random
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loxilb.model import Endpoint, Selection
from loxilb.model.image import EndpointId
from loxilb.plan.maglev import _permutations, maglev_table, table_size
from loxilb.plan.selection import identities, in_rule_order, ring_of
from loxilb.plan.smooth import slot_counts, smooth_sequence
from tests.support.services import endpoint


def ring(selection: Selection, endpoints: Sequence[Endpoint]) -> list[Endpoint]:
    """Return the slice as endpoints."""
    ids = [EndpointId(number) for number in range(1, len(endpoints) + 1)]
    return [endpoints[slot - 1] for slot in ring_of(selection, endpoints, ids)]


def some(count: int, seed: int = 1) -> list[Endpoint]:
    """Return different IPv4 endpoints."""
    numbers = random.Random(seed).sample(range(1 << 16), count)
    return [endpoint(f"10.1.{number >> 8}.{number & 255},80") for number in numbers]


def test_ipv4_endpoints_are_ordered_by_the_last_octet_first():
    given_order = [endpoint(text) for text in ("1.9.9.2,80", "9.0.0.1,80", "1.0.9.1,80", "1.0.0.1,90", "1.0.0.1,80")]

    ordered = [f"{one.address},{one.port}" for one in in_rule_order(given_order)]

    assert ordered == ["1.0.0.1,80", "1.0.0.1,90", "9.0.0.1,80", "1.0.9.1,80", "1.9.9.2,80"]


def test_ipv6_endpoints_keep_the_order_of_the_request():
    given_order = [endpoint(text) for text in ("6ffe::1,80", "4ffe::1,80", "5ffe::1,80")]

    assert list(in_rule_order(given_order)) == given_order


def test_round_robin_keeps_duplicates_and_ignores_weights():
    endpoints = [endpoint("1.0.0.1,80,0"), endpoint("1.0.0.1,80,7"), endpoint("1.0.0.2,80,3")]

    assert ring(Selection.RR, endpoints) == endpoints


def test_priority_gives_weight_zero_nothing():
    endpoints = [endpoint("1.0.0.1,80,0"), endpoint("1.0.0.2,80,2"), endpoint("1.0.0.3,80,1")]

    assert Counter(one.weight for one in ring(Selection.PRIORITY, endpoints)) == {2: 2, 1: 1}


def test_priority_of_zeros_takes_no_flow():
    assert ring(Selection.PRIORITY, [endpoint("1.0.0.1,80,0")]) == []


def test_priority_40_40_20_is_smooth_and_exact():
    endpoints = [endpoint("1.0.0.1,80,40"), endpoint("1.0.0.2,80,40"), endpoint("1.0.0.3,80,20")]

    sequence = [str(one.address)[-1] for one in ring(Selection.PRIORITY, endpoints)]

    assert Counter(sequence) == {"1": 2, "2": 2, "3": 1}
    assert all(one != after for one, after in pairwise(sequence))


@given(st.lists(st.integers(1, 65_535), min_size=1, max_size=40))
def test_every_hundred_flows_are_within_one_of_their_shares(weights):
    sequence = smooth_sequence(slot_counts(weights))
    total = sum(weights)

    for start in range(0, len(sequence), max(1, len(sequence) // 7)):
        flows = Counter((sequence * (100 // len(sequence) + 2))[start : start + 100])
        for member, weight in enumerate(weights):
            # Both ends of a stretch can be off by less than one slot; scaling adds less than 1 % of 100.
            assert abs(flows[member] - 100 * weight / total) < 3
    flows = Counter((sequence * (100 // len(sequence) + 1))[:100])
    assert all(abs(flows[one] - Fraction(100 * weight, total)) < 2 for one, weight in enumerate(weights))


@given(st.lists(st.integers(1, 300), min_size=1, max_size=30))
def test_every_prefix_is_within_one_slot_of_its_share(counts):
    sequence = smooth_sequence(counts)
    total = sum(counts)
    seen = [0] * len(counts)

    for length, member in enumerate(sequence, start=1):
        seen[member] += 1
        assert all(abs(seen[one] * total - length * count) < total for one, count in enumerate(counts))
    assert seen == counts


@pytest.mark.parametrize(
    ("weights", "error"),
    [
        ((65_535, 1), 0.001),
        ((65_535, 65_534), 0.001),
        ((60_000, 5_000, 535), 0.001),
        ((*[1] * 40, 65_535), 0.008),  # each of the forty has a slot, and deserves a twelfth of one
    ],
)
def test_scaled_weights_keep_their_shares(weights, error):
    counts = slot_counts(weights)

    assert sum(counts) <= max(4_096, 128 * len(weights))
    for weight, count in zip(weights, counts, strict=True):
        assert count >= 1
        assert abs(count / sum(counts) - weight / sum(weights)) < error


@pytest.mark.parametrize("count", [2, 3, 10, 40, 100, 300])
def test_hash_is_balanced(count):
    shares = Counter(one.address for one in ring(Selection.HASH, some(count)))

    assert max(shares.values()) - min(shares.values()) <= 1
    assert len(shares) == count


@pytest.mark.parametrize("count", [2, 3, 5, 10, 20, 40, 41, 100, 200, 300])
def test_hash_moves_little_when_an_endpoint_goes(count):
    endpoints = some(count, seed=count)
    whole = ring(Selection.HASH, endpoints)
    without = ring(Selection.HASH, endpoints[1:])
    slots = table_size(count)

    moved = sum(whole[place] != without[place * len(without) // slots] for place in range(slots))

    assert moved / slots <= 1 / count + 0.02


def test_hash_does_not_depend_on_the_order():
    endpoints = some(30)
    turned = endpoints[7:] + endpoints[:7]

    assert ring(Selection.HASH, endpoints) == ring(Selection.HASH, turned)


def test_hash_counts_duplicates_as_often_as_they_are_there():
    endpoints = [endpoint("1.0.0.1,80"), endpoint("1.0.0.1,80"), endpoint("1.0.0.2,80")]

    shares = Counter(str(one.address) for one in ring(Selection.HASH, endpoints))
    assert abs(shares["1.0.0.1"] - 2 * shares["1.0.0.2"]) <= 2


def test_hash_is_the_same_on_every_machine():
    table = maglev_table([b"one", b"two", b"three"])

    assert [table[place] for place in (0, 1, 2, 100, 5_000, 16_380)] == [2, 0, 1, 2, 0, 2]


def test_hash_serves_4096_endpoints():
    shares = Counter(maglev_table(identities(some(4_096))))

    assert len(shares) == 4_096
    assert set(shares.values()) == {16, 17}


def in_the_words_of_the_paper(names: Sequence[bytes]) -> list[int]:
    """Fill a table slot by slot, as the paper does."""
    size = table_size(len(names))
    members = sorted(range(len(names)), key=names.__getitem__)
    offsets, skips = _permutations([names[member] for member in members], size)
    table, tried = [-1] * size, [0] * len(members)
    for turn in range(size):
        one = turn % len(members)
        while table[place := (offsets[one] + tried[one] * skips[one]) % size] >= 0:
            tried[one] += 1
        table[place] = members[one]
    return table


@pytest.mark.parametrize("count", [2, 3, 7, 100, 327, 328, 500])
def test_hash_is_that_of_the_paper(count):
    """However the slots are looked for."""
    names = identities(some(count, seed=count))

    assert maglev_table(names) == in_the_words_of_the_paper(names)
