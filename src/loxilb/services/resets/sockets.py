# SPDX-License-Identifier: Apache-2.0
"""Raw sockets that send whole IP packets from any address (raw(7), IP_HDRINCL)."""

import errno
import socket
from collections.abc import Iterable

from loxilb.errors import KernelError
from loxilb.proto.reset import Packet

_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_TIMEOUT_S = 1.0
"""Longest wait for room in a device's queue; the packet is given up then."""


class RawSockets:
    """One socket for each IP version, opened with the first packet, in the namespace of the thread that sends it."""

    def __init__(self) -> None:
        """Open nothing yet."""
        self._sockets: dict[int, socket.socket] = {}

    def send(self, packets: Iterable[Packet]) -> int:
        """Send packets, returns how many could not be sent, for want of a route or of room.

        Raises KernelError without the right to raw sockets.
        """
        failed = 0
        for packet in packets:
            sock = self._socket(packet.destination.version)
            try:
                sock.sendto(packet.octets, (str(packet.destination), 0))
            except OSError:
                failed += 1
        return failed

    def _socket(self, version: int) -> socket.socket:
        if version not in self._sockets:
            self._sockets[version] = _open(_FAMILY[version])
        return self._sockets[version]

    def close(self) -> None:
        """Close the sockets."""
        for sock in self._sockets.values():
            sock.close()
        self._sockets.clear()


def _open(family: socket.AddressFamily) -> socket.socket:
    """Open a socket that only sends: the protocol IPPROTO_RAW means that packets have their IP header."""
    try:
        sock = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
    except OSError as error:
        raise KernelError(
            "open a raw socket for resets", error.errno or errno.EPERM, remedy="needs CAP_NET_RAW"
        ) from error
    sock.settimeout(_TIMEOUT_S)
    return sock
