# SPDX-License-Identifier: Apache-2.0
"""Bringing maps and programs into the kernel, adopting what is pinned already."""

import ctypes
import errno
import mmap
import os
import secrets
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from loxilb.errors import FeatureMissing, KernelError
from loxilb.kernel import abi, netns
from loxilb.kernel.bpf import adoption, builds, features, maps, pins
from loxilb.kernel.bpf.builds import Programs
from loxilb.kernel.bpf.features import ProgramSet
from loxilb.kernel.bpf.object import BpfObject
from loxilb.kernel.bpf.settings import DataPlaneSettings, XdpPolicy

_OBJECTS = Path(__file__).parent / "objects"
_LOAD = 2  # slots per direction: half of a table stays free, so windows rarely fill
_DIRECTIONS = 2
_OVERFLOW = 128  # slots for one element of the overflow map, which takes memory only for what is in it
_LEAST_OVERFLOW = 4096
_RECORD_HEADER = 8  # of each record of a ring buffer (Documentation/bpf/ringbuf.rst)
# What only some kernels have: a flag of bpf_l4_csum_replace (6.16), and functions (6.2, 5.18).
_CSUM_IPV6, _KERNEL_CTX, _SET_RETVAL = b"BPF_F_IPV6", b"bpf_cast_to_kern_ctx", b"bpf_set_retval"


def _slots(flows: int, load: int) -> int:
    """Slots for so many flows, a power of two."""
    return 1 << max(6, (flows * _DIRECTIONS * load - 1).bit_length())


def _ring_bytes(wanted: int) -> int:
    """Size of a ring buffer: a power of two, and whole pages."""
    return max(mmap.PAGESIZE, 1 << (wanted - 1).bit_length())


