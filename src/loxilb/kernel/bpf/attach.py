# SPDX-License-Identifier: Apache-2.0
"""Attaching programs to network devices: XDP and TCX links, clsact filters where TCX is missing.

Links belong to the network namespace of the calling thread. A pinned link outlives the process, and its program is
replaced without a gap. A clsact filter outlives the process by itself.
"""

import ctypes
import errno
import os
import socket
from pathlib import Path

from loxilb.kernel.bpf import libbpf, pins
from loxilb.kernel.bpf.libbpf import check

_XDP = 37
_TCX_INGRESS = 46
_TCX_EGRESS = 47
_NATIVE = 1 << 2
_CLSACT_INGRESS = 1
_CLSACT_EGRESS = 2
_REPLACE = 1
_HANDLE = 1
_PRIORITY = 1
_TC_PROGRAMS = {_CLSACT_INGRESS: b"lox_tc", _CLSACT_EGRESS: b"lox_egress"}
# No such filter, no clsact on the device, no such device.
_NO_FILTER = (errno.ENOENT, errno.EINVAL, errno.ENODEV)
# Without these the kernel has no TCX (before 6.6): unknown attach type, or unknown command.
_NO_TCX = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP)


def _link(program: int, index: int, hook: int, flags: int) -> int:
    options = libbpf.LinkOptions(sz=ctypes.sizeof(libbpf.LinkOptions), flags=flags)
    return int(libbpf.link_create(program, index, hook, ctypes.byref(options)))


def renew(path: Path, program: int) -> bool:
    """Put ``program`` into the link pinned at ``path``; False when there is none or its device is gone."""
    descriptor = pins.get(path)
    if descriptor is None:
        return False
    try:
        if libbpf.link_update(descriptor, program, None) == 0:
            return True
    finally:
        os.close(descriptor)
    pins.remove(path)
    return False


def _attach_link(directory: pins.PinDirectory, name: str, index: int, program: int, hook: int, flags: int) -> int:
    """Return 0 or the negative errno of the attachment."""
    path = directory.link_path(name, index)
    if renew(path, program):
        return 0
    descriptor = _link(program, index, hook, flags)
    if descriptor < 0:
        return descriptor
    try:
        pins.pin(descriptor, path)
    finally:
        os.close(descriptor)
    return 0


def attach_xdp(directory: pins.PinDirectory, index: int, program: int) -> None:
    """Attach the XDP program natively; raises KernelError."""
    result = _attach_link(directory, "xdp", index, program, _XDP, _NATIVE)
    check(result, f"attach XDP to interface {index}", remedy="use --xdp off, or lower the MTU of the device")


def attach_tc(directory: pins.PinDirectory, index: int, program: int) -> str:
    """Attach the TC program at ingress; returns the hook taken, ``tcx`` or ``clsact``; raises KernelError."""
    return _attach_tc(directory, "tcx", index, program, _CLSACT_INGRESS)


def attach_egress(directory: pins.PinDirectory, index: int, program: int) -> str:
    """Attach the program for replies of this host at TC egress; as :func:`attach_tc`."""
    return _attach_tc(directory, "egress", index, program, _CLSACT_EGRESS)


def _attach_tc(directory: pins.PinDirectory, name: str, index: int, program: int, point: int) -> str:
    kind = _TCX_INGRESS if point == _CLSACT_INGRESS else _TCX_EGRESS
    result = _attach_link(directory, name, index, program, kind, 0)
    if result == 0:
        return "tcx"
    if -result not in _NO_TCX:
        check(result, f"attach TCX to interface {index}")
    attach_clsact(index, program, point)
    return "clsact"


def try_xdp(index: int, program: int) -> None:
    """Attach the XDP program natively for a moment; raises KernelError."""
    _try_link(program, index, _XDP, _NATIVE)


def try_tcx(index: int, program: int) -> None:
    """Attach the TC program by TCX for a moment; raises KernelError."""
    _try_link(program, index, _TCX_INGRESS, 0)


def _try_link(program: int, index: int, hook: int, flags: int) -> None:
    os.close(check(_link(program, index, hook, flags), f"attach to interface {index}"))


def _clsact_hook(index: int, point: int) -> libbpf.TcHook:
    return libbpf.TcHook(sz=ctypes.sizeof(libbpf.TcHook), ifindex=index, attach_point=point)


