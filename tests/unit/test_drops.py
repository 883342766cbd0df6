# SPDX-License-Identifier: Apache-2.0
"""Watching drops over a kernel in memory: who watches, what they see, and that it ends with them."""

import asyncio
import json
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Sequence
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from ipaddress import ip_address
from typing import Any

import pytest

from loxiapi.client import Server, follow
from loxilb.errors import KernelError
from loxilb.kernel.fake import FakeDataPlane
from loxilb.model.packet import Headers, TcpFlags
from loxilb.model.port import IfIndex
from loxilb.model.trace import DroppedPacket
from loxilb.ports import DropReport
from loxilb.services.drops import DropWatch
from tests.support.api import LiveApi, fake_kernel_api
from tests.support.cli import Cli
from tests.support.lab import wait_for

HEADERS = Headers(
    source_mac=b"\1" * 6,
    destination_mac=b"\2" * 6,
    protocol=6,
    source=ip_address("10.10.10.1"),
    source_port=4000,
    destination=ip_address("20.20.20.1"),
    destination_port=80,
    ttl=64,
    flags=TcpFlags.SYN,
)


def dropped(reason: str = "drop_source", interface: int = 2) -> DroppedPacket:
    """Return a drop."""
    return DroppedPacket(at=1.0, interface=IfIndex(interface), hook="tc", reason=reason, length=54, headers=HEADERS)


class Scene:
    """A watch over a fake."""

    def __init__(self, quiet: float = 5.0, look: float = 0.01) -> None:
        self.drops = FakeDataPlane().drops
        self.watch = DropWatch(self.drops, lambda index: "eth0" if index == 2 else "", look=look, quiet=quiet)

    async def first(self, watching: AsyncGenerator[DropReport, None]) -> DropReport:
        return await asyncio.wait_for(anext(watching), 5)

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(5):
            while not condition():  # noqa: ASYNC110 polls with a deadline: what it waits for has no event
                await asyncio.sleep(0.001)


def play(scene: Callable[[Scene], Coroutine[Any, Any, None]], **more: Any) -> None:
    """Run a scene."""

    async def run() -> None:
        await scene(Scene(**more))

    asyncio.run(run())


def test_reports_are_switched_on_by_the_first_and_off_by_the_last() -> None:
    """All who watch see all; one who comes later sees what comes later."""

    async def scene(stage: Scene) -> None:
        one, two = stage.watch.watch(), stage.watch.watch()
        waiting = [asyncio.create_task(stage.first(each)) for each in (one, two)]
        await stage.until(lambda: stage.drops.sampling)
        stage.drops.news.put_nowait([dropped(), dropped("drop_rst", 9)])
        found = [await each for each in waiting]
        assert [report.packet for report in found] == [dropped()] * 2
        assert [report.interface for report in found] == ["eth0"] * 2
        await one.aclose()
        assert stage.drops.sampling
        rest = await stage.first(two)
        assert (rest.packet, rest.interface) == (dropped("drop_rst", 9), "9")
        await two.aclose()
        assert not stage.drops.sampling
        again = stage.watch.watch()
        task = asyncio.create_task(stage.first(again))
        await stage.until(lambda: stage.drops.sampling)
        stage.drops.news.put_nowait([dropped()])
        assert (await task).packet == dropped()
        await again.aclose()

    play(scene)


def test_what_was_not_reported_is_told_as_a_number() -> None:
    """Since the watch began, and again when it grows."""

    async def scene(stage: Scene) -> None:
        stage.drops.unreported = 7
        watching = stage.watch.watch()
        task = asyncio.create_task(stage.first(watching))
        await stage.until(lambda: stage.drops.sampling)
        stage.drops.unreported += 3
        assert await task == DropReport(lost=3)
        stage.drops.unreported += 1
        assert await stage.first(watching) == DropReport(lost=4)
        await watching.aclose()

    play(scene)


def test_who_is_too_slow_loses_and_is_told() -> None:
    """The others wait for nobody."""

    async def scene(stage: Scene) -> None:
        watching = stage.watch.watch()
        task = asyncio.create_task(stage.first(watching))
        await stage.until(lambda: stage.drops.sampling)
        stage.drops.news.put_nowait([dropped()] * 1030)
        seen = [await task]
        while not seen[-1].lost:
            seen.append(await stage.first(watching))
        assert len(seen) - 1 + seen[-1].lost == 1030
        assert seen[-1].lost > 0
        await watching.aclose()

    play(scene, look=0.0001)  # so that it is looked for what was lost when they come


def test_a_quiet_watch_shows_that_it_lives() -> None:
    """So that a client that went away is noticed."""

    async def scene(stage: Scene) -> None:
        watching = stage.watch.watch()
        assert await stage.first(watching) == DropReport()
        await watching.aclose()

    play(scene, quiet=0.05)


