# SPDX-License-Identifier: Apache-2.0
"""Packets through the loaded programs, on both hooks, with both families."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from loxilb.kernel.bpf import DataPlaneSettings, features
from loxilb.kernel.bpf.features import ProgramSet
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


@contextmanager
def loaded(world: World, settings: DataPlaneSettings) -> Iterator[Driver]:
    """Return a driver whose data plane goes away afterwards."""
    with world.inside():
        made = Driver(world, settings)
    try:
        yield made
    finally:
        with world.inside():
            made.close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the core subset with the legacy programs as well; where the kernel can run no others, with them alone."""
    if "driver" in metafunc.fixturenames and metafunc.definition.get_closest_marker("kernel"):
        sets = list(ProgramSet) if features.choose() is ProgramSet.CURRENT else [ProgramSet.LEGACY]
        metafunc.parametrize("driver", sets, ids=lambda one: one.value, indirect=True)


@pytest.fixture(scope="session")
def drivers(world: World) -> Iterator[dict[ProgramSet, Driver]]:
    """Return the data planes made so far, by their programs."""
    made: dict[ProgramSet, Driver] = {}
    yield made
    with world.inside():
        for one in made.values():
            one.close()


@pytest.fixture
def driver(world: World, drivers: dict[ProgramSet, Driver], request: pytest.FixtureRequest) -> Driver:
    """Return a data plane that most tests share; services and clients are each test's own."""
    program_set: ProgramSet = getattr(request, "param", None) or features.choose()
    if program_set not in drivers:
        drivers[program_set] = Driver(world, replace(SMALL, programs=program_set))
    return drivers[program_set]


@pytest.fixture(scope="module")
def module_driver(world: World, request: pytest.FixtureRequest) -> Iterator[Driver]:
    """Return a data plane that the tests of a module share, with the module's SETTINGS."""
    with loaded(world, request.module.SETTINGS) as made:
        yield made


@pytest.fixture
def own_driver(world: World, request: pytest.FixtureRequest) -> Iterator[Driver]:
    """Return a data plane for one test, with the settings that the test is parametrised with."""
    with loaded(world, request.param) as made:
        yield made


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
