# SPDX-License-Identifier: Apache-2.0
"""A list of flows as an answer in parts, each made in a thread while the one before it is sent."""

import asyncio
from collections.abc import AsyncGenerator, Generator

from loxilb.codec.flows import token_of
from loxilb.ports import FlowList

_LEAST = 1 << 16
"""Bytes of a part that another one follows."""


async def conntrack(flows: FlowList) -> AsyncGenerator[bytes | memoryview, None]:
    """Return the body; what is made ahead is one part, and it ends with the answer."""
    parts = _parts(flows)

    def prepare() -> asyncio.Future[bytes | memoryview | None]:
        return asyncio.ensure_future(asyncio.to_thread(next, parts, None))

    ahead = prepare()
    try:
        while (part := await asyncio.shield(ahead)) is not None:
            ahead = prepare()
            yield part
    finally:
        await asyncio.wait({ahead})  # who goes away does not end the thread, which is in the generator
        parts.close()


def _parts(flows: FlowList) -> Generator[bytes | memoryview, None, None]:
    """Return the body with the entries of some flows a part, in one part where there are few."""
    from loxilb.codec.conntrack import ConntrackEncoder  # noqa: PLC0415 loads numpy, for those who list flows

    encoder, after = ConntrackEncoder(flows.names), flows.page.after
    head = b"{" + (b'"continue":"%b",' % token_of(after).encode() if after else b"") + b'"ctAttr":['
    text: bytes | memoryview = head
    for columns in flows.page.columns:
        entries = encoder.entries(columns)
        if len(text) < _LEAST:
            text = b"".join((text, entries[text is head :]))  # no comma before the first one
        else:
            yield text
            text = entries
    yield b"".join((text, b"]}\n"))
