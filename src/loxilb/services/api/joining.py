# SPDX-License-Identifier: Apache-2.0
"""Header and body of an answer in one TCP segment, and large parts of one with no copy.

The HTTP server writes header and body one after the other, and both event loops (asyncio's and uvloop) hand each write
to the kernel at once: two segments. The original command line fails when they arrive apart, so writes of one turn of
the event loop are handed over together here. To put its size in front, the server copies each part of an answer that
comes in parts; large ones are written as they are, and go to the kernel while other threads run.
"""

import asyncio
import os
from collections.abc import Iterable
from typing import Any, cast

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

_LARGE = 1 << 16
"""Bytes of a part that is not copied, and of what is handed to the kernel here."""
_Data = bytes | memoryview


class JoiningProtocol(HttpToolsProtocol):
    """The HTTP protocol over a transport that joins writes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Let large parts of answers by."""
        super().__init__(*args, **kwargs)
        self.app = cast(Any, _without_copies(cast(ASGIApp, self.app)))

    def connection_made(self, transport: Any) -> None:
        """Put the joining transport between the protocol and the socket."""
        super().connection_made(cast(asyncio.Transport, JoiningTransport(transport, self.loop)))


def _without_copies(application: ASGIApp) -> ASGIApp:
    """Return an application of which large parts of answers, other than the last one, are not copied."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        cycle: RequestResponseCycle = cast(Any, send).__self__

        async def send_large(message: Message) -> None:
            body = message.get("body", b"")
            if len(body) < _LARGE or not message.get("more_body") or not cycle.chunked_encoding:
                await send(message)
                return
            await send({**message, "body": b""})  # waits until there is room for more
            if not cycle.disconnected:
                cycle.transport.writelines((b"%x\r\n" % len(body), body, b"\r\n"))  # RFC 9112 section 7.1

        await application(scope, receive, send_large)

    return serve


class JoiningTransport:
    """Sends what is written in one turn of the event loop together; everything else is passed on."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._socket = None if transport.get_extra_info("sslcontext") else transport.get_extra_info("socket")
        self._waiting: list[_Data] = []

    def write(self, data: bytes) -> None:
        self.writelines([data])

    def writelines(self, lines: Iterable[_Data]) -> None:
        if not self._waiting:
            self._loop.call_soon(self._flush)
        self._waiting += lines

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        if not waiting or self._transport.is_closing():
            return
        if self._socket is not None and not self._transport.get_write_buffer_size():
            waiting = _handed_over(waiting, self._socket.fileno())
        if waiting:
            self._transport.writelines(waiting)


def _handed_over(waiting: list[_Data], descriptor: int) -> list[_Data]:
    """Have the kernel take what it has room for, where there is much; returns what is left.

    The transport of uvloop does the same, but no other thread runs while the kernel copies.
    """
    if sum(map(len, waiting)) < _LARGE:
        return waiting
    try:
        return _behind(waiting, os.writev(descriptor, waiting))
    except OSError:  # no room; anything else the transport meets as well, and tells
        return waiting


def _behind(parts: Iterable[_Data], length: int) -> list[_Data]:
    """Return what follows the first ``length`` bytes of ``parts``."""
    rest: list[_Data] = []
    for part in parts:
        if length < len(part):
            rest.append(memoryview(part)[length:] if length else part)
        length = max(0, length - len(part))
    return rest
