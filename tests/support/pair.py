# SPDX-License-Identifier: Apache-2.0
"""A load balancer's namespace and one neighbour, who sees what is announced."""

import json
import socket
from collections.abc import Callable
from dataclasses import dataclass

from loxilb.kernel.netlink import Network
from loxilb.model import IPAddress
from tests.support.lab import CommandError, Namespace

_ADVERTISEMENT = 136


@dataclass
class Pair:
    """A load balancer's namespace and a neighbour on its link ``eth1``."""

    here: Namespace
    peer: Namespace
    network: Network

    def addresses(self) -> dict[str, list[str]]:
        """Return the addresses of each interface, as ip(8) sees them."""
        links = json.loads(self.here.run("ip", "-j", "address"))
        return {link["ifname"]: [f"{a['local']}/{a['prefixlen']}" for a in link["addr_info"]] for link in links}

    def answers(self, address: IPAddress) -> bool:
        """Tell whether the neighbour gets an answer from an address."""
        return answers(self.peer, address)


def answers(namespace: Namespace, address: IPAddress) -> bool:
    """Tell whether an address answers a ping."""
    try:
        namespace.run("ping", "-c1", "-W1", str(address))
    except CommandError:
        return False
    return True


def sniff(namespace: Namespace, interface: str) -> socket.socket:
    """Open a raw socket on an interface of a namespace."""

    def opened() -> socket.socket:
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(0x0003))
        raw.bind((interface, 0))
        raw.settimeout(5)
        return raw

    return namespace.call(opened)


def until(raw: socket.socket, wanted: Callable[[bytes], bool], count: int) -> list[bytes]:
    """Return the first ``count`` frames that are wanted; TimeoutError when they do not come."""
    frames: list[bytes] = []
    while len(frames) < count:
        frame = raw.recv(2000)
        if wanted(frame):
            frames.append(frame)
    return frames


def announced(frame: bytes) -> bytes:
    """Return the address (packed) that a frame announces, b"" for any other frame.

    An ARP announcement asks for its own sender (RFC 5227 §2.3); an advertisement goes to all nodes.
    """
    if frame[12:14] == b"\x08\x06" and frame[20:22] == b"\0\1" and frame[28:32] == frame[38:42]:
        return frame[28:32]
    to_all = frame[:6] == bytes.fromhex("333300000001")
    if to_all and frame[12:14] == b"\x86\xdd" and frame[20] == socket.IPPROTO_ICMPV6 and frame[54] == _ADVERTISEMENT:
        return frame[62:78]
    return b""