def make_config(settings: DataPlaneSettings) -> abi.Config:
    """Return the load-time configuration of a new data plane, with a secret of its own."""
    known = _known_to_kernel(_CSUM_IPV6, _KERNEL_CTX, _SET_RETVAL)
    config = abi.Config(
        flow4_mask=_slots(settings.flows4, _LOAD) - 1,
        flow6_mask=_slots(settings.flows6, _LOAD) - 1,
        half4_mask=_slots(settings.half_open4, 1) - 1,
        half6_mask=_slots(settings.half_open6, 1) - 1,
        link_mask=_slots(settings.links, 1) - 1,
        next_hop_mask=(1 << (settings.next_hops - 1).bit_length()) - 1,
        rules=settings.rules,
        endpoints=settings.endpoints,
        ring=-(-settings.ring // abi.RING_LINE) * abi.RING_LINE,
        redirect_peer=int(settings.redirect_peer),
        complete_checksum=int(settings.xdp is XdpPolicy.ON),
        ipv6_csum_flag=int(_CSUM_IPV6 in known),
        kernel_ctx=int(_KERNEL_CTX in known),
        set_retval=int(_SET_RETVAL in known),
        netns=netns.cookie() or 0,
    )
    config.secret[:] = (secrets.randbits(64), secrets.randbits(64))
    return config


def _known_to_kernel(*names: bytes) -> frozenset[bytes]:
    """Return those of the functions and constants that the kernel has, which are then in its type information."""
    try:
        types = Path("/sys/kernel/btf/vmlinux").read_bytes()
    except OSError:
        return frozenset()
    return frozenset(name for name in names if b"\0" + name + b"\0" in types)


def sizes_of(config: abi.Config, settings: DataPlaneSettings) -> dict[str, int]:
    """Return the number of entries of every map whose size is configured."""
    flow4, flow6 = config.flow4_mask + 1, config.flow6_mask + 1
    return {
        "flow4": flow4,
        "flow4_cold": flow4,
        "used4": flow4 // 64,
        "flow6": flow6,
        "used6": flow6 // 64,
        "overflow4": max(flow4 // _OVERFLOW, _LEAST_OVERFLOW),
        "overflow6": max(flow6 // _OVERFLOW, _LEAST_OVERFLOW),
        "half4": config.half4_mask + 1,
        "half6": config.half6_mask + 1,
        "links": config.link_mask + 1,
        "next_hops": config.next_hop_mask + 1,
        "rules": config.rules,
        "rule_states": config.rules,
        "endpoints": config.endpoints,
        "traffic": config.endpoints,
        "live_traffic": config.endpoints,
        "endpoint_states": config.endpoints,
        "affinities": settings.clients,
        "connected": settings.sockets,
        "errands": 2 * settings.errands,
        "sources": settings.sources,
        "icmp_peers": settings.icmp_peers,
        "aborts": _ring_bytes(settings.aborts * (ctypes.sizeof(abi.Abort) + _RECORD_HEADER)),
        "fragments": settings.fragments,
        # A power of two: the kernel makes as many buckets in any case, and takes memory for what is in them.
        "hosts": 1 << (config.endpoints + config.rules - 1).bit_length(),
        "ring": config.ring // abi.RING_LINE,
        "listeners4": settings.listeners,
        "listeners6": settings.listeners,
    }


@dataclass(slots=True, kw_only=True)
class Loaded:
    """What is in the kernel now. ``adopted`` tells whether the maps were there before.

    The programs of an object are loaded when they are first asked for, those for XDP cost a third of a second; or taken
    over, where the same build was loaded before on these maps.
    """

    program_set: ProgramSet
    directory: pins.PinDirectory
    config: abi.Config
    sizes: Mapping[str, int]
    maps: dict[str, int]
    adopted: bool
    _objects: dict[str, Programs] = field(default_factory=dict)

    @property
    def pinned(self) -> Mapping[Path, Mapping[str, int]]:
        """What is pinned in which folder under which name, each with a descriptor."""
        programs = {
            one.build.pin_of(name): descriptor
            for one in self._objects.values()
            for name, descriptor in one.pinned.items()
        }
        return {self.directory.maps: self.maps, self.directory.programs: programs}

    def path(self, name: str) -> Path:
        """Return the file of an object; raises KernelError."""
        return object_path(name, self.program_set)

    def programs(self, name: str) -> Mapping[str, int]:
        """Return the programs of an object, which use the shared maps; raises KernelError."""
        self.bring(name)
        return self._objects[name].programs

    def bring(self, *names: str) -> None:
        """Have objects in the kernel, which share no map but those that are there already; raises KernelError.

        Those that are loaded are so at once: the verifier takes most of the time, one processor an object.
        """
        missing = [name for name in names if name not in self._objects and not self._take_over(name)]
        if not missing:
            return
        with ThreadPoolExecutor(len(missing)) as threads:
            loading = {name: threads.submit(self._load, name) for name in missing}
        done = {name: future.result() for name, future in loading.items() if future.exception() is None}
        with ExitStack() as stack:
            for loaded in done.values():
                stack.enter_context(loaded)
            for name, loaded in done.items():
                self._keep(name, loaded)
        for future in loading.values():
            future.result()

    def _take_over(self, name: str) -> bool:
        path = self.path(name)
        found = builds.take_over(self.directory, path, builds.digest_of(path, bytes(self.config)), self.maps)
        if found is not None:
            self._objects[name] = found
        return found is not None

    def _load(self, name: str) -> BpfObject:
        return BpfObject(self.path(name), rodata=bytes(self.config), sizes=self.sizes, reuse=self.maps)

    def _keep(self, name: str, loaded: BpfObject) -> None:
        _collect(self.directory, loaded, self.maps)
        digest = builds.digest_of(loaded.path, bytes(self.config))
        self._objects[name] = builds.keep(self.directory, loaded, digest)

    def retire(self) -> None:
        """Let go of programs of other builds, some time after they were replaced; raises KernelError."""
        builds.retire(self.directory, [one.build for one in self._objects.values()])

    def close(self) -> None:
        """Close all descriptors; pins keep what is pinned."""
        for one in self._objects.values():
            one.close()
        adoption.close(self.maps)


def load(directory: pins.PinDirectory, settings: DataPlaneSettings) -> Loaded:
    """Load the programs on the pinned maps, or on new ones which are pinned then; raises KernelError.

    On a kernel that lacks what they need, FeatureMissing is raised before anything is made. The configuration is pinned
    last: a directory without it is left over from a start that was cut short, so its maps are not adopted.
    """
    program_set = settings.programs or features.choose()
    adoption.make_way(directory, settings.bpffs)
    found = adoption.pinned_maps(directory)
    config = make_config(settings)
    try:
        taken = adoption.adopt_config(directory, found, config)
    except KernelError:
        adoption.close(found)
        raise
    adopted = taken is not None
    if taken is None:
        adoption.close(found)
        directory.remove()
        found = {}
    directory.create()
    # Adopted maps keep their size, whatever is asked for now.
    sizes = sizes_of(config, settings) | {name: maps.describe(one).max_entries for name, one in found.items()}
    loaded = Loaded(
        program_set=program_set, directory=directory, config=config, sizes=sizes, maps=found, adopted=adopted
    )
    try:
        loaded.bring("base")
        loaded.bring("tc", "gc")
        if not adopted:
            found[pins.CONFIG] = adoption.keep_config(directory, config)
    except BaseException:
        loaded.close()
        raise
    return loaded


def object_path(name: str, program_set: ProgramSet) -> Path:
    """Return the file of an object of a set of programs; raises KernelError where it is not built."""
    legacy = program_set is ProgramSet.LEGACY
    if legacy and name == "sock":
        detail = "there are no programs for sockets on a kernel without bpf_loop"
        raise FeatureMissing("load the programs for sockets", errno.ENOTSUP, detail=detail, remedy="run Linux 5.17")
    path = (_OBJECTS / "legacy" if legacy else _OBJECTS) / f"{name}.bpf.o"
    if not path.exists():
        raise KernelError(f"open {path.name}", 2, detail="the BPF objects are not built", remedy="make bpf")
    return path


def _collect(directory: pins.PinDirectory, loaded: BpfObject, found: dict[str, int]) -> None:
    """Pin the object's new maps and keep descriptors of our own, for the next object to share."""
    for name, descriptor in loaded.maps.items():
        if name not in found and builds.is_shared(name):
            pins.pin(descriptor, directory.map_path(name))
            found[name] = os.dup(descriptor)
