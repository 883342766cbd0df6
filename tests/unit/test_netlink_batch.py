# SPDX-License-Identifier: Apache-2.0
"""What is made of the kernel's answers, which a socket of our own gives here: dumps of what changes meanwhile."""

import errno
import socket
import struct
from collections.abc import Iterator

import pytest

from loxilb.errors import KernelError
from loxilb.kernel.netlink.batch import Batches
from loxilb.kernel.netlink.network import kernel_errors

_NEWADDR, _GETADDR, _ERROR, _DONE = 20, 22, 2, 3
_MULTI, _INTERRUPTED = 0x2, 0x10


@pytest.fixture
def ends() -> Iterator[tuple[Batches, socket.socket]]:
    """Return a channel and the other end of it."""
    ours, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(0)  # an answer that is not there yet never comes
    with ours, kernel:
        yield Batches(ours), kernel


def message(kind: int, number: int, content: bytes = b"", *, flags: int = _MULTI) -> bytes:
    return struct.pack("=IHHII", 16 + len(content), kind, flags, number, 0) + content


def answer(kernel: socket.socket, number: int, content: bytes, *, interrupted: str = "") -> None:
    """Answer the dump with a number, interrupted before its ``middle`` or its ``end``, if at all."""
    flags = _MULTI | (_INTERRUPTED if interrupted == "middle" else 0)
    kernel.send(message(_NEWADDR, number, content) + message(_NEWADDR, number, content, flags=flags))
    kernel.send(message(_DONE, number, bytes(4), flags=_MULTI | (_INTERRUPTED if interrupted == "end" else 0)))


@pytest.mark.parametrize("where", ["middle", "end"])
def test_a_dump_that_is_interrupted_is_repeated(ends: tuple[Batches, socket.socket], where: str) -> None:
    """Nothing of the one before is left."""
    batches, kernel = ends
    answer(kernel, 1, b"old1", interrupted=where)
    answer(kernel, 2, b"new2")

    assert batches.dump(_GETADDR, bytes(8)) == [(_NEWADDR, b"new2")] * 2


def test_a_dump_that_is_always_interrupted_ends(ends: tuple[Batches, socket.socket]) -> None:
    """It is tried ten times, and the next one is not disturbed."""
    batches, kernel = ends
    for number in range(1, 11):
        answer(kernel, number, b"some", interrupted="end")

    with pytest.raises(KernelError, match=r"list: EAGAIN \(.*ip monitor") as caught, kernel_errors("list"):
        batches.dump(_GETADDR, bytes(8))
    assert caught.value.errno == errno.EAGAIN

    answer(kernel, 11, b"then")
    assert batches.dump(_GETADDR, bytes(8)) == [(_NEWADDR, b"then")] * 2


def test_a_dump_that_is_refused_says_why(ends: tuple[Batches, socket.socket]) -> None:
    batches, kernel = ends
    kernel.send(message(_ERROR, 1, struct.pack("=i", -errno.EPERM)))

    with pytest.raises(PermissionError):
        batches.dump(_GETADDR, bytes(8))
