# SPDX-License-Identifier: Apache-2.0
"""The list of flows, part by part, and a client that goes away in the middle."""

import asyncio
import threading
import weakref
from collections.abc import Iterator
from functools import partial
from typing import cast

import pytest

from loxilb.codec.conntrack import ConntrackEncoder
from loxilb.kernel.fake.columns import page_of
from loxilb.model.flow_list import FlowColumns
from loxilb.ports import EVERY_FLOW, FlowList, FlowPage
from loxilb.services.api import conntrack


@pytest.mark.parametrize("count", [1, 10])
def test_who_goes_away_while_a_part_is_made_ends_it_when_it_is_made(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """What makes the parts runs in a thread, and the list is over when nothing is in it any more."""
    working, go = threading.Event(), threading.Event()
    made = []

    def part() -> memoryview:
        working.set()
        assert go.wait(30)
        made.append(True)
        return memoryview(b",part")

    monkeypatch.setattr(conntrack, "_parts", lambda _: iter([part] * count))

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
        assert len(made) == min(count, 2)

    asyncio.run(whole())
    assert len(made) == min(count, 2)


def test_parts_come_in_order_and_are_made_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those in which everything has ended leave no gap."""
    begun, makers = threading.Event(), set[int]()
    longest = b"," + b"x" * (1 << 16)

    def part(text: bytes) -> memoryview:
        assert begun.wait(30)
        makers.add(threading.get_ident())
        return memoryview(text)

    def parts() -> Iterator[partial[memoryview]]:
        for number, text in enumerate((b"", longest + b"1", longest + b"2", b"", b"")):
            if number == 1:  # the first one is at work until this one has been handed to a thread as well
                asyncio.get_running_loop().call_soon(begun.set)
            yield partial(part, text)

    monkeypatch.setattr(conntrack, "_parts", lambda _: parts())

    async def whole() -> list[bytes]:
        listing = conntrack.conntrack(FlowList(page=page_of((), EVERY_FLOW), names={}))
        return [bytes(part) async for part in listing]

    first = longest[1:] + b"1"
    assert asyncio.run(whole()) == [b'{"ctAttr":[' + first, longest + b"2]}\n"]
    assert len(makers) == 1


def test_two_parts_are_made_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no more, whoever is slow to read them."""
    made = []

    def part() -> memoryview:
        made.append(True)
        return memoryview(b"," + b"x" * (1 << 16))

    monkeypatch.setattr(conntrack, "_parts", lambda _: iter([part] * 20))

    async def first() -> None:
        listing = conntrack.conntrack(FlowList(page=page_of((), EVERY_FLOW), names={}))
        await anext(listing)
        await listing.aclose()

    asyncio.run(first())
    assert len(made) == 4  # one was read, another shows that it is not the last one


def test_tables_are_let_go_of_where_they_were_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not on the event loop, which others wait for meanwhile."""
    threads: list[threading.Thread] = []
    loops: list[asyncio.AbstractEventLoop] = []
    ended = threading.Event()

    class Tables:
        def columns(self) -> FlowColumns:
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loops[0]).result()  # until it only waits for this
            return cast(FlowColumns, None)

    def page() -> FlowPage:
        tables = Tables()
        weakref.finalize(tables, ended.set)
        weakref.finalize(tables, lambda: threads.append(threading.current_thread()))  # comes first
        return FlowPage(columns=[tables.columns] * 3, count=3, after=None)

    async def whole() -> list[bytes]:
        loops.append(asyncio.get_running_loop())
        return [bytes(part) async for part in conntrack.conntrack(FlowList(page=page(), names={}))]

    monkeypatch.setattr(ConntrackEncoder, "entries", lambda *_: b"")
    assert asyncio.run(whole()) == [b'{"ctAttr":[]}\n']
    assert ended.wait(30)
    assert threads != [threading.main_thread()]