def attach_clsact(index: int, program: int, point: int = _CLSACT_INGRESS) -> None:
    """Attach a program by a filter of clsact, the TC program unless ``point`` says otherwise; raises KernelError."""
    hook = _clsact_hook(index, point)
    result = libbpf.tc_hook_create(ctypes.byref(hook))
    if result == -errno.EEXIST:
        libbpf.expected()
    else:
        check(result, f"create clsact on interface {index}")
    options = libbpf.TcOptions(
        sz=ctypes.sizeof(libbpf.TcOptions),
        prog_fd=program,
        flags=_REPLACE,
        handle=_HANDLE,
        priority=_PRIORITY,
    )
    check(libbpf.tc_attach(ctypes.byref(hook), ctypes.byref(options)), f"attach TC to interface {index}")


def detach_clsact(index: int) -> int:
    """Remove our filters and tell how many there were; the qdisc and filters of others stay. Raises KernelError."""
    return sum(_detach_clsact(index, point) for point in _TC_PROGRAMS)


def has_clsact(index: int, point: int = _CLSACT_INGRESS) -> bool:
    """Tell whether our filter is on an interface; raises KernelError."""
    program = _filtering_program(index, point)
    return program is not None and program_name(program) == _TC_PROGRAMS[point]


def has_egress_clsact(index: int) -> bool:
    """As :func:`has_clsact`, for the program for replies of this host."""
    return has_clsact(index, _CLSACT_EGRESS)


def _detach_clsact(index: int, point: int) -> bool:
    if not has_clsact(index, point):
        return False
    hook = _clsact_hook(index, point)
    options = libbpf.TcOptions(sz=ctypes.sizeof(libbpf.TcOptions), handle=_HANDLE, priority=_PRIORITY)
    check(libbpf.tc_detach(ctypes.byref(hook), ctypes.byref(options)), f"detach TC from interface {index}")
    return True


def program_name(identity: int) -> bytes:
    """Return the name of a loaded program, empty when it is gone; raises KernelError."""
    descriptor = libbpf.program_by_id(identity)
    if descriptor == -errno.ENOENT:
        return b""
    check(descriptor, f"open program {identity}")
    try:
        return bytes(_describe(descriptor).name)
    finally:
        os.close(descriptor)


def program_id(descriptor: int) -> int:
    """Return the number that the kernel gave a program; raises KernelError."""
    return int(_describe(descriptor).id)


def _describe(descriptor: int) -> libbpf.ProgramInfo:
    info, size = libbpf.ProgramInfo(), ctypes.c_uint32(ctypes.sizeof(libbpf.ProgramInfo))
    check(libbpf.object_info(descriptor, ctypes.byref(info), ctypes.byref(size)), "ask for a program")
    return info


def running(directory: pins.PinDirectory) -> set[int]:
    """Return the numbers of the programs that pinned links, and filters at our places, run; raises KernelError."""
    pinned = list(directory.links())
    with_tcx = {index for hook, index, _ in pinned if hook == "tcx"}
    rest = [index for index, _ in socket.if_nameindex() if index not in with_tcx]
    found = {
        *(_linked_program(path) for _, _, path in pinned),
        *(_filtering_program(index, point) for index in rest for point in _TC_PROGRAMS),
    }
    return {program for program in found if program is not None}


def _linked_program(path: Path) -> int | None:
    descriptor = pins.get(path)
    if descriptor is None:
        return None
    info, size = libbpf.LinkInfo(), ctypes.c_uint32(ctypes.sizeof(libbpf.LinkInfo))
    try:
        check(libbpf.object_info(descriptor, ctypes.byref(info), ctypes.byref(size)), f"ask for link {path.name}")
    finally:
        os.close(descriptor)
    return int(info.prog_id)


def _filtering_program(index: int, point: int) -> int | None:
    """Return the program of the filter at our place of clsact, whoever put it there; None without one."""
    hook = _clsact_hook(index, point)
    options = libbpf.TcOptions(sz=ctypes.sizeof(libbpf.TcOptions), handle=_HANDLE, priority=_PRIORITY)
    result = libbpf.tc_query(ctypes.byref(hook), ctypes.byref(options))
    if -result in _NO_FILTER:
        libbpf.expected()
        return None
    check(result, f"query TC on interface {index}")
    return int(options.prog_id)


def detach_egress(directory: pins.PinDirectory, index: int) -> None:
    """Undo :func:`attach_egress`, idempotent; raises KernelError."""
    pins.remove(directory.link_path("egress", index))
    _detach_clsact(index, _CLSACT_EGRESS)


def detach(directory: pins.PinDirectory, index: int) -> None:
    """Detach everything of ours from one interface (which may be gone)."""
    for hook in ("xdp", "tcx", "egress"):
        pins.remove(directory.link_path(hook, index))
    detach_clsact(index)
