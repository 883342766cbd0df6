# SPDX-License-Identifier: Apache-2.0
"""The list of flows, part by part, and a client that goes away in the middle."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from loxilb.kernel.fake.columns import page_of
from loxilb.ports import EVERY_FLOW, FlowList
from loxilb.services.api import conntrack


def test_who_goes_away_while_a_part_is_made_ends_it_when_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """What makes the parts runs in a thread, and is closed when that is out of it."""
    working, go, ended = threading.Event(), threading.Event(), threading.Event()

    def parts(_: FlowList) -> Iterator[bytes]:
        try:
            working.set()
            assert go.wait(30)
            yield b"part"
        finally:
            ended.set()

    monkeypatch.setattr(conntrack, "_parts", parts)

    async def whole() -> None:
        listing = conntrack.conntrack(FlowList(page=page_of((), EVERY_FLOW), names={}))
        first = asyncio.create_task(anext(listing))
        await asyncio.to_thread(working.wait, 30)
        first.cancel()
        for _ in range(10):
            await asyncio.sleep(0)
        assert not first.done()
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await first

    asyncio.run(whole())
    assert ended.is_set()
