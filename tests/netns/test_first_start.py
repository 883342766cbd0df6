# SPDX-License-Identifier: Apache-2.0
"""A first start that is killed at any point is repaired by the next one, and ``loxilb down`` leaves nothing of it."""

import random
import select
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.netns.test_lifecycle import VIP4, VIP6, create, traces
from tests.support.lab import Lab, Process
from tests.support.lab_star import Star, build
from tests.support.pinned import directory

pytestmark = pytest.mark.must_run
ROUNDS, KILLS = 5, 4
MOST_PINS = 62
LONGEST_S = 0.5
POLL_S = 0.0005


@pytest.fixture
def star(lab: Lab) -> Star:
    """Return a topology without a daemon."""
    return build(lab)


def pins_below(root: Path) -> int:
    """Return how many pins there are by now."""
    with suppress(FileNotFoundError):
        return sum(len(list(kind.iterdir())) for kind in root.iterdir())
    return 0


def points(chance: random.Random) -> Iterator[tuple[int, float]]:
    """Yield how many pins to wait for, and how long from then: pins come quickly, what is between them takes long."""
    while True:
        yield chance.randrange(MOST_PINS), 0.0
        yield chance.choice((0, 1, MOST_PINS // 2)), chance.uniform(0, LONGEST_S)


def kill_at(daemon: Process, root: Path, pins: int, delay: float) -> None:
    """Kill a start so long after so many pins are there, or once it is ready."""
    assert daemon.popen.stdout is not None
    while pins_below(root) < pins and not select.select([daemon.popen.stdout], [], [], 0)[0]:
        time.sleep(POLL_S)  # the pace of polling
    time.sleep(delay)  # the moment is what the test draws, not a wait for something to have happened
    daemon.popen.kill()
    daemon.stop()


def test_a_first_start_killed_at_any_point_is_repaired(star: Star) -> None:
    """Several on top of each other, each of which finds what the one before has left."""
    seed = random.randrange(10**6)
    drawn = points(random.Random(seed))
    root = star.lb.namespace.call(directory).root
    untouched = traces(star)
    cut_short = set()
    for number in range(ROUNDS):
        for _ in range(KILLS):
            kill_at(star.lb.launch(), root, *next(drawn))
            cut_short.add(pins_below(root))
        if number % 2 == 0:
            star.lb.start()
            create(star)
            assert star.names(VIP4, 2020, 3) == star.names(VIP6, 2020, 3) == ["server1", "server2", "server3"], seed
        star.lb.down()
        assert traces(star) == untouched, seed

    assert len(cut_short) > 2, f"seed {seed}: killed at the same points only, {cut_short}"
