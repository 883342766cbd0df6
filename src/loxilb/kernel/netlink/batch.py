# SPDX-License-Identifier: Apache-2.0
"""Many rtnetlink requests at once (netlink(7), rtnetlink(7)).

Service addresses come and go by the ten thousand. Requests are packed here and go to the kernel many in one message,
each with a number of its own that its answer carries. A library that knows every attribute takes longer to build and to
read one of them than the kernel to carry it out.
"""

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from itertools import count
from typing import NamedTuple, Self

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_ATTRIBUTE = struct.Struct("=HH")  # struct rtattr
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_DUMP_INTR, _NLM_F_DUMP = 0x1, 0x4, 0x10, 0x300
_SO_RCVBUFFORCE = 33
_RECEIVE_BUFFER = 4 << 20
_CHUNK = 1 << 18
_DUMPS = 10  # of something that changes while it is dumped
_TOGETHER = 500  # requests: their answers, of some hundred bytes each, fit into the receive buffer many times

Attributes = dict[int, bytes]


class Request(NamedTuple):
    """What is asked: a message type, its flags (without those of every request), and its body."""

    kind: int
    flags: int
    body: bytes


class Reply(NamedTuple):
    """What came of a request: 0 or an errno, and the body of what was answered besides."""

    error: int
    body: bytes


def attribute(kind: int, value: bytes) -> bytes:
    """Return an attribute, padded."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def attributes(body: bytes, offset: int) -> Attributes:
    """Read the attributes that follow the first ``offset`` bytes; of doubled ones the last."""
    found: Attributes = {}
    while offset + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, offset)
        if length < _ATTRIBUTE.size:
            break
        found[kind] = body[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3
    return found


class _Message(NamedTuple):
    """A message: its type, flags and number, and what follows the header."""

    kind: int
    flags: int
    number: int
    content: bytes


class Batches:
    """A channel to the kernel; one thread at a time. Methods raise OSError."""

    def __init__(self, channel: socket.socket) -> None:
        """Take a connected channel; use :meth:`open`."""
        self._channel = channel
        self._numbers = count(1)

    @classmethod
    def open(cls) -> Self:
        """Connect to the kernel of the calling thread's namespace."""
        channel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        try:
            channel.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
            channel.bind((0, 0))
        except OSError:
            channel.close()
            raise
        return cls(channel)

    def close(self) -> None:
        """Disconnect."""
        self._channel.close()

    def carry_out(self, requests: Sequence[Request]) -> list[Reply]:
        """Send requests and return what came of each, in their order."""
        found: list[Reply] = []
        for at in range(0, len(requests), _TOGETHER):
            found += self._exchange(requests[at : at + _TOGETHER])
        return found

    def dump(self, kind: int, body: bytes) -> list[tuple[int, bytes]]:
        """Ask for all objects of a kind; returns message types and bodies.

        What changed meanwhile may be missing or doubled, so it is asked for again; where it never stays the same for
        the time of a dump, the error is EAGAIN.
        """
        for _ in range(_DUMPS):
            messages = self._dump(Request(kind, _NLM_F_DUMP, body))
            if not any(message.flags & _NLM_F_DUMP_INTR for message in messages):
                return [(message.kind, message.content) for message in messages if message.kind != _NLMSG_DONE]
        raise OSError(errno.EAGAIN, "it changes all the time")

    def _dump(self, request: Request) -> list[_Message]:
        """Return the messages of one dump, with the one that ends it."""
        number, found = next(self._numbers), list[_Message]()
        self._channel.send(_packed(request, number))
        while True:
            found += (message for message in self._messages() if message.number == number)
            if found and found[-1].kind == _NLMSG_DONE:
                return found
            if found and found[-1].kind == _NLMSG_ERROR:
                code = _code(found[-1].content)
                raise OSError(code, os.strerror(code))

    def _exchange(self, requests: Sequence[Request]) -> list[Reply]:
        numbers = [next(self._numbers) for _ in requests]
        text = b"".join(
            _packed(request._replace(flags=request.flags | _NLM_F_ACK), number)
            for request, number in zip(requests, numbers, strict=True)
        )
        self._channel.send(text)
        bodies, errors = dict.fromkeys(numbers, b""), dict[int, int]()
        while len(errors) < len(numbers):
            for message in self._messages():
                if message.number in bodies and message.kind == _NLMSG_ERROR:
                    errors[message.number] = _code(message.content)
                elif message.number in bodies:
                    bodies[message.number] = message.content
        return [Reply(errors[number], bodies[number]) for number in numbers]

    def _messages(self) -> Iterator[_Message]:
        """Wait for messages."""
        data = self._channel.recv(_CHUNK)
        offset = 0
        while offset + _HEADER.size <= len(data):
            length, kind, flags, number, _ = _HEADER.unpack_from(data, offset)
            if length < _HEADER.size:
                raise OSError(errno.EPROTO, "a netlink message without a length")
            yield _Message(kind, flags, number, data[offset + _HEADER.size : offset + length])
            offset += (length + 3) & ~3


def _packed(request: Request, number: int) -> bytes:
    length = _HEADER.size + len(request.body)
    flags = request.flags | _NLM_F_REQUEST
    return _HEADER.pack(length, request.kind, flags, number, 0) + request.body + bytes(-length % 4)


def _code(content: bytes) -> int:
    """Return the errno of an error message; 0 is an acknowledgement."""
    return -int.from_bytes(content[:4], sys.byteorder, signed=True)
