# SPDX-License-Identifier: Apache-2.0
"""One probe of one endpoint, by kind."""

import asyncio
import os
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from loxilb.errors import KernelError
from loxilb.model import IPAddress
from loxilb.model.probe import HealthCheck, ProbeKind
from loxilb.proto.probe.http import Response, get_request
from loxilb.services.health.certificates import Certificates
from loxilb.services.health.ping import Pinger
from loxilb.services.health.sockets import ProbeSockets

_PORTS = {ProbeKind.HTTP: 80, ProbeKind.HTTPS: 443}
_CHUNK = 1 << 14
_DATAGRAM = 1 << 16
_SILENCE_S = 0.5  # after which a UDP endpoint is not expected to say anything more
_LATE_S = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a probe: ``fault`` says what was wrong, "" for nothing.

    ``delay`` is a ping's round trip in seconds. ``late`` says that this program itself was too busy to tell.
    """

    fault: str = ""
    delay: float | None = None
    late: bool = False


class Prober(Protocol):
    """Something that probes."""

    async def probe(self, address: IPAddress, check: HealthCheck) -> Outcome:
        """Probe once; whatever is wrong with the endpoint is an outcome, not an exception."""

    def close(self) -> None:
        """Let go of everything."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """How to probe, and how many seconds it may take."""

    run: Callable[[IPAddress, HealthCheck], Awaitable[Outcome]]
    timeout: float


class Probes:
    """Probes over real sockets; certificates are those of ``directory``."""

    def __init__(self, directory: Path) -> None:
        """Open nothing yet."""
        self._sockets = ProbeSockets()
        self._pinger = Pinger()
        self._certificates = Certificates(directory)
        self._kinds: Mapping[ProbeKind, _Kind] = {
            ProbeKind.PING: _Kind(self._ping, 0.5),
            ProbeKind.TCP: _Kind(self._tcp, 1.0),
            ProbeKind.UDP: _Kind(self._udp, 1.0),
            ProbeKind.HTTP: _Kind(self._http, 2.0),
            ProbeKind.HTTPS: _Kind(self._http, 2.0),
        }

    async def probe(self, address: IPAddress, check: HealthCheck) -> Outcome:
        """Probe once, within the time of its kind."""
        kind, loop = self._kinds[check.kind], asyncio.get_running_loop()
        end = loop.time() + kind.timeout
        try:
            async with asyncio.timeout(kind.timeout):
                return await kind.run(address, check)
        except TimeoutError:
            late = loop.time() > end + _LATE_S
            return Outcome(fault=f"no answer in {kind.timeout} s", late=late)
        except (OSError, ValueError) as error:
            return Outcome(fault=_text_of(error))
        except KernelError as error:
            return Outcome(fault=str(error))

    def close(self) -> None:
        """Close the sockets."""
        self._pinger.close()

    async def _ping(self, address: IPAddress, _check: HealthCheck) -> Outcome:
        return Outcome(delay=await self._pinger.ping(address))

    async def _tcp(self, address: IPAddress, check: HealthCheck) -> Outcome:
        """Connect; send the request and compare what comes first with the response, where there are any."""
        loop = asyncio.get_running_loop()
        expected, received = check.response.encode(), b""
        with await self._sockets.stream(address, check.port) as sock:
            if check.request:
                await loop.sock_sendall(sock, check.request.encode())
            while len(received) < len(expected):
                chunk = await loop.sock_recv(sock, _CHUNK)
                if not chunk:
                    break
                received += chunk
        return Outcome(fault="" if received.startswith(expected) else "another answer than expected")

    async def _udp(self, address: IPAddress, check: HealthCheck) -> Outcome:
        """Send a datagram. An ICMP error is a fault; silence is one only where a response is expected."""
        loop = asyncio.get_running_loop()
        with self._sockets.datagram(address, check.port) as sock:
            sock.send(check.request.encode())
            try:
                async with asyncio.timeout(_SILENCE_S):
                    received = await loop.sock_recv(sock, _DATAGRAM)
            except TimeoutError:
                return Outcome(fault="no answer" if check.response else "")
        right = not check.response or received == check.response.encode()
        return Outcome(fault="" if right else "another answer than expected")

    async def _http(self, address: IPAddress, check: HealthCheck) -> Outcome:
        """Send a GET request and judge the response."""
        tls: ssl.SSLContext | None = None
        if check.kind is ProbeKind.HTTPS:
            tls = await asyncio.to_thread(self._certificates.context_for, address)
        port = check.port or _PORTS[check.kind]
        sock = await self._sockets.stream(address, port)
        try:
            reader, writer = await asyncio.open_connection(
                sock=sock, ssl=tls, server_hostname=str(address) if tls else None
            )
        except BaseException:
            sock.close()
            raise
        try:
            writer.write(get_request(address, port, check.request))
            return Outcome(fault=await _response_fault(reader, check.response))
        finally:
            writer.transport.abort()


def _text_of(error: OSError | ValueError) -> str:
    if isinstance(error, OSError) and error.errno and not isinstance(error, ssl.SSLError):
        return os.strerror(error.errno)
    return str(error) or type(error).__name__


async def _response_fault(reader: asyncio.StreamReader, expected: str) -> str:
    response = Response()
    while not response.complete:
        data = await reader.read(_CHUNK)
        if not data:
            break
        response.feed(data)
    return response.fault(expected)
