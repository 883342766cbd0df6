# SPDX-License-Identifier: Apache-2.0
"""What the kernel can do, found out by doing it: never by its version.

Programs are loaded without pins and attached to devices of a network namespace that lives as long as a thread, so
nothing stays and nobody else's packets meet them.
"""

import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from loxilb.errors import FeatureMissing, KernelError
from loxilb.kernel.bpf import attach, features, loading
from loxilb.kernel.bpf.object import BpfObject
from loxilb.kernel.bpf.settings import DataPlaneSettings
from loxilb.model.survey import Trial

_CLONE_NEWNET = 0x4000_0000
_OBJECTS = ("base", "gc", "tc", "xdp", "egress", "sock")
_SMALL = DataPlaneSettings(
    flows4=1024, flows6=1024, half_open4=64, half_open6=64, rules=16, endpoints=16, ring=64, listeners=16, sources=16
)
_DEVICE = "loxtry"
_libc = ctypes.CDLL(None, use_errno=True)


def try_all() -> list[Trial]:
    """Load every program, if the kernel has what they need, and attach what could be loaded at each kind of hook."""
    try:
        program_set = features.choose()
    except FeatureMissing as error:
        return [Trial(name="kernel", error=error.cause)]
    with ExitStack() as stack:
        programs: dict[str, int] = {}
        found = list(_load(stack, programs, program_set))
        return [*found, *_in_own_namespace(lambda: list(_attach(programs)))]


def _load(stack: ExitStack, programs: dict[str, int], program_set: features.ProgramSet) -> Iterator[Trial]:
    """Load the objects on maps they share; ``programs`` takes the entry programs by hook."""
    config = loading.make_config(_SMALL)
    sizes, shared = loading.sizes_of(config, _SMALL), dict[str, int]()
    for name in _OBJECTS:
        try:
            path = loading.object_path(name, program_set)
            loaded = stack.enter_context(BpfObject(path, rodata=bytes(config), sizes=sizes, reuse=shared))
        except KernelError as error:
            yield Trial(name=f"programs {name}", error=error.cause)
            continue
        shared = {**loaded.maps, **shared}
        programs.update({name: loaded.programs[f"lox_{name}"]} if f"lox_{name}" in loaded.programs else {})
        yield Trial(name=f"programs {name}")


def _in_own_namespace(work: Callable[[], list[Trial]]) -> list[Trial]:
    """Run ``work`` in a thread with a network namespace of its own."""
    outcome: list[Trial] = []

    def body() -> None:
        try:
            if _libc.unshare(_CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "unshare")
            outcome.extend(work())
        except (OSError, NetlinkError) as error:
            number = (error.errno or 0) if isinstance(error, OSError) else error.code
            outcome.append(Trial(name="namespace", error=os.strerror(number)))

    thread = threading.Thread(target=body, name="survey")
    thread.start()
    thread.join()
    return outcome


def _attach(programs: dict[str, int]) -> Iterator[Trial]:
    with _veth() as index:
        if "tc" in programs:
            yield _tried("tcx", lambda: attach.try_tcx(index, programs["tc"]))
            yield _tried("clsact", lambda: attach.attach_clsact(index, programs["tc"]))
        if "xdp" in programs:
            yield _tried("xdp", lambda: attach.try_xdp(index, programs["xdp"]))


@contextmanager
def _veth() -> Iterator[int]:
    with IPRoute() as netlink:
        netlink.link("add", ifname=_DEVICE, kind="veth", peer={"ifname": f"{_DEVICE}2"})
        (index,) = netlink.link_lookup(ifname=_DEVICE)
        yield index


def _tried(name: str, work: Callable[[], object]) -> Trial:
    try:
        work()
    except KernelError as error:
        return Trial(name=name, error=os.strerror(error.errno))
    return Trial(name=name)
