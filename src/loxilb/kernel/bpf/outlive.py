# SPDX-License-Identifier: Apache-2.0
"""Whether pins outlive the process that makes them.

Each mount of a BPF file system is one of its own, and is gone with the last mount namespace that has it
(mount_namespaces(7)). ``ip netns exec`` makes a mount namespace for its command, hides in it what is mounted below
/sys, and takes it away with the command.
"""

import os
from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc")
_SYS = Path("/sys")
_NAMED = Path("/run/netns")


def ends_with_us(bpffs: Path | None) -> bool:
    """Tell whether a BPF file system is mounted in our mount namespace alone; None stands for one to be mounted.

    That is seen where a process that we descend from lives in another mount namespace and may be looked at, or where
    the traces of ``ip netns exec`` are: else False.
    """
    outside = list(_outside())
    if not outside:
        return (bpffs is None or _SYS in bpffs.parents) and _is_of_ip_netns((_PROC / "self/mountinfo").read_text())
    if bpffs is None:
        return True
    device = bpffs.stat().st_dev
    return f"{os.major(device)}:{os.minor(device)}" not in {one for mounts in outside for one in _devices(mounts)}


def _is_of_ip_netns(mounts: str) -> bool:
    """Tell whether /sys is what ``ip netns exec`` mounts there: its source is the name of the network namespace."""
    found = [_fields(line) for line in mounts.splitlines()]
    return any(
        point == str(_SYS) and (_NAMED / source).is_file() for point, _, kind, source in found if kind == "sysfs"
    )


def _outside() -> Iterator[str]:
    """Return the mounts (proc_pid_mountinfo(5)) of all processes that we descend from and that live elsewhere."""
    own, process = _namespace("self"), os.getppid()
    while process:
        try:
            if _namespace(process) != own:
                yield (_PROC / str(process) / "mountinfo").read_text()
        except OSError:  # somebody else's, or gone meanwhile
            pass
        process = _parent(process)


def _namespace(process: int | str) -> int:
    return (_PROC / str(process) / "ns/mnt").stat().st_ino


def _parent(process: int) -> int:
    """Return the parent, field 4 of proc_pid_stat(5); 0 where there is none."""
    try:
        return int((_PROC / str(process) / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _devices(mounts: str) -> Iterator[str]:
    """Return the devices of the BPF file systems among mounts: ``0:44``."""
    for _, device, kind, _ in map(_fields, mounts.splitlines()):
        if kind == "bpf":
            yield device


def _fields(line: str) -> tuple[str, str, str, str]:
    """Return mount point, device, kind and source of a mount."""
    before, _, after = line.partition(" - ")
    kind, source = after.split(" ")[:2]
    return before.split(" ")[4], before.split(" ")[2], kind, source
