# SPDX-License-Identifier: Apache-2.0
"""Header and body of an answer in one TCP segment.

The HTTP server writes them one after the other, and both event loops (asyncio's and uvloop) hand each write to the
kernel at once: two segments. The original command line fails when they arrive apart, so writes of one turn of the
event loop are joined here.
"""

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class JoiningProtocol(HttpToolsProtocol):
    """The HTTP protocol over a transport that joins writes."""

    def connection_made(self, transport: Any) -> None:
        """Put the joining transport between the protocol and the socket."""
        super().connection_made(cast(asyncio.Transport, _JoiningTransport(transport, self.loop)))


class _JoiningTransport:
    """Sends what is written in one turn of the event loop with one write; everything else is passed on."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._waiting: list[bytes] = []

    def write(self, data: bytes) -> None:
        if not self._waiting:
            self._loop.call_soon(self._flush)
        self._waiting.append(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        if waiting and not self._transport.is_closing():
            self._transport.write(b"".join(waiting))
