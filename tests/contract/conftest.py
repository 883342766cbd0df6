# SPDX-License-Identifier: Apache-2.0
"""The implementations that the suites of this folder run on."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from loxilb.kernel.bpf import BpfDataPlane, DataPlaneSettings, XdpPolicy
from loxilb.kernel.fake import FakeDataPlane
from loxilb.ports import DataPlane
from tests.support.lab import Lab

SETTINGS = DataPlaneSettings(xdp=XdpPolicy.OFF, flows4=1024, flows6=1024, half_open4=256, half_open6=256)


@pytest.fixture(params=["fake", pytest.param("bpf", marks=pytest.mark.must_run)])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], DataPlane]]:
    """Return a way to open the data plane of one place, again and again; nothing of it is left after the test."""
    if request.param == "fake":
        fake = FakeDataPlane()
        yield lambda: fake
        return
    if os.geteuid() != 0:
        pytest.skip("bpf(2) needs root")
    with Lab(folder=tmp_path) as lab:
        namespace = lab.namespace("dp")
        opened: list[BpfDataPlane] = []

        def reopen() -> DataPlane:
            for before in opened:
                before.close()
            opened[:] = [namespace.call(BpfDataPlane.open, SETTINGS)]
            return opened[0]

        try:
            yield reopen
        finally:
            for last in opened:
                namespace.call(last.destroy)


@pytest.fixture
def data_plane(reopen: Callable[[], DataPlane]) -> DataPlane:
    """Return a data plane with nothing programmed."""
    return reopen()
