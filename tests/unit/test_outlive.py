# SPDX-License-Identifier: Apache-2.0
"""Whether pins are recognized that end with the mount namespace of the daemon."""

import os
from pathlib import Path

import pytest

from loxilb.kernel.bpf import outlive

_ROOT = "66 1 254:0 / / rw,relatime master:1 - ext4 /dev/vda rw"
_HOST = f"{_ROOT}\n25 66 0:23 / /sys rw shared:7 - sysfs sysfs rw\n30 25 0:30 / /sys/fs/bpf rw shared:9 - bpf bpf rw"
_OURS = f"{_ROOT}\n75 66 0:43 / /sys rw,relatime - sysfs blue rw\n81 75 0:44 / /sys/fs/bpf rw,relatime - bpf bpf rw"


@pytest.fixture(autouse=True)
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is one network namespace with a name."""
    (tmp_path / "blue").touch()
    monkeypatch.setattr(outlive, "_NAMED", tmp_path)


@pytest.mark.parametrize(("mounts", "ends"), [(_OURS, True), (_HOST, False), (_OURS.replace("blue", "none"), False)])
def test_what_ip_netns_exec_mounts_is_known_by_its_source(
    mounts: str, ends: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nobody we descend from may be looked at; a BPF file system outside of /sys may be anybody's."""
    (tmp_path / "self").mkdir()
    (tmp_path / "self/mountinfo").write_text(mounts)
    monkeypatch.setattr(outlive, "_PROC", tmp_path)
    monkeypatch.setattr(outlive, "_outside", lambda: iter(()))

    assert outlive.ends_with_us(Path("/sys/fs/bpf")) == ends
    assert outlive.ends_with_us(None) == ends
    assert not outlive.ends_with_us(Path("/run/loxilb/bpf"))


def test_a_file_system_that_is_mounted_outside_too_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device tells: each mount of a BPF file system has one of its own."""
    device = tmp_path.stat().st_dev
    same = _HOST.replace("0:30", f"{os.major(device)}:{os.minor(device)}")

    for outside, ends in ((same, False), (_HOST, True)):
        monkeypatch.setattr(outlive, "_outside", lambda: iter([outside]))  # noqa: B023 called before the next turn
        assert outlive.ends_with_us(tmp_path) == ends
