# SPDX-License-Identifier: Apache-2.0
"""A list of flows as an answer in parts, made in a thread while those before them are sent."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from functools import partial
from itertools import islice

from loxilb.codec.flows import token_of
from loxilb.model.flow_list import FlowColumns
from loxilb.ports import FlowList

_LEAST = 1 << 16
"""Bytes of a part that another one follows."""
_AHEAD = 2
"""Parts made ahead, one after the other. Two threads would hand the interpreter to each other some thousand times: that
takes a quarter more processor time, and a tenth more time where there are two processors."""
_COMPACT = 10_000
"""Flows at most in a list without blanks, which people read; programs read more of them sooner with blanks."""
_Make = Callable[[], bytes | memoryview]


async def conntrack(flows: FlowList) -> AsyncGenerator[bytes | memoryview, None]:
    """Return the body; what is made ahead is a few parts, and it ends with the answer."""
    after = flows.page.after
    head = b"{" + (b'"continue":"%b",' % token_of(after).encode() if after else b"") + b'"ctAttr":['
    text: bytes | memoryview = head
    made = _made(await asyncio.to_thread(_parts, flows))
    del flows
    async with aclosing(made) as parts:
        async for entries in parts:
            if len(text) < _LEAST:
                text = b"".join((text, entries[text is head :]))  # no comma before the first one
            else:
                yield text
                text = entries
    yield b"".join((text, b"]}\n"))


def _parts(flows: FlowList) -> Iterator[_Make]:
    """Return what makes the entries of some flows each, one at a time.

    Who makes the last one lets go of the tables, which takes time, where nobody else keeps ``flows``.
    """
    from loxilb.codec.conntrack import ConntrackEncoder  # noqa: PLC0415 loads numpy, for those who list flows

    compact = flows.page.count <= _COMPACT
    encoder = ConntrackEncoder(flows.names, compact=compact)

    def part(copied: Callable[[], FlowColumns]) -> bytes | memoryview:
        return encoder.entries(copied())

    def parts(columns: deque[Callable[[], FlowColumns]]) -> Iterator[_Make]:
        while columns:
            yield partial(part, columns.popleft())

    return parts(deque(flows.page.columns))


async def _made(parts: Iterator[_Make]) -> AsyncGenerator[bytes | memoryview, None]:
    """Make the parts, some of them ahead, and return those that are not empty, one after the other."""
    ahead = deque[asyncio.Future[bytes | memoryview]]()
    threads, run = ThreadPoolExecutor(1, "flows"), asyncio.get_running_loop().run_in_executor

    def begin(count: int) -> None:
        ahead.extend(run(threads, part) for part in islice(parts, count))

    try:
        begin(_AHEAD)
        while ahead:
            entries = await asyncio.shield(ahead[0])
            ahead.popleft()
            begin(1)
            if entries:
                yield entries
    finally:
        if ahead:
            await asyncio.wait(ahead)  # who goes away does not end the threads, which read the tables
        threads.shutdown(wait=False)