def test_the_end_of_the_daemon_and_a_refusing_kernel_end_every_watch() -> None:
    """Nobody waits for what will not come; the switch is off."""

    async def scene(stage: Scene) -> None:
        watching = stage.watch.watch()
        task = asyncio.create_task(stage.first(watching))
        await stage.until(lambda: stage.drops.sampling)
        stage.drops.news.put_nowait(KernelError("read a ring buffer", 5))
        with pytest.raises(StopAsyncIteration):
            await task
        assert not stage.drops.sampling
        more = stage.watch.watch()
        task = asyncio.create_task(stage.first(more))
        await stage.until(lambda: stage.drops.sampling)
        stage.watch.close()
        with pytest.raises(StopAsyncIteration):
            await task
        assert not stage.drops.sampling

    play(scene)


def test_who_watches_again_after_a_refusal_sees_what_comes() -> None:
    """Also while one that was ended has not gone yet."""

    async def scene(stage: Scene) -> None:
        ended = stage.watch.watch()
        first = asyncio.create_task(stage.first(ended))
        await stage.until(lambda: stage.drops.sampling)
        stage.drops.news.put_nowait([dropped()])
        await first
        stage.drops.news.put_nowait(KernelError("read a ring buffer", 5))
        await stage.until(lambda: not stage.drops.news.qsize())
        again = stage.watch.watch()
        task = asyncio.create_task(stage.first(again))
        await asyncio.sleep(0)
        stage.drops.news.put_nowait([dropped("drop_rst")])
        assert (await task).packet == dropped("drop_rst")
        await ended.aclose()
        await again.aclose()

    play(scene)


@pytest.fixture
def api() -> Iterator[LiveApi]:
    """A live server."""
    with fake_kernel_api() as live:
        yield live


@contextmanager
def reporting(api: LiveApi, news: Sequence[DroppedPacket] | KernelError) -> Iterator[None]:
    """Have packets dropped, or the data plane refuse, as soon as somebody watches."""
    drops = api.data_plane.drops
    failures: list[AssertionError] = []

    def body() -> None:
        try:
            wait_for(lambda: drops.sampling, deadline=30, what="somebody who watches")
            api.call_soon(drops.news.put_nowait, news)
        except AssertionError as error:
            failures.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    if failures:
        raise failures[0]


def test_drops_are_lines_on_the_command_line(api: LiveApi, capsys: pytest.CaptureFixture[str]) -> None:
    """As many as asked for, with the reason asked for; the data plane stops to report when the client goes."""
    cli, port = Cli(capsys), f"--port={api.address[1]}"

    with reporting(api, [dropped("drop_rst"), dropped(), dropped("drop_rst"), dropped()]):
        code, text, errors = cli("watch", "drops", "--count", "2", "--reason", "source", port)

    line = "drop_source      tc eth0            tcp 10.10.10.1:4000 > 20.20.20.1:80 [S] ttl 64 length 54"
    assert (code, errors) == (0, "")
    assert [one.partition(" ")[2] for one in text.splitlines()] == [line] * 2
    wait_for(lambda: not api.data_plane.drops.sampling, what="the end of the reports")


def test_drops_are_json_lines(api: LiveApi, capsys: pytest.CaptureFixture[str]) -> None:
    """For programs."""
    with reporting(api, [dropped()]):
        code, text, _ = Cli(capsys)("watch", "drops", "--count", "1", "-o", "json", f"--port={api.address[1]}")

    (found,) = map(json.loads, text.splitlines())
    assert (code, found["reason"], found["packet"]["sourcePort"], found["length"]) == (0, "drop_source", 4000, 54)


def test_an_unknown_reason_is_refused_by_name(api: LiveApi, capsys: pytest.CaptureFixture[str]) -> None:
    """With those that there are."""
    code, _, errors = Cli(capsys)("watch", "drops", "--reason", "rain", f"--port={api.address[1]}")

    assert code == 1
    assert "reason: 'rain' is none of ttl, no_endpoint, " in errors
    code, _, errors = Cli(capsys)("watch", "rain", f"--port={api.address[1]}")
    assert (code, errors.splitlines()[0]) == (1, "Error: watch knows drops, not rain")


def test_a_misspelt_parameter_is_refused_by_name(api: LiveApi) -> None:
    """A filter with a slip of the pen would show everything."""
    with closing(HTTPConnection(*api.address, timeout=20)) as connection:
        connection.request("GET", "/netlox/v1/watch/drops?resaon=ttl")
        reply = connection.getresponse()

        assert reply.status == 400
        assert reply.headers["x-loxilb-cause"].startswith("resaon: ")


def test_a_quiet_server_is_waited_for_and_its_end_is_told(api: LiveApi, capsys: pytest.CaptureFixture[str]) -> None:
    """The timeout of requests is not one of watches; there is a sign of life in between."""
    with reporting(api, KernelError("read a ring buffer", 5)):
        code, text, errors = Cli(capsys)("watch", "drops", "--timeout", "1", f"--port={api.address[1]}")

    assert (code, text, errors) == (1, "", "Error: the server has ended the watch\n")


def test_a_client_that_goes_away_ends_its_watch(api: LiveApi) -> None:
    """Without a word."""
    lines = follow(Server(port=api.address[1]), "/watch/drops")
    with reporting(api, [dropped()]):
        assert json.loads(next(lines))["reason"] == "drop_source"
    lines.close()  # type: ignore[attr-defined]

    wait_for(lambda: not api.data_plane.drops.sampling, what="the end of the reports")
