# SPDX-License-Identifier: Apache-2.0
"""Header and body of an answer in one TCP segment, and large parts of one with no copy.

The HTTP server writes header and body one after the other, and both event loops (asyncio's and uvloop) hand each write
to the kernel at once: two segments. The original command line fails when they arrive apart, so writes of one turn of
the event loop are handed over together here. To put its size in front, the server copies each part of an answer that
comes in parts; large ones are written as they are.
"""

import asyncio
from collections.abc import Iterable
from typing import Any, cast

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

_LARGE = 1 << 16
"""Bytes of a part that is not copied."""


class JoiningProtocol(HttpToolsProtocol):
    """The HTTP protocol over a transport that joins writes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Let large parts of answers by."""
        super().__init__(*args, **kwargs)
        self.app = cast(Any, _without_copies(cast(ASGIApp, self.app)))

    def connection_made(self, transport: Any) -> None:
        """Put the joining transport between the protocol and the socket."""
        super().connection_made(cast(asyncio.Transport, _JoiningTransport(transport, self.loop)))


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


class _JoiningTransport:
    """Sends what is written in one turn of the event loop together; everything else is passed on."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._waiting: list[bytes | memoryview] = []

    def write(self, data: bytes) -> None:
        self.writelines([data])

    def writelines(self, lines: Iterable[bytes | memoryview]) -> None:
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
        if waiting and not self._transport.is_closing():
            self._transport.writelines(waiting)
