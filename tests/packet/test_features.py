# SPDX-License-Identifier: Apache-2.0
"""Kernels that lack what the programs need are refused in plain words, before anything is made."""

import pytest

from loxilb.errors import FeatureMissing
from loxilb.kernel.bpf import BpfDataPlane, DataPlaneSettings, features
from tests.support.bpf import World
from tests.support.lab import BIN


@pytest.mark.must_run
@pytest.mark.kernel
def test_a_function_that_the_kernel_lacks_is_named() -> None:
    """The others are there."""
    assert features.missing() == []
    assert features.missing({**features.NEEDED, "bpf_of_tomorrow": 4095}) == ["bpf_of_tomorrow"]

    with pytest.raises(FeatureMissing, match=r"this kernel has no bpf_of_tomorrow \(run Linux"):
        features.require({"bpf_of_tomorrow": 4095})


@pytest.mark.must_run
def test_without_it_nothing_is_made(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a map nor a directory."""
    pins = world.pins()
    monkeypatch.setattr(features, "missing", lambda *_: ["bpf_of_tomorrow"])

    with pytest.raises(FeatureMissing):
        BpfDataPlane.open(DataPlaneSettings(bpffs=pins))

    assert not pins.exists()


@pytest.mark.too_old
def test_this_kernel_is_refused(world: World) -> None:
    """By the data plane, and by the doctor, who says what to do."""
    pins = world.pins()

    with pytest.raises(FeatureMissing, match=r"this kernel has no .*bpf_loop"):
        BpfDataPlane.open(DataPlaneSettings(bpffs=pins))
    told = world.namespace.run(BIN / "loxilb", "doctor", timeout=120, check=False)

    assert not pins.exists()
    assert "bpf_loop" in told
    assert "run Linux 5.17 or newer" in told
