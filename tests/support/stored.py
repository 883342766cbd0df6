# SPDX-License-Identifier: Apache-2.0
"""A configuration service over a store, a kernel and a host that outlive it, also when it is cut off in a write."""

import asyncio
from collections.abc import Callable, Coroutine
from ipaddress import ip_address
from typing import Any

import pytest

from loxilb.kernel.fake import FakeDataPlane, FakeLinks, FakeVipHost
from loxilb.model import Probe, Service
from loxilb.model.probe import HealthCheck, MonitoredEndpoint, ProbeKind
from loxilb.model.revision import Author, Changes
from loxilb.plan import Limits
from loxilb.services.config import ConfigurationService
from loxilb.services.config.edits import normal
from loxilb.services.store import SqliteStore
from tests.support.services import service

VIP = ip_address("20.20.20.1")
ME = Author(address="10.0.0.1", agent="curl")
NAMED = normal(
    service(
        name="web",
        monitor=True,
        private_address=ip_address("10.0.0.9"),
        probe=Probe(kind="http", port=81, request="up", period=3),
    )
)
FIRST = "31.31.31.1_tcp_8080"
TOLD = MonitoredEndpoint(address=ip_address("31.31.31.1"), check=HealthCheck(kind=ProbeKind.TCP, port=1), name=FIRST)


class Refusing(SqliteStore):
    """A store that can refuse every write."""

    def refuse(self, refused: bool) -> None:
        """Write nothing from now on, or go on."""
        self._connection.execute(f"PRAGMA query_only = {refused:d}")


class Stage:
    """A store, a kernel and a host that outlive configuration services."""

    def __init__(self) -> None:
        """Start with nothing."""
        self.store = Refusing.open(None)
        self.fake, self.host = FakeDataPlane(), FakeVipHost()
        self.changes: list[Changes] = []
        self.limits = Limits()
        self.service = self._new()

    def _new(self) -> ConfigurationService:
        made = ConfigurationService(
            data_plane=self.fake,
            vip_host=self.host,
            links=FakeLinks(),
            store=self.store,
            limits=self.limits,
            clock=lambda: 1000.0,
        )
        made.watch_changes(self)
        return made

    def changed(self, changes: Changes) -> None:
        """Note what is told."""
        self.changes.append(changes)

    async def restart(self) -> int:
        """Stop and start again; returns how many services there are."""
        self.service.close()
        self.service = self._new()
        return await self.service.start()

    async def crash(self, attempt: Coroutine[Any, Any, object], *, after: str) -> None:
        """End in the middle of a write: nothing runs after the step named, not even what takes it back."""
        target, name = {"store": (self.fake, "apply"), "kernel": (self.store, "confirm")}[after]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(target, name, die)
            patch.setattr(self.store, "take_back", die)
            with pytest.raises(Killed):
                await attempt
        self.service._worker.shutdown()
        self.service = self._new()

    async def shown(self) -> list[Service]:
        """Return what the API would show."""
        return [status.service for status in await self.service.services()]


class Killed(BaseException):
    """The end of the program, which nothing catches."""


def die(*_arguments: object) -> None:
    """End here."""
    raise Killed


def play(scene: Callable[[Stage], Coroutine[Any, Any, None]]) -> Stage:
    """Run a scene on a stage that has been started."""

    async def whole() -> Stage:
        stage = Stage()
        await stage.service.start()
        try:
            await scene(stage)
        finally:
            stage.service.close()
        return stage

    return asyncio.run(whole())
