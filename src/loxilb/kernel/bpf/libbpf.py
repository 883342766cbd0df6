# SPDX-License-Identifier: Apache-2.0
"""Declarations of the libbpf 1.x functions used here, over ctypes.

Nothing but signatures, option structs and the capture of libbpf's messages. Only members that libbpf 1.1 knows are
declared; option structs carry their size, so newer libraries take the rest as zero.
"""

import ctypes
import os
import threading
from ctypes import POINTER, c_bool, c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from typing import Any

from loxilb.errors import KernelError

_KEPT_LINES = 15
_KEPT_BYTES = 1 << 14  # of one message; megabytes of a verifier's log come before the error


def _open_library() -> ctypes.CDLL:
    name = os.environ.get("LOXILB_LIBBPF", "libbpf.so.1")
    try:
        return ctypes.CDLL(name, use_errno=True)
    except OSError as error:
        raise KernelError(
            f"load {name}", error.errno or 2, detail=str(error), remedy="install the package libbpf1"
        ) from error


_library = _open_library()
_libc = ctypes.CDLL(None, use_errno=True)


def _declare(name: str, result: Any, *arguments: Any) -> Any:
    function = getattr(_library, name)
    function.restype = result
    function.argtypes = arguments
    return function


class TestRunOptions(ctypes.Structure):
    """``struct bpf_test_run_opts``."""

    _fields_ = (
        ("sz", c_size_t),
        ("data_in", c_void_p),
        ("data_out", c_void_p),
        ("data_size_in", c_uint32),
        ("data_size_out", c_uint32),
        ("ctx_in", c_void_p),
        ("ctx_out", c_void_p),
        ("ctx_size_in", c_uint32),
        ("ctx_size_out", c_uint32),
        ("retval", c_uint32),
        ("repeat", c_int),
        ("duration", c_uint32),
        ("flags", c_uint32),
        ("cpu", c_uint32),
        ("batch_size", c_uint32),
    )


class LinkOptions(ctypes.Structure):
    """``struct bpf_link_create_opts``: flags and room for the per-type union."""

    _fields_ = (("sz", c_size_t), ("flags", c_uint32), ("pad", c_uint32), ("rest", c_uint64 * 16))


class BatchOptions(ctypes.Structure):
    """``struct bpf_map_batch_opts``."""

    _fields_ = (("sz", c_size_t), ("elem_flags", c_uint64), ("flags", c_uint64))


class TcHook(ctypes.Structure):
    """``struct bpf_tc_hook``."""

    _fields_ = (
        ("sz", c_size_t),
        ("ifindex", c_int),
        ("attach_point", c_int),
        ("parent", c_uint32),
        ("pad", c_uint32),
    )


class TcOptions(ctypes.Structure):
    """``struct bpf_tc_opts``."""

    _fields_ = (
        ("sz", c_size_t),
        ("prog_fd", c_int),
        ("flags", c_uint32),
        ("prog_id", c_uint32),
        ("handle", c_uint32),
        ("priority", c_uint32),
        ("pad", c_uint32),
    )


class MapInfo(ctypes.Structure):
    """Start of ``struct bpf_map_info`` (linux/bpf.h)."""

    _fields_ = (
        ("type", c_uint32),
        ("id", c_uint32),
        ("key_size", c_uint32),
        ("value_size", c_uint32),
        ("max_entries", c_uint32),
    )


class LinkInfo(ctypes.Structure):
    """Start of ``struct bpf_link_info`` (linux/bpf.h), and room for the rest.

    ``target`` is the interface of an XDP or TCX link, and the low half of a control group's id; 0 once it is detached.
    """

    _fields_ = (
        ("type", c_uint32),
        ("id", c_uint32),
        ("prog_id", c_uint32),
        ("pad", c_uint32),
        ("target", c_uint32),
        ("rest", c_uint64 * 8),
    )


class ProgramInfo(ctypes.Structure):
    """Start of ``struct bpf_prog_info`` (linux/bpf.h), up to the name."""

    _fields_ = (
        ("type", c_uint32),
        ("id", c_uint32),
        ("tag", ctypes.c_ubyte * 8),
        ("lengths", c_uint32 * 2),
        ("instructions", c_uint64 * 2),
        ("load_time", c_uint64),
        ("created_by_uid", c_uint32),
        ("nr_map_ids", c_uint32),
        ("map_ids", c_uint64),
        ("name", ctypes.c_char * 16),
    )


