# SPDX-License-Identifier: Apache-2.0
"""Kernels that lack what the programs need are refused in plain words, before anything is made."""

import pytest

from loxilb.errors import FeatureMissing
from loxilb.kernel.bpf import BpfDataPlane, DataPlaneSettings, features
from loxilb.kernel.bpf.features import ProgramSet
from tests.support.bpf import World


@pytest.mark.must_run
def test_the_kernel_chooses_the_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The legacy ones where a function is missing; none where those cannot do without it either."""
    assert features.missing({**features.NEEDED, "bpf_of_tomorrow": 4095}) == ["bpf_of_tomorrow"]
    assert features.choose() is ProgramSet.CURRENT

    monkeypatch.setattr(features, "NEEDED", {**features.NEEDED, "bpf_of_tomorrow": 4095})
    assert features.choose() is ProgramSet.LEGACY

    monkeypatch.setattr(features, "LEGACY_NEEDED", {**features.LEGACY_NEEDED, "bpf_of_tomorrow": 4095})
    with pytest.raises(FeatureMissing, match=r"this kernel has no bpf_of_tomorrow \(run Linux 5\.10"):
        features.choose()


@pytest.mark.must_run
def test_without_either_nothing_is_made(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a map nor a directory."""
    pins = world.pins()
    monkeypatch.setattr(features, "missing", lambda *_: ["bpf_of_tomorrow"])

    with pytest.raises(FeatureMissing):
        BpfDataPlane.open(DataPlaneSettings(bpffs=pins))

    assert not pins.exists()
