# SPDX-License-Identifier: Apache-2.0
"""Echo requests over one raw socket for each IP version."""

import asyncio
import random
import socket
import struct
import time
from contextlib import suppress
from ipaddress import ip_address

from loxilb.errors import KernelError
from loxilb.model import IPAddress
from loxilb.proto.probe.echo import REPLY_TYPE, echo_reply, echo_request

# Below 1024, where the data plane does not rewrite identifiers to: see the ports in sockets.py.
_IDENTIFIERS = range(1, 1024)
_SOL_RAW, _ICMP_FILTER = 255, 1  # icmp(7)
_ICMP6_FILTER = 1  # RFC 3542 section 3.2
_BUFFER = 1 << 20
_BATCH = 64
_Waiting = tuple[IPAddress, asyncio.Future[float]]


class Pinger:
    """Sends echo requests and matches replies by address, identifier and sequence."""

    def __init__(self) -> None:
        """Open nothing yet: who does not ping needs no right to raw sockets."""
        self._identifier = random.choice(_IDENTIFIERS)
        self._sequence = random.getrandbits(16)
        self._sockets: dict[int, socket.socket] = {}
        self._waiting: dict[tuple[int, int], _Waiting] = {}

    async def ping(self, address: IPAddress) -> float:
        """Return the round trip time in seconds once ``address`` answers; raises OSError. Waits without end."""
        sock = self._socket(address.version)
        self._sequence = (self._sequence + 1) & 0xFFFF
        place = (address.version, self._sequence)
        answered: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._waiting[place] = (address, answered)
        try:
            started = time.monotonic()
            sock.sendto(echo_request(address.version, self._identifier, self._sequence), (str(address), 0))
            return await answered - started
        finally:
            self._waiting.pop(place, None)

    def close(self) -> None:
        """Close the sockets."""
        for sock in self._sockets.values():
            asyncio.get_running_loop().remove_reader(sock)
            sock.close()
        self._sockets.clear()

    def _socket(self, version: int) -> socket.socket:
        if version not in self._sockets:
            self._sockets[version] = _open(version)
            asyncio.get_running_loop().add_reader(self._sockets[version], self._receive, version)
        return self._sockets[version]

    def _receive(self, version: int) -> None:
        """Take what has come, but leave the loop to others now and then."""
        with suppress(BlockingIOError):
            for _ in range(_BATCH):
                packet, sender = self._sockets[version].recvfrom(2048)
                self._match(version, packet, sender[0])

    def _match(self, version: int, packet: bytes, sender: str) -> None:
        identifier, sequence = echo_reply(version, packet) or (0, 0)
        address, answered = self._waiting.get((version, sequence), (None, None))
        if identifier != self._identifier or answered is None or answered.done():
            return
        if ip_address(sender.partition("%")[0]) == address:
            answered.set_result(time.monotonic())


def _open(version: int) -> socket.socket:
    """Open a raw socket that gets echo replies and nothing else; raises KernelError."""
    try:
        if version == 4:
            sock = socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMP)
            blocked = 0xFFFFFFFF & ~(1 << REPLY_TYPE[4])
            sock.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("=I", blocked))
        else:
            sock = socket.socket(socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMPV6)
            words = [0xFFFFFFFF] * 8
            words[REPLY_TYPE[6] >> 5] &= ~(1 << (REPLY_TYPE[6] & 31))
            sock.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, struct.pack("=8I", *words))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
    except OSError as error:
        raise KernelError("open a raw socket for pings", error.errno or 0, remedy="needs CAP_NET_RAW") from error
    return sock
