# SPDX-License-Identifier: Apache-2.0
"""BPF_PROG_TEST_RUN: run a program on a made packet (Documentation/bpf/bpf_prog_run.rst)."""

import ctypes
import struct
from dataclasses import dataclass

from loxilb.kernel.bpf import libbpf
from loxilb.kernel.bpf.libbpf import check

_OUT_SIZE = 1 << 16
_LIVE_FRAMES = 2
_EMPTY_FRAME = 14
_SKB_IFINDEX = 40  # offset in struct __sk_buff


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """Return code, packet afterwards, and mean duration of one run in nanoseconds."""

    code: int
    packet: bytes
    nanoseconds: int


def context_of(hook: str, index: int, length: int) -> bytes:
    """Return the context of a frame of ``length`` bytes that comes in by interface ``index``, for ``xdp`` or ``tc``."""
    if hook == "xdp":  # struct xdp_md: data, data_end, data_meta, ingress_ifindex
        return struct.pack("=4I", 0, length, 0, index)
    return bytes(_SKB_IFINDEX) + struct.pack("=I", index)


def run(program: int, packet: bytes, *, context: bytes = b"", repeat: int = 1, want_packet: bool = True) -> RunResult:
    """Run the program with descriptor ``program`` on ``packet``; raises KernelError.

    ``context`` is the start of ``struct xdp_md`` or ``struct __sk_buff``. The kernel does not restore the packet
    between repetitions.
    """
    options = libbpf.TestRunOptions(sz=ctypes.sizeof(libbpf.TestRunOptions), repeat=repeat)
    data = ctypes.create_string_buffer(packet, len(packet))
    out = ctypes.create_string_buffer(_OUT_SIZE if want_packet else 1)
    options.data_in = ctypes.addressof(data)
    options.data_size_in = len(packet)
    if want_packet:
        options.data_out = ctypes.addressof(out)
        options.data_size_out = _OUT_SIZE
    if context:
        given = ctypes.create_string_buffer(context, len(context))
        options.ctx_in = ctypes.addressof(given)
        options.ctx_size_in = len(context)
    check(libbpf.test_run(program, ctypes.byref(options)), "run a program on a packet")
    after = out.raw[: options.data_size_out] if want_packet else b""
    return RunResult(code=options.retval, packet=after, nanoseconds=options.duration)


def run_frames(program: int, packet: bytes, *, context: bytes, repeat: int, batch: int = 64) -> None:
    """Run an XDP program on frames that really go where it says (live frames, kernel 5.18); raises KernelError."""
    options = libbpf.TestRunOptions(
        sz=ctypes.sizeof(libbpf.TestRunOptions), repeat=repeat, flags=_LIVE_FRAMES, batch_size=batch
    )
    data = ctypes.create_string_buffer(packet, len(packet))
    given = ctypes.create_string_buffer(context, len(context))
    options.data_in = ctypes.addressof(data)
    options.data_size_in = len(packet)
    options.ctx_in = ctypes.addressof(given)
    options.ctx_size_in = len(context)
    check(libbpf.test_run(program, ctypes.byref(options)), "send frames through a program")


def run_once(program: int) -> int:
    """Run a packet program for what it does besides, on an empty frame; returns its code; raises KernelError."""
    return ctypes.c_int32(run(program, bytes(_EMPTY_FRAME), want_packet=False).code).value


def run_syscall(program: int, context: bytes = b"") -> tuple[int, bytes]:
    """Run a ``syscall`` program; returns its return code and the context it leaves; raises KernelError."""
    options = libbpf.TestRunOptions(sz=ctypes.sizeof(libbpf.TestRunOptions))
    given = ctypes.create_string_buffer(context, len(context)) if context else None
    if given is not None:
        options.ctx_in = ctypes.addressof(given)
        options.ctx_size_in = len(context)
    check(libbpf.test_run(program, ctypes.byref(options)), "run a system call program")
    return ctypes.c_int32(options.retval).value, given.raw if given is not None else b""
