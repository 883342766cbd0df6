# SPDX-License-Identifier: Apache-2.0
"""Sockets for probes.

They are bound to ports below 1024. The data plane gives flows whose source it rewrites to an address of this host ports
from 1024 on: the answer to a probe must not be taken for the answer to such a flow.
"""

import asyncio
import errno
import itertools
import random
import socket
import struct

from loxilb.model import IPAddress

_PORTS = range(600, 1024)
_TRIES = 16
_TAKEN = (errno.EADDRINUSE, errno.EADDRNOTAVAIL)
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # socket(7), SO_LINGER: no TIME_WAIT is left behind
# ip(7), ipv6(7): have ICMP errors reported on sockets; the socket module does not name them.
_IP_RECVERR, _IPV6_RECVERR = 11, 25


class ProbeSockets:
    """Makes connected, non-blocking sockets; whoever gets one closes it."""

    def __init__(self) -> None:
        """Start anywhere in the range of source ports."""
        self._ports = itertools.cycle(random.sample(_PORTS, len(_PORTS)))

    async def stream(self, address: IPAddress, port: int) -> socket.socket:
        """Connect over TCP; closing resets the connection. Raises OSError."""
        for tries_left in reversed(range(_TRIES)):
            sock = self._bound(address, socket.SOCK_STREAM)
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
                await asyncio.get_running_loop().sock_connect(sock, (str(address), port))
            except OSError as error:
                sock.close()
                if error.errno not in _TAKEN or not tries_left:
                    raise
            except BaseException:
                sock.close()
                raise
            else:
                return sock
        raise AssertionError("the last try returns or raises")

    def datagram(self, address: IPAddress, port: int) -> socket.socket:
        """Open a UDP socket that is told of ICMP errors; raises OSError."""
        sock = self._bound(address, socket.SOCK_DGRAM)
        try:
            level, option = (socket.IPPROTO_IP, _IP_RECVERR)
            if address.version == 6:
                level, option = socket.IPPROTO_IPV6, _IPV6_RECVERR
            sock.setsockopt(level, option, 1)
            sock.connect((str(address), port))
        except OSError:
            sock.close()
            raise
        return sock

    def _bound(self, address: IPAddress, kind: socket.SocketKind) -> socket.socket:
        """Return a socket with a low source port; where none of some is free, the kernel chooses one."""
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        sock = socket.socket(family, kind | socket.SOCK_NONBLOCK)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind == socket.SOCK_STREAM:  # one port for connections to several endpoints
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for port in itertools.islice(self._ports, _TRIES):
            try:
                sock.bind(("", port))
            except OSError:
                continue
            break
        return sock
