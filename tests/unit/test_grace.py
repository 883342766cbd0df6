# SPDX-License-Identifier: Apache-2.0
"""The switch for short grace periods is put back, and belongs to who found it off."""

from pathlib import Path

import pytest

from loxilb.kernel.bpf import grace


@pytest.fixture
def switch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a switch that is off."""
    path = tmp_path / "rcu_expedited"
    path.write_text("0\n")
    monkeypatch.setattr(grace, "_SWITCH", path)
    return path


def test_it_is_on_meanwhile_and_off_afterwards(switch: Path) -> None:
    """Also where the work fails."""
    with pytest.raises(ZeroDivisionError), grace.short_grace_periods():
        assert switch.read_text() == "1"
        raise ZeroDivisionError

    assert switch.read_text() == "0"


def test_one_that_was_on_stays_so(switch: Path) -> None:
    """An administrator, or another daemon, wants it on."""
    switch.write_text("1\n")
    with grace.short_grace_periods():
        pass

    assert switch.read_text() == "1\n"


@pytest.mark.parametrize("place", ["missing", "."])
def test_without_a_switch_the_work_is_done(place: str, switch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is not there, or cannot be written."""
    monkeypatch.setattr(grace, "_SWITCH", switch.parent / place)
    with grace.short_grace_periods():
        done = True

    assert done
