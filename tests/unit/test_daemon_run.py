# SPDX-License-Identifier: Apache-2.0
"""The daemon over a kernel in memory: start, follow the network, stop."""

import asyncio
import json
import socket
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from loxilb.app import Daemon, limits_of
from loxilb.errors import KernelError
from loxilb.kernel.fake import FakeDataPlane, FakeNetwork
from loxilb.kernel.netlink import HeldAddressRemoved, LinkChanged, LinkRemoved, RoutesChanged
from loxilb.logs import LogLevel
from loxilb.model import LinkKind, Mode, Port
from loxilb.model.port import IfIndex
from loxilb.plan import Limits
from loxilb.services.store import SqliteStore
from loxilb.settings import Settings
from tests.support.services import key, service

DEADLINE = 5.0


def port(index: int, name: str) -> Port:
    return Port(index=IfIndex(index), name=name, kind=LinkKind.VETH, mac=b"\2" * 6, mtu=1500, up=True, carrier=True)


class Stage:
    """A daemon that runs over fakes."""

    def __init__(self, **settings: Any) -> None:
        self.fake, self.network = FakeDataPlane(), FakeNetwork()
        self.network.interfaces = [port(2, "eth0")]
        defaults = {"host": "127.0.0.1", "port": 0, "boot_files": Path("/nonexistent")}
        self.settings = Settings(**{**defaults, **settings})
        self.lines: list[str] = []
        self.stop = asyncio.Event()

        self.level = LogLevel()
        self.store = SqliteStore.open(None)

    async def run(self, scene: Callable[["Stage"], Coroutine[Any, Any, None]]) -> None:
        self.daemon = Daemon(
            settings=self.settings,
            packet_path=self.fake,
            surroundings=self.network,
            limits=Limits(),
            level=self.level,
            store=self.store,
        )
        ready = asyncio.Event()

        def note(line: str) -> None:
            self.lines.append(line)
            ready.set()

        running = asyncio.create_task(self.daemon.run(self.stop, note))
        waiting = asyncio.create_task(ready.wait())
        await asyncio.wait((running, waiting), timeout=DEADLINE, return_when=asyncio.FIRST_COMPLETED)
        try:
            if ready.is_set():
                await scene(self)
        finally:
            waiting.cancel()
            self.stop.set()
            await asyncio.wait_for(running, DEADLINE)

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(DEADLINE):
            while not condition():  # noqa: ASYNC110 polls with a deadline: what it waits for has no event
                await asyncio.sleep(0.001)


def play(scene: Callable[[Stage], Coroutine[Any, Any, None]], **settings: Any) -> Stage:
    stage = Stage(**settings)
    asyncio.run(stage.run(scene))
    return stage


async def nothing(_stage: Stage) -> None:
    """Do nothing."""


async def ask(where: tuple[str, int], path: str) -> str:
    reader, writer = await asyncio.open_connection(*where)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer.decode()


def test_element_zero_means_none():
    sizes = {"rules": 10, "endpoints": 20, "ring": 30, "listeners4": 40, "listeners6": 40, "sources": 50}

    assert limits_of(sizes) == Limits(rules=9, endpoints=19, ring=30, listeners=40, sources=50)


def test_it_says_what_it_took_and_serves_the_api():
    async def scene(stage: Stage) -> None:
        host, number = stage.daemon.api.address
        assert stage.lines == [f"1 interface (tcx eth0; xdp none), API http://{host}:{number}/netlox/v1"]
        await stage.daemon.configuration.put(service())
        assert '"externalIP":"20.20.20.1"' in await ask((host, number), "/netlox/v1/config/loadbalancer/all")
        assert '"portName":"eth0"' in await ask((host, number), "/netlox/v1/config/port/all")

    play(scene)


def test_stopping_leaves_forwarding_in_place():
    async def scene(stage: Stage) -> None:
        await stage.daemon.configuration.put(service())

    stage = play(scene)

    assert stage.fake.attached == {2: "eth0"}
    assert len(stage.fake.observe().rules) == 1
    assert stage.network.addresses == {ip_address("20.20.20.1")}


def test_without_the_api_nothing_listens():
    async def scene(stage: Stage) -> None:
        assert stage.lines == ["1 interface (tcx eth0; xdp none), API off"]
        with pytest.raises(RuntimeError):
            _ = stage.daemon.api.address

    play(scene, api=False)


def test_links_are_followed():
    async def scene(stage: Stage) -> None:
        stage.network.interfaces.append(port(3, "eth1"))
        stage.network.news.put_nowait(LinkChanged(IfIndex(3)))
        await stage.until(lambda: stage.fake.attached == {2: "eth0", 3: "eth1"})

        stage.network.news.put_nowait(LinkRemoved(IfIndex(2)))
        await stage.until(lambda: stage.fake.attached == {3: "eth1"})

    play(scene)


