# SPDX-License-Identifier: Apache-2.0
"""From outcomes to a verdict: when an endpoint is down, when it is back, and how soon it is probed again."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loxilb.proto.probe import verdict as v
from loxilb.proto.probe.verdict import Verdict, hold, judge, pause

DOWN = Verdict(up=False, failures=1, falls=1, changed=100.0, held_until=100.0)


def after(outcomes: str, *, retries: int = 2, start: Verdict | None = None, step: float = 1.0) -> Verdict:
    """Judge a row of outcomes, ``+`` and ``-``, ``step`` seconds apart."""
    verdict = start or Verdict()
    for number, outcome in enumerate(outcomes, 1):
        verdict = judge(verdict, succeeded=outcome == "+", retries=retries, now=number * step)
    return verdict


@pytest.mark.parametrize(
    ("outcomes", "retries", "up"),
    [
        ("", 2, True),
        ("-", 1, False),
        ("-", 2, True),
        ("--", 2, False),
        ("-+-+-+-", 2, True),
        ("++--", 2, False),
        ("--+", 2, True),
        ("----", 5, True),
        ("-----", 5, False),
    ],
)
def test_so_many_failures_in_a_row_are_down_and_one_success_is_up(outcomes, retries, up):
    assert after(outcomes, retries=retries).up is up


@pytest.mark.parametrize(
    ("falls", "seconds"), [(0, 0), (1, 0), (2, 5), (3, 10), (4, 20), (7, 160), (8, 180), (10**6, 180)]
)
def test_the_hold_grows_with_every_fall(falls, seconds):
    assert hold(falls) == seconds


def test_one_that_falls_again_is_held_down():
    verdict = after("--+--")
    assert (verdict.up, verdict.falls, verdict.held_until) == (False, 2, 10.0)

    early = judge(verdict, succeeded=True, retries=2, now=9.9)
    assert not early.up
    assert judge(early, succeeded=True, retries=2, now=10.0).up


def test_calm_is_forgiving():
    verdict = after("--+")
    falls_soon = judge(verdict, succeeded=False, retries=1, now=3.0 + v.CALM_S - 0.1)
    falls_late = judge(verdict, succeeded=False, retries=1, now=3.0 + v.CALM_S)

    assert (falls_soon.falls, falls_late.falls) == (2, 1)


@pytest.mark.parametrize(
    ("verdict", "period", "seconds"),
    [
        (Verdict(), 60, 60),
        (Verdict(failures=1), 60, 0.1),
        (Verdict(failures=2), 60, 0.2),
        (Verdict(failures=3), 60, 0.4),
        (Verdict(failures=4), 60, 0.8),
        (Verdict(failures=99), 60, 0.8),
        (DOWN, 60, 1),
        (Verdict(up=False, failures=3), 60, 4),
        (Verdict(up=False, failures=9), 60, 15),
        (Verdict(up=False, failures=9), 5, 5),
        (Verdict(up=False, failures=0, held_until=107.0), 60, 7),
        (Verdict(up=False, failures=0, held_until=107.0), 3, 3),
        (Verdict(up=False, failures=0, held_until=99.0), 60, 0.1),
    ],
)
def test_the_pause_depends_on_what_is_known(verdict, period, seconds):
    assert pause(verdict, period=period, now=100.0) == pytest.approx(seconds)


steps = st.lists(st.tuples(st.booleans(), st.floats(0, 400)), max_size=60)


@settings(deadline=None)
@given(steps, st.integers(1, 100), st.integers(1, 86_400))
def test_whatever_comes_the_rules_hold(outcomes, retries, period):
    """Down needs ``retries`` failures in a row; a hold is kept; pauses are positive and within the period."""
    verdict, now, failed, fell = Verdict(), 0.0, 0, 0.0
    for succeeded, gap in outcomes:
        now += gap
        before, verdict = verdict, judge(verdict, succeeded=succeeded, retries=retries, now=now)
        failed = 0 if succeeded else failed + 1
        assert 0 < pause(verdict, period=period, now=now) <= period
        if before.up and not verdict.up:
            assert failed >= retries
            fell = now
        if before.up and verdict.up:
            assert failed < retries
        if verdict.up and not before.up:
            assert succeeded
            assert now >= fell + hold(before.falls)
        assert (verdict.changed == now) or (verdict.up == before.up)


@settings(deadline=None)
@given(st.integers(1, 100), st.integers(1, 86_400))
def test_a_dead_endpoint_is_down_within_a_period_and_quick_repeats(retries, period):
    verdict, now = Verdict(), float(period)
    while verdict.up:
        verdict = judge(verdict, succeeded=False, retries=retries, now=now)
        now += pause(verdict, period=period, now=now) if verdict.up else 0

    assert now <= period + retries * v.QUICK_MAX_S


def test_a_flapping_endpoint_changes_ever_less_often():
    """It answers and fails in turn, every half second, for an hour."""
    verdict, now, changes = Verdict(), 0.0, 0
    while now < 3600:
        up = verdict.up
        verdict = judge(verdict, succeeded=not up, retries=1, now=now)
        changes += verdict.up != up
        now += 0.5

    assert changes <= 2 * (3600 / v.HOLD_MAX_S + 8)
