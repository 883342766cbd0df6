# SPDX-License-Identifier: Apache-2.0
"""From the outcomes of probes to a verdict, and how soon to probe again.

An endpoint is up until ``retries`` probes in a row have failed, and up again with the first that succeeds. Between two
failures there is a fraction of a second, not a whole period. One that goes up and down is held down longer each time:
not at all at first, then 5 s, doubled up to 180 s. After five minutes up it is all forgotten.

Times are in seconds of any clock that does not go back.
"""

from dataclasses import dataclass, replace

QUICK_S = 0.1
QUICK_MAX_S = 0.8
DOWN_S = 1.0
DOWN_MAX_S = 15.0
HOLD_S = 5.0
HOLD_MAX_S = 180.0
CALM_S = 300.0
_MAX_DOUBLINGS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What is held of an endpoint.

    ``failures`` counts probes that failed in a row since the last success or change. ``falls`` counts how often it went
    down without being calm in between. ``changed`` is when it last went up or down, ``held_until`` the time before
    which it does not go up.
    """

    up: bool = True
    failures: int = 0
    falls: int = 0
    changed: float = 0.0
    held_until: float = 0.0


def judge(before: Verdict, *, succeeded: bool, retries: int, now: float) -> Verdict:
    """Return the verdict after one more probe; ``retries`` (1 or more) failures in a row mean down."""
    if before.up:
        return _judge_up(before, succeeded=succeeded, retries=retries, now=now)
    if not succeeded:
        return replace(before, failures=before.failures + 1)
    if now < before.held_until:
        return replace(before, failures=0)
    return Verdict(up=True, falls=before.falls, changed=now)


def _judge_up(before: Verdict, *, succeeded: bool, retries: int, now: float) -> Verdict:
    if succeeded:
        return replace(before, failures=0) if before.failures else before
    failures = before.failures + 1
    if failures < retries:
        return replace(before, failures=failures)
    falls = 1 if now - before.changed >= CALM_S else before.falls + 1
    return Verdict(up=False, failures=1, falls=falls, changed=now, held_until=now + hold(falls))


def hold(falls: int) -> float:
    """Return the seconds that an endpoint stays down after so many falls."""
    return 0.0 if falls < 2 else min(HOLD_MAX_S, _doubled(HOLD_S, falls - 2))


def pause(verdict: Verdict, *, period: float, now: float) -> float:
    """Return the seconds until the next probe, never more than ``period``.

    Down, an endpoint is probed more often than its period says, so that it is back soon: after 1 s, then doubled up to
    15 s. One that answers while it is held down is probed when the hold ends.
    """
    if verdict.up and not verdict.failures:
        return period
    if verdict.up:
        return min(period, QUICK_MAX_S, _doubled(QUICK_S, verdict.failures - 1))
    if not verdict.failures:
        return min(period, max(QUICK_S, verdict.held_until - now))
    return min(period, DOWN_MAX_S, _doubled(DOWN_S, verdict.failures - 1))


def _doubled(base: float, times: int) -> float:
    return base * float(2 ** min(times, _MAX_DOUBLINGS))
