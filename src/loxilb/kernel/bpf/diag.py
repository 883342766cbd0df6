# SPDX-License-Identifier: Apache-2.0
"""Listing and ending sockets of the calling thread's network namespace (sock_diag(7), linux/inet_diag.h)."""

import errno
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from loxilb.errors import KernelError

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_SOCK_DESTROY = 21
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_DUMP = 1, 4, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_REQUEST = struct.Struct("=BBBBI48s")  # struct inet_diag_req_v2
_IDENTITY = slice(4, 52)  # of struct inet_diag_msg: ports, addresses, interface and cookie
_COOKIE, _COOKIE_AT = struct.Struct("=II"), 40  # in that
# TCP states (net/tcp_states.h) in which a socket has a peer and an owner; a connected datagram socket is established.
_CONNECTED = sum(1 << state for state in (1, 2, 3, 4, 5, 8, 9, 11))
_GONE = (errno.ENOENT, errno.ESTALE)
_RECEIVE = 1 << 16
_PROTOCOLS = (socket.IPPROTO_TCP, socket.IPPROTO_UDP)
_FAMILIES = (socket.AF_INET, socket.AF_INET6)


@dataclass(frozen=True, slots=True)
class SocketIdentity:
    """What the kernel knows a socket by; ``raw`` is struct inet_diag_sockid."""

    family: int
    protocol: int
    raw: bytes

    @property
    def cookie(self) -> int:
        """Return the number that BPF programs know it by (SO_COOKIE)."""
        low, high = _COOKIE.unpack_from(self.raw, _COOKIE_AT)
        return int(high << 32 | low)


class SocketDiagnosis:
    """A netlink socket of the family sock_diag."""

    def __init__(self) -> None:
        """Open it; raises KernelError."""
        try:
            self._channel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG)
        except OSError as error:
            raise KernelError("ask for sockets", error.errno or errno.EIO) from error

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self._channel.close()

    def connected(self) -> Iterator[SocketIdentity]:
        """Return every TCP and UDP socket that has a peer; raises KernelError."""
        for protocol in _PROTOCOLS:
            for family in _FAMILIES:
                request = _REQUEST.pack(family, protocol, 0, 0, _CONNECTED, bytes(48))
                for body in self._ask(_SOCK_DIAG_BY_FAMILY, _NLM_F_DUMP, request, "list sockets"):
                    yield SocketIdentity(body[0], protocol, body[_IDENTITY])

    def destroy(self, identity: SocketIdentity) -> bool:
        """End a socket: its owner gets ECONNABORTED, a TCP peer a reset. False when it is gone; raises KernelError."""
        request = _REQUEST.pack(identity.family, identity.protocol, 0, 0, 0xFFFFFFFF, identity.raw)
        try:
            tuple(self._ask(_SOCK_DESTROY, _NLM_F_ACK, request, "end a socket"))
        except KernelError as error:
            if error.errno in _GONE:
                return False
            raise
        return True

    def _ask(self, kind: int, flags: int, request: bytes, operation: str) -> Iterator[bytes]:
        """Send a request and return the bodies of its answers, up to their end."""
        self._channel.send(_HEADER.pack(_HEADER.size + len(request), kind, _NLM_F_REQUEST | flags, 1, 0) + request)
        while True:
            data = self._channel.recv(_RECEIVE)
            for answer, body in _messages(data):
                if answer in (_NLMSG_ERROR, _NLMSG_DONE):
                    (code,) = struct.unpack_from("=i", body)
                    if code < 0:
                        raise KernelError(operation, -code, detail=os.strerror(-code))
                    return
                yield body


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, offset)
        yield kind, data[offset + _HEADER.size : offset + length]
        offset += (length + 3) & ~3
