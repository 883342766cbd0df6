# SPDX-License-Identifier: Apache-2.0
"""Free lists of ids and ring slots."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loxilb.errors import InvalidRequest
from loxilb.plan.pools import IdPool, Slice, SlicePool


def test_ids_start_at_one_and_come_back_last():
    pool = IdPool("rules", 3)
    taken = [pool.take(), pool.take()]
    pool.give([1])

    assert taken == [1, 2]
    assert [pool.take(), pool.take()] == [3, 1]


def test_ids_given_back_come_oldest_first():
    pool = IdPool("rules", 3, used={1, 2, 3})
    pool.give([2])
    pool.give([1])

    assert [pool.take(), pool.take()] == [2, 1]


def test_ids_rebuilt_from_those_in_use_leave_no_gap_behind():
    pool = IdPool("rules", 5, used={2, 4})

    assert pool.free == 3
    assert [pool.take() for _ in range(3)] == [5, 1, 3]


def test_a_pool_without_ids_says_what_to_do():
    pool = IdPool("rules", 1, used={1})

    with pytest.raises(InvalidRequest, match="higher limit") as caught:
        pool.take()
    assert caught.value.code == "rule-hwm error"


def test_a_slice_given_back_is_not_the_next_one_taken():
    pool = SlicePool(10)
    first = pool.take(3)
    pool.give([first])

    assert pool.take(3) == Slice(3, 3)


def test_slices_grow_together_and_are_found_after_the_wrap():
    pool = SlicePool(10)
    taken = [pool.take(3), pool.take(3), pool.take(4)]
    pool.give(taken[:2])

    assert pool.take(6) == Slice(0, 6)


def test_no_slice_is_made_of_pieces():
    pool = SlicePool(6, used=[Slice(2, 2)])

    with pytest.raises(InvalidRequest) as caught:
        pool.take(3)
    assert caught.value.code == "rule-hwm error"
    assert pool.free == 4


def test_the_empty_slice_takes_no_room():
    pool = SlicePool(1)
    pool.take(1)

    assert pool.take(0) == Slice(0, 0)
    pool.give([Slice(0, 0)])
    assert pool.free == 0


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 12)), max_size=60))
def test_slices_never_overlap_and_never_leak(steps):
    pool, held = SlicePool(40), []
    for take, number in steps:
        if take:
            try:
                held.append(pool.take(number))
            except InvalidRequest:
                continue
        elif held:
            pool.give([held.pop(number % len(held))])
        places = [place for one in held for place in range(one.base, one.base + one.length)]
        assert len(places) == len(set(places)) == 40 - pool.free
        assert all(0 <= place < 40 for place in places)
    pool.give(held)

    assert pool.free == 40
    assert pool.take(40).length == 40