def test_routes_are_followed():
    async def scene(stage: Stage) -> None:
        await stage.daemon.configuration.put(service(("31.31.31.1,80",), mode=Mode.ONEARM))
        stage.network.routes[ip_address("31.31.31.1")] = ip_address("31.31.31.254")
        stage.network.news.put_nowait(RoutesChanged())

        await stage.until(lambda: stage.fake.observe().endpoints[1].source is not None)  # type: ignore[index]
        await stage.until(lambda: stage.fake.resolved == 1)

    play(scene)


def test_flows_are_reported_only_while_the_level_shows_them():
    async def scene(stage: Stage) -> None:
        assert not stage.fake.reporting
        stage.level.set("trace")
        assert stage.fake.reporting
        stage.level.set("debug")
        assert not stage.fake.reporting
        stage.level.set("trace")

    assert not play(scene).fake.reporting


def test_with_nonlp_nothing_is_followed():
    async def scene(stage: Stage) -> None:
        stage.network.news.put_nowait(RoutesChanged())
        await ask(stage.daemon.api.address, "/netlox/v1/version")

    stage = play(scene, follow_network=False)

    assert stage.network.news.qsize() == 1


def test_an_event_that_fails_is_not_the_last(monkeypatch):
    def refuse() -> None:
        monkeypatch.undo()
        raise KernelError("bump generation", 5)

    async def scene(stage: Stage) -> None:
        monkeypatch.setattr(stage.fake, "resolve_again", refuse)
        stage.network.news.put_nowait(RoutesChanged())
        stage.network.news.put_nowait(RoutesChanged())
        await stage.until(lambda: stage.fake.resolved == 1)

    play(scene)


def test_addresses_follow_links_and_a_failure_is_made_up_for():
    async def scene(stage: Stage) -> None:
        host = stage.network
        await stage.daemon.configuration.put(service(("4ffe::1,80",), of=key("2001::1")))
        host.interfaces = [replace(port(2, "eth0"), addresses=(ip_interface("2001::9/64"),))]
        host.refused = {ip_address("2001::1")}
        with capture_logs() as events:
            host.news.put_nowait(LinkChanged(IfIndex(2)))
            await stage.until(lambda: [one["work"] for one in events if "failed" in one["event"]] == ["addresses"])
        assert host.announced == []

        host.refused = set()
        await stage.until(lambda: host.announced == [(ip_address("2001::1"), "eth0")])

    play(scene)


def test_addresses_follow_a_link_that_cannot_be_attached(monkeypatch):
    def refuse(*_arguments: object) -> None:
        raise KernelError("attach", 5)

    async def scene(stage: Stage) -> None:
        await stage.daemon.configuration.put(service())
        stage.network.interfaces = [replace(port(2, "eth0"), addresses=(ip_interface("20.20.20.9/24"),))]
        monkeypatch.setattr(stage.daemon._interfaces, "follow", refuse)
        stage.network.news.put_nowait(LinkChanged(IfIndex(2)))
        await stage.until(lambda: stage.network.announced)
        await stage.until(lambda: stage.fake.resolved == 1)

    play(scene)


def test_events_that_break_off_are_taken_up_again(monkeypatch):
    monkeypatch.setattr("loxilb.app._RETRY_S", 0.0)

    async def scene(stage: Stage) -> None:
        stage.network.news.put_nowait(KernelError("read netlink", 105))
        stage.network.news.put_nowait(OSError(105, "no buffer space"))
        stage.network.news.put_nowait(RoutesChanged())
        await stage.until(lambda: stage.fake.resolved == 1)

    play(scene)


def test_a_port_that_is_taken_is_an_error_that_names_it():
    with socket.create_server(("127.0.0.1", 0)) as other:
        number = other.getsockname()[1]
        with pytest.raises(KernelError, match=f"port {number}"):
            play(nothing, port=number)


def test_a_second_daemon_serves_what_the_first_one_left():
    async def first(stage: Stage) -> None:
        await stage.daemon.configuration.put(service())

    async def second(stage: Stage) -> None:
        answer = await ask(stage.daemon.api.address, "/netlox/v1/config/loadbalancer/all")
        assert '"externalIP":"20.20.20.1"' in answer

    left = play(first)
    again = Stage()
    again.fake, again.network = left.fake, left.network
    asyncio.run(again.run(second))


RULE: dict[str, Any] = {
    "serviceArguments": {"externalIP": "20.20.20.7", "port": 80, "protocol": "tcp", "name": "saved"},
    "endpoints": [{"endpointIP": "31.31.31.1", "targetPort": 8080, "weight": 1}],
}


def test_boot_files_are_imported_once(tmp_path: Path) -> None:
    (tmp_path / "lbconfig.txt").write_text(json.dumps({"lbAttr": [RULE]}))

    async def shown(stage: Stage) -> list[str]:
        return [one.service.name for one in await stage.daemon.configuration.services()]

    async def first(stage: Stage) -> None:
        assert await shown(stage) == ["saved"]
        await stage.daemon.configuration.delete_all()

    async def second(stage: Stage) -> None:
        assert await shown(stage) == []

    left = play(first, boot_files=tmp_path)
    again = Stage(boot_files=tmp_path)
    again.fake, again.network, again.store = left.fake, left.network, left.store
    asyncio.run(again.run(second))


