# SPDX-License-Identifier: Apache-2.0
"""Sockets of this host's processes: programs on their calls, and their end when an endpoint goes.

The programs are attached to the root of the control groups, so they see the processes of every network namespace; each
acts on the sockets of its own. Other programs may be attached beside them.
"""

import ctypes
import errno
import os
import sys
from collections.abc import Callable, Mapping

from loxilb.errors import FeatureMissing
from loxilb.kernel import abi, netns
from loxilb.kernel.bpf import cgroups, diag, libbpf, maps, pins
from loxilb.kernel.bpf.attach import renew
from loxilb.kernel.bpf.libbpf import check
from loxilb.model.image import EndpointId, RuleId

# enum bpf_attach_type of linux/bpf.h.
_HOOKS: Mapping[str, int] = {
    "connect4": 10,
    "connect6": 11,
    "sendmsg4": 14,
    "sendmsg6": 15,
    "recvmsg4": 19,
    "recvmsg6": 20,
    "getpeername4": 29,
    "getpeername6": 30,
    "sock_release": 34,
}
# Pins of links carry an interface index; these links have none.
_NO_INTERFACE = 0
_COOKIE = 8  # bytes


def attach(directory: pins.PinDirectory, programs: Mapping[str, int]) -> None:
    """Run the programs for every process, in place of those that are pinned; all or none. Raises KernelError."""
    if netns.cookie() is None:
        raise FeatureMissing(
            "serve local sockets",
            errno.EOPNOTSUPP,
            detail="the kernel has no cookies of network namespaces",
            remedy="Linux 5.14, or no --localsockpolicy",
        )
    with cgroups.open_root() as root:
        try:
            for hook, kind in _HOOKS.items():
                _attach(directory, hook, kind, programs[f"lox_{hook}"], root)
        except BaseException:
            detach(directory)
            raise


def _attach(directory: pins.PinDirectory, hook: str, kind: int, program: int, root: int) -> None:
    path = directory.link_path(hook, _NO_INTERFACE)
    if renew(path, program):
        return
    link = libbpf.link_create(program, root, kind, None)
    check(link, f"attach to {hook} of the control groups", remedy="see: bpftool cgroup tree")
    try:
        pins.pin(link, path)
    finally:
        os.close(link)


def link_names() -> tuple[str, ...]:
    """Return the names of the pins of the links."""
    return tuple(f"{hook}-{_NO_INTERFACE}" for hook in _HOOKS)


def detach(directory: pins.PinDirectory) -> None:
    """Stop serving sockets, idempotent; those that are connected stay so."""
    for hook in _HOOKS:
        pins.remove(directory.link_path(hook, _NO_INTERFACE))


def end(connected: int, is_gone: Callable[[EndpointId, RuleId], bool]) -> int:
    """End every connected socket whose endpoint is gone, by ECONNABORTED; return how many. Raises KernelError.

    ``connected`` is the map of that name. Datagram sockets that are not connected get another endpoint with what they
    send next.
    """
    lost = {
        int.from_bytes(cookie, sys.byteorder)
        for cookie, value in maps.dump(connected, _COOKIE, ctypes.sizeof(abi.Connected))
        if _is_lost(value, is_gone)
    }
    if not lost:
        return 0
    with diag.SocketDiagnosis() as kernel:
        found = [identity for identity in kernel.connected() if identity.cookie in lost]
        return sum(kernel.destroy(identity) for identity in found)


def _is_lost(value: bytes, is_gone: Callable[[EndpointId, RuleId], bool]) -> bool:
    entry = abi.Connected.from_buffer_copy(value)
    return is_gone(EndpointId(entry.endpoint), RuleId(entry.rule))
