# SPDX-License-Identifier: Apache-2.0
"""ICMP errors as the sender of a packet is told of them: the error queue of its socket, see ip(7) and ipv6(7)."""

import select
import socket
import struct
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass

from tests.support.traffic import family_of

_IP_RECVERR = 11  # the socket module names neither
_IPV6_RECVERR = 25
_FORM = struct.Struct("=IBBBBII")  # struct sock_extended_err


@dataclass(frozen=True, slots=True, kw_only=True)
class IcmpError:
    """Type and code as in RFC 792 or RFC 4443, who sent it, and the MTU where it tells one (else 0)."""

    kind: int
    code: int
    sender: str
    mtu: int


def ask_for_error(
    host: str, port: int, *, tcp: bool = False, ttl: int = 0, size: int = 32, source: str = "", timeout: float = 0.9
) -> IcmpError:
    """Send one SYN or datagram and return the ICMP error it provokes; AssertionError when there is none.

    The time allowed is less than what passes until a SYN is sent again.
    """
    version6 = ":" in host
    level = socket.IPPROTO_IPV6 if version6 else socket.IPPROTO_IP
    with socket.socket(family_of(host), socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM) as sock:
        sock.settimeout(timeout)
        sock.setsockopt(level, _IPV6_RECVERR if version6 else _IP_RECVERR, 1)
        if ttl:
            sock.setsockopt(level, socket.IPV6_UNICAST_HOPS if version6 else socket.IP_TTL, ttl)
        sock.bind((source, 0))
        try:
            sock.connect((host, port))
            sock.send(bytes(size))
            sock.recv(1 << 16)
        except OSError as error:
            return _read(sock, error)
    raise AssertionError("answered, not refused")


def send_each(host: str, port: int, *, source: str, count: int, stack: ExitStack) -> list[socket.socket]:
    """Send a datagram from each of so many sockets, which are open for as long as ``stack``."""
    made = [stack.enter_context(socket.socket(family_of(host), socket.SOCK_DGRAM)) for _ in range(count)]
    for sock in made:
        if ":" in host:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
        sock.bind((source, 0))
        sock.connect((host, port))
        sock.send(b"there")
    return made


def told(sockets: Iterable[socket.socket]) -> int:
    """Return how many sockets have been told of an ICMP error by now."""
    poll = select.poll()
    for sock in sockets:
        poll.register(sock, 0)  # errors are told in any case
    return len(poll.poll(0))


def _read(sock: socket.socket, error: OSError) -> IcmpError:
    sock.setblocking(False)
    try:
        _, control, _, _ = sock.recvmsg(1 << 16, 1 << 10, socket.MSG_ERRQUEUE)
    except BlockingIOError:
        raise AssertionError(f"no ICMP error, but {error!r}") from error
    ((level, _, data),) = control
    _, _, kind, code, _, info, _ = _FORM.unpack_from(data)
    offender = data[_FORM.size :]
    packed = offender[8:24] if level == socket.IPPROTO_IPV6 else offender[4:8]
    family = socket.AF_INET6 if level == socket.IPPROTO_IPV6 else socket.AF_INET
    return IcmpError(kind=kind, code=code, sender=socket.inet_ntop(family, packed), mtu=info)
