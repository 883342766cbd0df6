# SPDX-License-Identifier: Apache-2.0
"""Packets through the loaded programs, on both hooks, with both families."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.packet.driver import SMALL, Driver
from tests.support.bpf import Hook, World
from tests.support.lab import Lab


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Return the namespace that all packet tests run in."""
    with Lab(folder=Path(tmp_path_factory.mktemp("packet"))) as lab:
        yield World(lab)


@pytest.fixture(autouse=True)
def _inside(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run each test in the namespace; the tests of other folders run where they always do."""
    world: World = request.getfixturevalue("world")
    with world.inside():
        yield


@pytest.fixture(scope="module")
def driver(world: World) -> Iterator[Driver]:
    """Return a data plane that the tests of a module share; services and clients are each test's own."""
    with world.inside():
        made = Driver(world, SMALL)
    try:
        yield made
    finally:
        with world.inside():
            made.close()


@pytest.fixture(params=list(Hook), ids=lambda hook: hook.value)
def hook(request: pytest.FixtureRequest) -> Hook:
    """Run the test on each hook."""
    value: Hook = request.param
    return value


@pytest.fixture(params=[4, 6], ids=["v4", "v6"])
def version(request: pytest.FixtureRequest) -> int:
    """Run the test with each family."""
    value: int = request.param
    return value
