# SPDX-License-Identifier: Apache-2.0
"""The kernel's tick rate, told from ticks that are seen late."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loxilb.kernel.bpf.clock import fitting_rates

SECOND = 1_000_000_000
delays = st.integers(0, 30_000_000)


@given(st.sampled_from([100, 250, 300, 1000]), st.integers(1, 200), st.tuples(*[delays] * 4))
def test_the_true_rate_always_fits(rate, ticks, delayed):
    """However early the look before a tick was, and however late the one after it."""
    before, after, before_last, after_last = delayed
    came = SECOND + ticks * SECOND // rate

    began, ended = (SECOND - before - 1, SECOND + after), (came - before_last - 1, came + after_last)
    assert rate in fitting_rates(ticks, began, ended)


@pytest.mark.parametrize("rate", [100, 250, 300, 1000])
def test_looks_that_are_close_leave_one_rate(rate):
    came = SECOND + 8 * SECOND // rate

    assert fitting_rates(8, (SECOND - 5_000, SECOND), (came - 5_000, came + 5_000)) == (rate,)


def test_a_late_look_does_not_mislead():
    """Eight ticks of 4 ms, the first seen 4 ms late: by the times of the looks it were 286 ticks a second."""
    began, ended = (SECOND - 1_000, SECOND + 4_000_000), (SECOND + 31_999_000, SECOND + 32_000_000)

    assert fitting_rates(8, began, ended) == (250,)


def test_looks_that_are_far_apart_leave_several_rates():
    began, ended = (SECOND - 1_000, SECOND + 6_000_000), (SECOND + 31_999_000, SECOND + 32_000_000)

    assert fitting_rates(8, began, ended) == (250, 300)
