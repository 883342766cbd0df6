# SPDX-License-Identifier: Apache-2.0
"""The cyclic garbage collector stays away from what stays, and from nothing else."""

import gc
from weakref import ref

import pytest

from loxilb.collector import without_collector

MANY = 1 << 20


class Ring:
    """An object of a cycle."""

    def __init__(self) -> None:
        self.myself = self


def test_what_is_made_counts_as_permanent() -> None:
    """Later passes do not look at it."""
    try:
        with without_collector(MANY):
            assert not gc.isenabled()
            made = Ring()
        assert gc.isenabled()
        assert not any(one is made for one in gc.get_objects())
    finally:
        gc.unfreeze()


def test_what_nobody_holds_is_freed_before() -> None:
    """It would be permanent, too."""
    garbage = ref(Ring())
    try:
        with without_collector(MANY):
            pass
        assert garbage() is None
    finally:
        gc.unfreeze()


def test_what_a_body_that_raises_has_made_is_not_permanent() -> None:
    """What nobody holds of it is freed later."""
    try:
        with pytest.raises(ValueError, match="refused"), without_collector(MANY):
            left = ref(Ring())
            raise ValueError("refused")
        assert gc.isenabled()
        gc.collect()
        assert left() is None
    finally:
        gc.unfreeze()


def test_where_it_is_off_nobody_looks() -> None:
    """A start has it off from its beginning: it may have read very many services already."""
    gc.disable()
    garbage = ref(Ring())
    try:
        with without_collector(MANY):
            pass
        assert garbage() is not None
        assert not gc.isenabled()
    finally:
        gc.unfreeze()
        gc.enable()


def test_a_small_change_is_left_alone() -> None:
    """It is over before the collector would come."""
    with without_collector(1):
        assert gc.isenabled()
