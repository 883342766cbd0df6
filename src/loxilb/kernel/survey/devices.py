# SPDX-License-Identifier: Apache-2.0
"""Interfaces as netlink, proc(5) and ethtool (linux/ethtool.h) show them."""

import array
import fcntl
import socket
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

from pyroute2 import IPRoute

from loxilb.errors import KernelError
from loxilb.kernel.bpf import attach
from loxilb.kernel.netlink.links import Message, ports_of
from loxilb.model.survey import Device

_SIOCETHTOOL = 0x8946
_GGRO, _GFLAGS = 0x2B, 0x25  # ETHTOOL_GGRO, ETHTOOL_GFLAGS
_LRO = 1 << 15  # ETH_FLAG_LRO
_CONF = Path("/proc/sys/net/ipv4/conf")
_OURS = b"lox_"


def devices() -> list[Device]:
    """Return every interface of the calling thread's namespace; raises OSError and NetlinkError."""
    with IPRoute() as netlink:
        links, addresses = list(netlink.get_links()), list(netlink.get_addr())
    foreign = {link["index"]: _foreign_xdp(link) for link in links}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        return [
            Device(
                port=port,
                rp_filter=_rp_filter(port.name),
                foreign_xdp=foreign[port.index],
                offloads=_offloads(channel, port.name),
            )
            for port in ports_of(links, addresses)
        ]


def _foreign_xdp(link: Message) -> str:
    identity = link.get(("xdp", "prog_id"))
    if not identity:
        return ""
    try:
        name = attach.program_name(identity)
    except KernelError:  # its name is not for everybody: whose it is cannot be told
        return ""
    return "" if name.startswith(_OURS) else name.decode(errors="replace") or f"number {identity}"


def _rp_filter(name: str) -> int:
    """Return the larger of the interface's value and that for all: it is the one in force (ip-sysctl.rst)."""
    values: Sequence[Path] = (_CONF / "all" / "rp_filter", _CONF / name / "rp_filter")
    return max((int(path.read_text()) for path in values if path.exists()), default=0)


def _offloads(channel: socket.socket, name: str) -> Mapping[str, bool]:
    asked = {"generic-receive-offload": (_GGRO, 1), "large-receive-offload": (_GFLAGS, _LRO)}
    found = {text: _ethtool(channel, name, command) for text, (command, _) in asked.items()}
    return {text: bool(value & asked[text][1]) for text, value in found.items() if value is not None}


def _ethtool(channel: socket.socket, name: str, command: int) -> int | None:
    """Return the value of ``struct ethtool_value``; None where the device has none."""
    value = array.array("B", struct.pack("=II", command, 0))
    request = struct.pack("16sP", name.encode(), value.buffer_info()[0])
    try:
        fcntl.ioctl(channel.fileno(), _SIOCETHTOOL, request.ljust(40, b"\0"))
    except OSError:
        return None
    return int(struct.unpack("=II", value.tobytes())[1])