def test_boot_files_with_a_clash_are_one_revision(tmp_path: Path) -> None:
    """The rule that wants a port of one before it is left out, and not tried by a write of its own."""
    arguments = RULE["serviceArguments"] | {"port": 79, "portMax": 81, "name": "clash"}
    third = RULE["serviceArguments"] | {"port": 82, "name": "third"}
    rules = [RULE, RULE | {"serviceArguments": arguments}, RULE | {"serviceArguments": third}]
    (tmp_path / "lbconfig.txt").write_text(json.dumps({"lbAttr": rules}))

    async def scene(stage: Stage) -> None:
        shown = [one.service.name for one in await stage.daemon.configuration.services()]
        assert shown == ["saved", "third"]
        assert [one.number for one in await stage.daemon.configuration.revisions(9)] == [1]

    play(scene, boot_files=tmp_path)


def test_what_forwards_already_is_not_mixed_with_boot_files(tmp_path: Path) -> None:
    (tmp_path / "lbconfig.txt").write_text(json.dumps({"lbAttr": [RULE]}))

    async def first(stage: Stage) -> None:
        await stage.daemon.configuration.put(service())

    async def second(stage: Stage) -> None:
        (found,) = await stage.daemon.configuration.services()
        assert found.service.key == service().key

    left = play(first)
    again = Stage(boot_files=tmp_path)
    again.fake, again.network = left.fake, left.network
    asyncio.run(again.run(second))


@pytest.mark.parametrize(("asked", "level"), [(False, "trace"), (True, "info")])
def test_the_log_level_set_while_running_survives_unless_the_start_names_one(asked: bool, level: str) -> None:
    async def first(stage: Stage) -> None:
        await stage.daemon.configuration.set_parameter("logLevel", "trace")
        assert stage.level.get() == "trace"

    async def second(stage: Stage) -> None:
        assert stage.level.get() == level
        await stage.daemon.configuration.set_parameter("logLevel", "error")
        assert stage.level.get() == "error"

    left = play(first)
    again = Stage(log_level="info", log_level_asked=asked)
    again.level.set("info")
    again.store = left.store
    asyncio.run(again.run(second))


def test_a_log_level_rolled_back_is_that_of_the_start():
    async def scene(stage: Stage) -> None:
        await stage.daemon.configuration.put(service())
        await stage.daemon.configuration.set_parameter("logLevel", "trace")
        await stage.daemon.configuration.rollback(1)
        assert stage.level.get() == "error"

    play(scene, log_level="error")


def test_what_others_did_to_interfaces_and_addresses_is_undone_and_counted():
    async def scene(stage: Stage) -> None:
        await stage.daemon.configuration.put(service())
        (address,) = stage.network.addresses
        del stage.fake.attached[IfIndex(2)]
        stage.fake.detached = {IfIndex(2)}
        await stage.until(lambda: stage.fake.attached == {2: "eth0"})
        stage.network.news.put_nowait(HeldAddressRemoved(address, IfIndex(1)))
        stage.fake._listeners.clear()
        host, number = stage.daemon.api.address
        await stage.until(lambda: stage.daemon._reconciler.status().repairs == {"link": 1, "address": 1})
        await post((host, number), "/netlox/v1/config/audit")
        await stage.until(lambda: stage.fake._listeners)
        answer = await ask((host, number), "/netlox/v1/status/reconciler")
        assert '"repairAttr":[{"count":1,"what":"address"},{"count":1,"what":"link"}' in answer
        page = await ask((host, number), "/metrics")
        assert 'loxilb_repairs_total{what="link"} 1\n' in page
        assert 'loxilb_reconcile_failing{work="links"} 0\n' in page

    play(scene, metrics=True)


async def post(where: tuple[str, int], path: str) -> str:
    reader, writer = await asyncio.open_connection(*where)
    writer.write(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer.decode()


def test_a_link_counts_as_repaired_once_it_is_attached_again(monkeypatch):
    """Not when it is found detached: attaching it may fail for a while."""

    async def scene(stage: Stage) -> None:
        counted = stage.daemon._reconciler.status
        attach = stage.fake.attach
        refused: list[Mapping[str, int]] = []

        def refuse_once(one: Port) -> tuple[str, ...]:
            if not refused:
                refused.append(counted().repairs)
                raise KernelError("attach", 5)
            refused.append(counted().repairs)
            return attach(one)

        monkeypatch.setattr(stage.fake, "attach", refuse_once)
        del stage.fake.attached[IfIndex(2)]
        stage.fake.detached = {IfIndex(2)}
        await stage.until(lambda: counted().repairs == {"link": 1})
        assert refused == [{}, {}]
        assert stage.fake.attached == {2: "eth0"}

    play(scene)
