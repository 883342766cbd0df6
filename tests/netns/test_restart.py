# SPDX-License-Identifier: Apache-2.0
"""Restarts nobody notices: killed, stopped, replaced by another build, under load."""

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from loxilb.kernel import abi
from loxilb.kernel.bpf import adoption, libbpf, maps
from tests.support.builds import another_build
from tests.support.continuity import Quiet, State
from tests.support.lab import Lab
from tests.support.lab_star import PORT, SERVERS4, SERVERS6, Star, build, evenly, take_frames
from tests.support.load import Load
from tests.support.pinned import directory, opened_pin

pytestmark = pytest.mark.must_run
VIPS = {"20.20.20.1": SERVERS4, "2001::1": SERVERS6}
LOADED, IN_TURN, LEAST = 2020, 2021, 2022


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return another build, whose programs cannot go together with those of this one."""
    return another_build(tmp_path_factory.mktemp("newer"))


@pytest.fixture(params=["off", "on"], ids=["tc", "xdp"])
def star(lab: Lab, request: pytest.FixtureRequest) -> Star:
    """Return a topology with a daemon and services: one to load, and quiet ones to see who is chosen."""
    made = build(lab)
    if request.param == "on":
        take_frames(made.client, *made.servers)
    made.lb.start("--xdp", request.param)
    for vip, servers in VIPS.items():
        for port, flags in ((LOADED, ""), (IN_TURN, ""), (LEAST, " --select=lc")):
            made.lb.create(vip, f"--tcp={port}:{PORT}{flags}", evenly(servers))
    return made


def drops(star: Star) -> set[str]:
    """Return why packets were dropped, but for what two processors at once may come to."""

    def read() -> set[str]:
        found = adoption.pinned_maps(directory())
        size = 8 * libbpf.possible_cpus()
        values = {why: maps.lookup(found["reasons"], maps.index_key(why), size) for why in abi.Reason}
        adoption.close(found)
        return {why.name for why, value in values.items() if why.name.startswith("DROP_") and any(value or b"")}

    return star.lb.namespace.call(read) - {"DROP_BUSY", "DROP_FLOW_MOVED"}


def steps(star: Star) -> dict[str, int]:
    """Return the arrays of tail calls that are pinned, with their size, which tells the build."""

    def read() -> dict[str, int]:
        found = {}
        for paths in directory().builds().values():
            for name in paths.keys() & {"tc_steps", "xdp_steps"}:
                with opened_pin(paths[name]) as array:
                    found[paths[name].name] = maps.describe(array).max_entries
        return found

    return star.lb.namespace.call(read)


@contextmanager
def nothing_goes_back(star: Star, load: Load, held: Collection[bytes]) -> Iterator[None]:
    """Compare flows and counters before and after, while the load goes on; the ``held`` flows have to be there."""
    before = State.of(star)
    yield
    load.flows_on()
    after = State.of(star)
    assert after.went_back(before, held) == []
    assert after.counters != before.counters


def restarts(star: Star, newer: Path, load: Load) -> dict[str, Callable[[], None]]:
    """Return every way in which a daemon is followed by another; between the two traffic flows on."""
    flags = ("--xdp", "off" if "xdp none" in star.lb.ready_line else "on")

    def follow(end: Callable[[], object], build: Path | None) -> None:
        end()
        load.flows_on()
        star.lb.start(*flags, build=build)

    return {
        "killed": lambda: follow(star.lb.kill, None),
        "stopped": lambda: follow(star.lb.stop, None),
        "replaced": lambda: follow(star.lb.stop, newer),
        "rolled back": lambda: follow(star.lb.kill, None),
    }


def test_nobody_notices_a_restart(star: Star, newer: Path) -> None:
    """No request fails, no connection is reset, nothing is counted anew, and the next endpoint is the one due."""
    own = steps(star)
    assert len(own) == (1 if "xdp none" in star.lb.ready_line else 2)

    def scenario() -> None:
        with ExitStack() as stack:
            quiet = Quiet(list(VIPS), IN_TURN, LEAST, stack)
            load = stack.enter_context(Load(star.client, list(VIPS), LOADED))
            opened = State.of(star)
            for way, restart in restarts(star, newer, load).items():
                with nothing_goes_back(star, load, quiet.flows()):
                    restart()
                    quiet.check()
                assert load.failures == [], way
                assert len(steps(star)) == len(own), way
                sizes = sorted(size - (way == "replaced") for size in steps(star).values())
                assert sizes == sorted(own.values()), way
            assert drops(star) == set()
            assert State.of(star).went_back(opened, quiet.flows()) == []

    star.client.call(scenario)
