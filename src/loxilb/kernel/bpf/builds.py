# SPDX-License-Identifier: Apache-2.0
"""Programs that stay in the kernel: a start of the same build takes them over, and the verifier has nothing to do.

A build of an object is its file and the configuration that it is loaded with. Its programs are pinned, with the maps
that no other build shares: tail calls, records of the packet in hand, read-only data.
"""

import ctypes
import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from loxilb.errors import KernelError
from loxilb.kernel.bpf import attach, libbpf, maps, pins
from loxilb.kernel.bpf.libbpf import check
from loxilb.kernel.bpf.object import BpfObject, names_in

_STEPS = "_steps"  # ends the name of an object's array of tail calls
_SCRATCH = frozenset({"work", "spill"})
_RECORD = "_record"  # ends the name of an argument of the legacy build's functions
_MOST_MAPS = 64  # of one program, in the kernel (MAX_USED_MAPS)


@dataclass(slots=True, kw_only=True)
class Programs:
    """Programs of one object in the kernel, and the maps of their build alone; each with its descriptor."""

    build: pins.Build
    programs: Mapping[str, int]
    own: Mapping[str, int]

    @property
    def pinned(self) -> Mapping[str, int]:
        """What is pinned of a build."""
        return {**self.own, **self.programs}

    def close(self) -> None:
        """Close all descriptors; pins keep what is pinned."""
        for descriptor in self.pinned.values():
            os.close(descriptor)


def digest_of(path: Path, rodata: bytes) -> str:
    """Return what tells a build of an object from others: 16 digits."""
    return hashlib.sha256(rodata + path.read_bytes()).hexdigest()[:16]


def is_shared(name: str) -> bool:
    """Tell whether a map that is not internal to its object belongs to all builds of one ABI."""
    return name not in _SCRATCH and not name.endswith((_STEPS, _RECORD))


def keep(directory: pins.PinDirectory, loaded: BpfObject, digest: str) -> Programs:
    """Pin the programs of an object that was loaded just now, and the maps of their build; raises KernelError.

    The pin of an array of tail calls has to outlive the daemon: the kernel empties one that nobody holds.
    """
    numbers = [attach.program_id(one) for one in loaded.programs.values()]
    build = pins.Build(object=loaded.path.name.partition(".")[0], digest=digest, number=min(numbers))
    own = {name.replace(".", "_"): one for name, one in loaded.internal.items()}
    own |= {name: one for name, one in loaded.maps.items() if not is_shared(name)}
    kept = Programs(
        build=build,
        programs={name: os.dup(one) for name, one in loaded.programs.items()},
        own={name: os.dup(one) for name, one in own.items()},
    )
    try:
        for name, descriptor in kept.pinned.items():
            pins.pin(descriptor, directory.program_path(build, name))
    except KernelError:
        kept.close()
        raise
    return kept


def take_over(directory: pins.PinDirectory, path: Path, digest: str, shared: Mapping[str, int]) -> Programs | None:
    """Return the pinned programs of a build where they are whole, and all their maps among ``shared``.

    Raises KernelError.
    """
    names, wanted = names_in(path)
    if not {name for name in wanted if is_shared(name)} <= shared.keys():
        return None
    known = {maps.describe(one).id for one in shared.values()}
    for build, paths in directory.builds().items():
        if (build.object, build.digest) == (path.name.partition(".")[0], digest) and names <= paths.keys():
            found = _open(build, paths, names)
            if _is_sound(found, known):
                return found
            found.close()
    return None


def _open(build: pins.Build, paths: Mapping[str, Path], names: frozenset[str]) -> Programs:
    opened = {name: descriptor for name, path in paths.items() if (descriptor := pins.get(path)) is not None}
    return Programs(
        build=build,
        programs={name: one for name, one in opened.items() if name in names},
        own={name: one for name, one in opened.items() if name not in names},
    )


def _is_sound(found: Programs, shared: set[int]) -> bool:
    """Tell whether programs use no map that was replaced since, and find all their tail calls."""
    own = {maps.describe(one).id for one in found.own.values()}
    used = {identity for program in found.programs.values() for identity in maps_of(program)}
    steps = [one for name, one in found.own.items() if name.endswith(_STEPS)]
    entry = f"lox_{found.build.object}"
    called = {attach.program_id(one) for name, one in found.programs.items() if steps and name != entry}
    return used <= shared | own and called <= {step for array in steps for step in _steps_in(array)}


def maps_of(program: int) -> tuple[int, ...]:
    """Return the numbers of the maps that a program uses."""
    room = (ctypes.c_uint32 * _MOST_MAPS)()
    info, size = libbpf.ProgramInfo(), ctypes.c_uint32(ctypes.sizeof(libbpf.ProgramInfo))
    info.nr_map_ids, info.map_ids = _MOST_MAPS, ctypes.addressof(room)
    check(libbpf.object_info(program, ctypes.byref(info), ctypes.byref(size)), "ask for the maps of a program")
    return tuple(room[: info.nr_map_ids])


def _steps_in(array: int) -> set[int]:
    """Return the numbers of the programs in an array of programs."""
    found = (maps.lookup(array, maps.index_key(at), 4) for at in range(maps.describe(array).max_entries))
    return {int.from_bytes(one, "little") for one in found if one is not None}


def retire(directory: pins.PinDirectory, own: Iterable[pins.Build]) -> None:
    """Let go of the programs of other builds that run nowhere; raises KernelError.

    Some time after they were replaced: packets may still be in them, and their tail calls go with the last who holds
    the array.
    """
    kept = set(own)
    foreign = [paths for build, paths in directory.builds().items() if build not in kept]
    running = attach.running(directory) if foreign else set()
    for paths in foreign:
        if not running & _numbers(paths):
            for path in paths.values():
                pins.forget(path)


def _numbers(paths: Mapping[str, Path]) -> set[int]:
    """Return the numbers of the programs among pins of a build."""
    found = [pins.get(path) for name, path in paths.items() if name.startswith("lox_")]
    descriptors = [one for one in found if one is not None]
    try:
        return {attach.program_id(one) for one in descriptors}
    finally:
        for one in descriptors:
            os.close(one)