object_open = _declare("bpf_object__open_file", c_void_p, c_char_p, c_void_p)
object_load = _declare("bpf_object__load", c_int, c_void_p)
object_close = _declare("bpf_object__close", None, c_void_p)
next_map = _declare("bpf_object__next_map", c_void_p, c_void_p, c_void_p)
next_program = _declare("bpf_object__next_program", c_void_p, c_void_p, c_void_p)
map_name = _declare("bpf_map__name", c_char_p, c_void_p)
map_fd = _declare("bpf_map__fd", c_int, c_void_p)
map_is_internal = _declare("bpf_map__is_internal", c_bool, c_void_p)
map_initial_value = _declare("bpf_map__initial_value", c_void_p, c_void_p, POINTER(c_size_t))
map_key_size = _declare("bpf_map__key_size", c_uint32, c_void_p)
map_value_size = _declare("bpf_map__value_size", c_uint32, c_void_p)
map_set_max_entries = _declare("bpf_map__set_max_entries", c_int, c_void_p, c_uint32)
map_reuse_fd = _declare("bpf_map__reuse_fd", c_int, c_void_p, c_int)
program_name = _declare("bpf_program__name", c_char_p, c_void_p)
program_fd = _declare("bpf_program__fd", c_int, c_void_p)
map_create = _declare("bpf_map_create", c_int, c_int, c_char_p, c_uint32, c_uint32, c_uint32, c_void_p)
map_update = _declare("bpf_map_update_elem", c_int, c_int, c_void_p, c_void_p, c_uint64)
map_lookup = _declare("bpf_map_lookup_elem", c_int, c_int, c_void_p, c_void_p)
map_next_key = _declare("bpf_map_get_next_key", c_int, c_int, c_void_p, c_void_p)
map_delete = _declare("bpf_map_delete_elem", c_int, c_int, c_void_p)
map_lookup_batch = _declare(
    "bpf_map_lookup_batch", c_int, c_int, c_void_p, c_void_p, c_void_p, c_void_p, POINTER(c_uint32), c_void_p
)
map_update_batch = _declare("bpf_map_update_batch", c_int, c_int, c_void_p, c_void_p, POINTER(c_uint32), c_void_p)
object_pin = _declare("bpf_obj_pin", c_int, c_int, c_char_p)
object_get = _declare("bpf_obj_get", c_int, c_char_p)
object_info = _declare("bpf_obj_get_info_by_fd", c_int, c_int, c_void_p, POINTER(c_uint32))
link_create = _declare("bpf_link_create", c_int, c_int, c_int, c_int, c_void_p)
link_detach = _declare("bpf_link_detach", c_int, c_int)
link_update = _declare("bpf_link_update", c_int, c_int, c_int, c_void_p)
test_run = _declare("bpf_prog_test_run_opts", c_int, c_int, c_void_p)
tc_hook_create = _declare("bpf_tc_hook_create", c_int, c_void_p)
tc_attach = _declare("bpf_tc_attach", c_int, c_void_p, c_void_p)
program_by_id = _declare("bpf_prog_get_fd_by_id", c_int, c_uint32)
tc_query = _declare("bpf_tc_query", c_int, c_void_p, c_void_p)
tc_detach = _declare("bpf_tc_detach", c_int, c_void_p, c_void_p)
ring_buffer_new = _declare("ring_buffer__new", c_void_p, c_int, c_void_p, c_void_p, c_void_p)
ring_buffer_consume = _declare("ring_buffer__consume", c_int, c_void_p)
ring_buffer_epoll_fd = _declare("ring_buffer__epoll_fd", c_int, c_void_p)
ring_buffer_free = _declare("ring_buffer__free", None, c_void_p)
probe_helper = _declare("libbpf_probe_bpf_helper", c_int, c_int, c_int, c_void_p)
possible_cpus = _declare("libbpf_num_possible_cpus", c_int)
_set_print = _declare("libbpf_set_print", c_void_p, c_void_p)

_vasprintf = _libc.vasprintf
_vasprintf.argtypes = [POINTER(c_void_p), c_char_p, c_void_p]
_vasprintf.restype = c_int
_free = _libc.free
_free.argtypes = [c_void_p]
_free.restype = None

_messages = threading.local()


def _collect(level: int, template: bytes, arguments: int) -> int:
    """Keep the end of the warnings (level 0) of this thread; a verifier log is far too long to print."""
    text = c_void_p()
    if level == 0 and (length := _vasprintf(ctypes.byref(text), template, arguments)) >= 0 and text.value:
        start = max(0, length - _KEPT_BYTES)
        kept: list[str] = getattr(_messages, "lines", [])
        kept.extend(ctypes.string_at(text.value + start, length - start).decode(errors="replace").splitlines())
        _messages.lines = kept[-_KEPT_LINES:]
        _free(text)
    return 0


_collector = ctypes.CFUNCTYPE(c_int, c_int, c_char_p, c_void_p)(_collect)
_set_print(ctypes.cast(_collector, c_void_p))


def expected() -> None:
    """Forget what libbpf said of a failure that is none, so that it is not told with the next."""
    _messages.lines = []


def check(result: int, operation: str, *, remedy: str = "") -> int:
    """Return ``result``, or raise KernelError with the last messages of libbpf when it is negative."""
    lines: list[str] = getattr(_messages, "lines", [])
    expected()
    if result < 0:
        raise KernelError(operation, -result, detail="\n".join(lines), remedy=remedy)
    return result


def check_pointer(result: int | None, operation: str) -> int:
    """Return a pointer, or raise KernelError when it is null."""
    if not result:
        check(-(ctypes.get_errno() or 22), operation)
    return int(result or 0)
