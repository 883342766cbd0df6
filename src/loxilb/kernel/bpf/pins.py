# SPDX-License-Identifier: Apache-2.0
"""The directory that keeps maps and links alive while no daemon runs.

``<bpffs>/loxilb/<namespace>/v<ABI>/``: one directory a network namespace, so several daemons do not meet, and one an
ABI version, so a daemon never reads maps it does not understand.
"""

import ctypes
import errno
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from loxilb.errors import KernelError
from loxilb.kernel import abi, netns
from loxilb.kernel.bpf import libbpf
from loxilb.kernel.bpf.libbpf import check

_STANDARD = Path("/sys/fs/bpf")
_OWN = Path("/run/loxilb/bpf")
PLACES = (_STANDARD, _OWN)
"""Where a BPF file system is looked for, the first choice first."""
CONFIG = "config"
"""Name of the map that is pinned last of all and removed first: with it the maps are complete."""
_KINDS = ("links", "programs", "maps")  # in the order of their removal
_REMEDY = "run as root, and where it is no pin of loxilb, remove it"
_libc = ctypes.CDLL(None, use_errno=True)


def mount_points() -> set[Path]:
    """Return where BPF file systems are mounted (proc_pid_mountinfo(5))."""
    found = set()
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, source = line.partition(" - ")
        if source.startswith("bpf "):
            found.add(Path(fields.split()[4]))
    return found


def _mount(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KernelError(f"create {directory}", error.errno or errno.EIO) from error
    if _libc.mount(b"bpf", os.fsencode(directory), b"bpf", 0, None) != 0:
        raise KernelError(f"mount a BPF file system on {directory}", ctypes.get_errno(), remedy="run as root")


def find_bpffs(wanted: Path | None) -> Path:
    """Return the directory of a BPF file system, mounting one where there is none; raises KernelError.

    ``ip netns exec`` hides what is mounted below /sys, so a place outside is the second choice. Where an earlier daemon
    of this namespace has pinned comes first.
    """
    mounted = mount_points()
    if wanted is not None:
        if not any(wanted == point or point in wanted.parents for point in mounted):
            _mount(wanted)
        return wanted
    there = [place for place in PLACES if place in mounted]
    if there:
        return next((place for place in there if (place / "loxilb" / netns.identity()).is_dir()), there[0])
    try:
        _mount(_STANDARD)
    except KernelError:
        _mount(_OWN)
        return _OWN
    return _STANDARD


class Build(NamedTuple):
    """Programs of one object file, loaded together; ``number`` is that of one of them and tells them from others."""

    object: str
    digest: str
    number: int

    def pin_of(self, name: str) -> str:
        """Return the name of the pin of one of its programs or maps."""
        return f"{self.object}-{self.digest}-{self.number}-{name}"


class PinDirectory:
    """Pins of one network namespace."""

    def __init__(self, bpffs: Path) -> None:
        """Name the directory of the calling thread's namespace; nothing is created."""
        self.root = bpffs / "loxilb" / netns.identity() / f"v{abi.ABI_VERSION}"
        self.maps, self.programs = self.root / "maps", self.root / "programs"

    def create(self) -> None:
        """Make the directories; raises KernelError."""
        for directory in (self.root / kind for kind in _KINDS):
            try:
                directory.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise KernelError(f"create {directory}", error.errno or errno.EIO) from error

    def map_path(self, name: str) -> Path:
        """Path of a map's pin."""
        return self.maps / name

    def program_path(self, build: Build, name: str) -> Path:
        """Path of the pin of a program of a build, or of a map that no other build shares."""
        return self.programs / build.pin_of(name)

    def builds(self) -> Mapping[Build, Mapping[str, Path]]:
        """Return what is pinned of every build, by name; raises KernelError."""
        found: defaultdict[Build, dict[str, Path]] = defaultdict(dict)
        for path in _content(self.programs):
            name, digest, number, what = path.name.split("-", 3)
            found[Build(name, digest, int(number))][what] = path
        return found

    def link_path(self, hook: str, index: int) -> Path:
        """Path of the pin of a link of one interface."""
        return self.root / "links" / f"{hook}-{index}"

    def links(self) -> Iterator[tuple[str, int, Path]]:
        """Return hook, interface index and path of every pinned link; raises KernelError."""
        for path in _content(self.root / "links"):
            hook, _, index = path.name.rpartition("-")
            yield hook, int(index), path

    def remove(self) -> None:
        """Detach every link, and remove every pin and the namespace's directory; raises KernelError."""
        remove_root(self.root)


def _content(directory: Path) -> list[Path]:
    """Return what is in a directory, nothing where there is none; raises KernelError."""
    try:
        return sorted(directory.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise KernelError(f"list {directory}", error.errno or errno.EIO, remedy=_REMEDY) from error


def existing(wanted: Path | None) -> list[Path]:
    """Return the directories of the calling thread's namespace, of every ABI version, without mounting anything.

    ``wanted`` is a BPF file system as for :func:`find_bpffs`; None means each that it may have chosen.
    """
    mounted = mount_points()
    places = [wanted] if wanted is not None else [place for place in PLACES if place in mounted]
    return sorted(root for place in places for root in (place / "loxilb" / netns.identity()).glob("v*"))


def is_complete(root: Path) -> bool:
    """Tell whether a directory holds a data plane, not what is left of a start that was cut short.

    Programs are attached only to complete maps.
    """
    return (root / "maps" / CONFIG).exists() or any((root / "links").glob("*"))


def remove_root(root: Path) -> None:
    """Detach every link, remove every pin and the namespace's directory of one version; raises KernelError."""
    for kind in _KINDS:
        unpin(root / kind)
    remove_empty(root)


def unpin(directory: Path) -> int:
    """Detach the links and remove the pins of a directory, and itself. Return how many there were.

    The mark of a complete data plane goes first: what is left when this is cut short is not taken for one. Raises
    KernelError.
    """
    try:
        pinned = sorted(directory.iterdir(), key=lambda path: path.name != CONFIG)
        for path in pinned:
            remove(path)
        directory.rmdir()
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise KernelError(f"remove {directory}", error.errno or errno.EIO, remedy=_REMEDY) from error
    return len(pinned)


def remove_empty(root: Path) -> None:
    """Remove the directory of one ABI version, and those above it while they are empty."""
    for directory in (root, root.parent, root.parent.parent):
        try:
            directory.rmdir()
        except OSError:  # not there, or another namespace's pins are in it
            return


def remove(path: Path) -> None:
    """Remove a pin; a link stops running its program before this returns.

    Without its pin the kernel would let go of a link too, but some time later: until then a program that is attached
    again to the same device meets itself. What is no link, or cannot be detached (XDP before 5.9), only loses its pin.
    Raises KernelError.
    """
    descriptor = get(path)
    if descriptor is not None:
        libbpf.link_detach(descriptor)
        os.close(descriptor)
    forget(path)


def forget(path: Path) -> None:
    """Remove a pin, which may be gone; raises KernelError."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise KernelError(f"remove pin {path}", error.errno or errno.EIO, remedy=_REMEDY) from error


def pin(descriptor: int, path: Path) -> None:
    """Pin a map, program or link; raises KernelError."""
    check(libbpf.object_pin(descriptor, os.fsencode(path)), f"pin {path.name}")


def get(path: Path) -> int | None:
    """Return a descriptor of what is pinned at ``path``; None when nothing is; raises KernelError."""
    result = libbpf.object_get(os.fsencode(path))
    if result == -errno.ENOENT:
        return None
    return check(result, f"open pin {path}", remedy=_REMEDY)
