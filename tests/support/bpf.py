# SPDX-License-Identifier: Apache-2.0
"""A namespace to run packet programs in, with the devices they send to.

::

    clients, by way of 10.10.10.1, 3ffe::1  ──  client │    │ server1  ──  31.31.31.1, 4ffe::1
                                                       │ lb │ server2  ──  32.32.32.1, 5ffe::1
                                                       │    │ server3  ──  33.33.33.1, 6ffe::1

Nothing is sent: BPF_PROG_TEST_RUN tells what would be. The far ends of the devices are silent, so that no packet but
those of the tests is counted.
"""

import ctypes
import errno
import os
import re
import secrets
import shutil
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from functools import partial
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_network,
)
from pathlib import Path

from loxilb.errors import KernelError
from loxilb.kernel import abi, netns
from loxilb.kernel.bpf import BpfDataPlane, libbpf, maps
from loxilb.kernel.bpf.libbpf import check
from loxilb.kernel.bpf.object import BpfObject
from loxilb.kernel.bpf.pins import find_bpffs
from loxilb.kernel.bpf.run import context_of, run
from loxilb.model import IPAddress, LinkKind
from loxilb.model.port import IfIndex, Port
from tests.support.lab import PREFIX, ROOT, Lab, Namespace

OBJECTS = ROOT / "src" / "loxilb" / "kernel" / "bpf" / "objects"
_XDP_LINK = 37  # BPF_XDP of enum bpf_attach_type
_NATIVE = 1 << 2  # XDP_FLAGS_DRV_MODE


class Hook(Enum):
    """Where a program runs."""

    XDP = "xdp"
    TC = "tc"


class Verdict(Enum):
    """What becomes of a packet, whatever the hook calls it."""

    PASSED = "passed"
    SENT = "sent"
    DROPPED = "dropped"


VERDICTS = {
    Hook.XDP: {1: Verdict.DROPPED, 2: Verdict.PASSED, 4: Verdict.SENT},
    Hook.TC: {0xFFFF_FFFF: Verdict.PASSED, 2: Verdict.DROPPED, 7: Verdict.SENT},
}
_SKB_MARK, _SKB_IFINDEX = 8, 40  # offsets in struct __sk_buff


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One device of the load balancer and its neighbour, at ``gateway4`` and ``gateway6``."""

    name: str
    number: int
    address4: IPv4Address
    address6: IPv6Address
    gateway4: IPv4Address
    gateway6: IPv6Address

    @property
    def mac(self) -> bytes:
        """Address of the device itself."""
        return bytes((2, 0, 0, 0, self.number, 0xFE))

    @property
    def neighbour(self) -> bytes:
        """Address of what is at the other end."""
        return bytes((2, 0, 0, 0, self.number, 0x01))

    def address(self, version: int) -> IPAddress:
        """Return the load balancer's address here."""
        return self.address4 if version == 4 else self.address6

    def gateway(self, version: int) -> IPAddress:
        """Return the neighbour's address."""
        return self.gateway4 if version == 4 else self.gateway6

    def network(self, version: int) -> IPv4Network | IPv6Network:
        """Return the addresses that are reached here."""
        return ip_network(f"{self.address(version)}/{24 if version == 4 else 64}", strict=False)

    def commands(self) -> Iterator[str]:
        """Return the ip(8) commands that make it; the far end has no address, so it never speaks."""
        yield f"link add {self.name} address {self.mac.hex(':')} type veth peer name {self.name}-far"
        yield f"link set {self.name}-far addrgenmode none up"
        yield f"link set {self.name} addrgenmode none up"
        yield f"addr add {self.address4}/24 dev {self.name}"
        yield f"addr add {self.address6}/64 dev {self.name} nodad"
        for gateway in (self.gateway4, self.gateway6):
            yield f"neigh replace {gateway} lladdr {self.neighbour.hex(':')} dev {self.name} nud permanent"


def _device(name: str, number: int, net4: str, net6: str) -> Device:
    return Device(
        name=name,
        number=number,
        address4=IPv4Address(f"{net4}.254"),
        address6=IPv6Address(f"{net6}::2"),
        gateway4=IPv4Address(f"{net4}.1"),
        gateway6=IPv6Address(f"{net6}::1"),
    )


CLIENT = _device("client", 1, "10.10.10", "3ffe")
SERVERS = (
    _device("server1", 2, "31.31.31", "4ffe"),
    _device("server2", 3, "32.32.32", "5ffe"),
    _device("server3", 4, "33.33.33", "6ffe"),
)
DEVICES = (CLIENT, *SERVERS)
CLIENTS4, CLIENTS6 = IPv4Network("172.16.0.0/12"), IPv6Network("2001:db8::/32")


def _remove_leftovers(bpffs: Path) -> None:
    """Remove pins of sessions that are gone."""
    for directory in bpffs.glob(f"{PREFIX}*-*"):
        owner = re.match(rf"{PREFIX}(\d+)-", directory.name)
        if owner and not Path(f"/proc/{owner[1]}").exists():
            shutil.rmtree(directory, ignore_errors=True)


def known_hosts(data_plane: BpfDataPlane) -> dict[IPAddress, bool]:
    """Return the addresses of the map ``hosts``, and whether each is an endpoint on this host."""
    found = maps.dump(data_plane.descriptors["hosts"], 16, 4)
    local = abi.HOST_LOCAL.to_bytes(4, "little")
    return {ip_address(key if any(key[4:]) else key[:4]): value == local for key, value in found}


def _takes_context(program: int, index: int) -> bool:
    """Tell whether the kernel runs an XDP program as if the packet had come in by a device."""
    try:
        run(program, bytes(64), context=context_of("xdp", index, 64))
    except KernelError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return True


class World:
    """The namespace and its devices. Programs run in it while :meth:`inside` is entered."""

    def __init__(self, lab: Lab) -> None:
        """Build it; it goes away with the lab, and so do the pins of the data planes in it."""
        self.namespace: Namespace = lab.namespace("packet")
        bpffs = find_bpffs(None)
        _remove_leftovers(bpffs)
        self._pins = bpffs / self.namespace.name
        lab.undo(partial(shutil.rmtree, self._pins, ignore_errors=True))
        self.namespace.sysctl(net__ipv4__ip_forward=1, net__ipv6__conf__all__forwarding=1)
        self.namespace.ip(
            *(line for device in DEVICES for line in device.commands()),
            f"route add {CLIENTS4} via {CLIENT.gateway4}",
            f"route add {CLIENTS6} via {CLIENT.gateway6}",
        )
        with self.inside():
            self.indexes = {device: socket.if_nametoindex(device.name) for device in DEVICES}
            self._register_queues(lab)

    def _register_queues(self, lab: Lab) -> None:
        """Keep an XDP program on every device: without one a veth has no receive queue to run XDP for."""
        holder = BpfObject(OBJECTS / "bench_program.bpf.o")
        lab.undo(holder.close)
        options = libbpf.LinkOptions(sz=ctypes.sizeof(libbpf.LinkOptions), flags=_NATIVE)
        for index in self.indexes.values():
            link = libbpf.link_create(holder.programs["xdp_empty"], index, _XDP_LINK, ctypes.byref(options))
            lab.undo(os.close, check(link, "attach XDP"))
        self._knows_xdp_device = _takes_context(holder.programs["xdp_empty"], self.indexes[CLIENT])

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Move the calling thread into the namespace, and back."""
        with Path(f"/proc/self/task/{threading.get_native_id()}/ns/net").open("rb") as home:
            netns.enter(str(self.namespace.path))
            try:
                yield
            finally:
                netns.enter(f"/proc/self/fd/{home.fileno()}")

    def pins(self) -> Path:
        """Return a directory of a BPF file system for the pins of one data plane."""
        return self._pins / secrets.token_hex(4)

    def port(self, device: Device, *addresses: IPv4Interface | IPv6Interface) -> Port:
        """Return a device as the network shows it to the daemon."""
        return Port(
            index=IfIndex(self.indexes[device]),
            name=device.name,
            kind=LinkKind.VETH,
            mac=device.mac,
            mtu=1500,
            up=True,
            carrier=True,
            addresses=addresses,
        )

    def context(self, hook: Hook, device: Device, length: int, mark: int = 0) -> bytes:
        """Return the context of a packet of ``length`` bytes that arrives at ``device``; XDP has no ``mark``.

        Before Linux 5.14 packets for XDP programs can only arrive at the loopback.
        """
        index = self.indexes[device]
        if hook is Hook.XDP:
            return context_of("xdp", index, length) if self._knows_xdp_device else b""
        before = _SKB_IFINDEX - _SKB_MARK - 4
        return bytes(_SKB_MARK) + struct.pack("=I", mark) + bytes(before) + struct.pack("=I", index)
