# SPDX-License-Identifier: Apache-2.0
"""A scrape of ten thousand services: what it costs, and who has to wait for it."""

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from loxilb.app import limits_of
from loxilb.kernel.bpf import BpfDataPlane, DataPlaneSettings
from loxilb.model import Endpoint, L4Protocol, Service, ServiceKey
from loxilb.plan import Ledger, plan
from loxilb.ports import Account
from loxilb.services.metrics import Latencies, MetricsService
from loxilb.services.reconcile import Reconciler
from tests.support.lab import Lab, run

pytestmark = pytest.mark.must_run
SERVICES = 10_000
TURNS = 2  # one that is blocked by the work has no more, and one on a crowded machine not many
_VIP = IPv4Address("20.20.0.0")


def many() -> list[Service]:
    """Return services of two endpoints each."""
    ends = tuple(Endpoint(address=IPv4Address(f"31.31.31.{at}"), port=80) for at in (1, 2))
    keys = (ServiceKey(address=_VIP + at, protocol=L4Protocol.TCP, port=80) for at in range(SERVICES))
    return [Service(key=key, endpoints=ends, name=f"service-{key.address}") for key in keys]


class Ledgers:
    """Who is behind the slots."""

    def __init__(self, data_plane: BpfDataPlane) -> None:
        """Program the services in one go."""
        ledger, wanted = Ledger(limits_of(data_plane.sizes)), many()
        planned = plan({one.key: one for one in wanted}, ledger, {})
        data_plane.apply(planned.ops)
        planned.commit(ledger)
        self.known = [Account(one, ledger.services[one.key].endpoints) for one in wanted]

    async def accounts(self) -> list[Account]:
        """Return them."""
        return self.known


class Health:
    """No endpoint is probed."""

    def probed(self) -> tuple[int, int]:
        """Return that."""
        return 0, 0


@dataclass(frozen=True, slots=True)
class Scrape:
    """Lines of a page, seconds and processor seconds it took, and turns that the event loop had meanwhile."""

    lines: int
    seconds: float
    work: float
    turns: int


async def counting_turns(during: Coroutine[Any, Any, bytes]) -> tuple[bytes, int]:
    """Run something, and return how many turns the event loop had meanwhile."""
    running, turns = asyncio.ensure_future(during), 0
    while not running.done():
        await asyncio.sleep(0.001)
        turns += 1
    return running.result(), turns


def scrape(folder: Path, rounds: int) -> list[Scrape]:
    """Read the page some times; ``folder`` is where a BPF file system may be mounted."""
    data_plane = BpfDataPlane.open(DataPlaneSettings(bpffs=folder))
    try:
        service = MetricsService(
            measures=data_plane,
            ledgers=Ledgers(data_plane),
            health=Health(),
            reconciler=Reconciler(),
            latencies=Latencies(),
            enabled=True,
        )
        found = []
        for _ in range(rounds):
            began, worked = time.perf_counter(), time.process_time()
            text, turns = asyncio.run(counting_turns(service.page()))
            found.append(Scrape(text.count(b"\n"), time.perf_counter() - began, time.process_time() - worked, turns))
        return found
    finally:
        data_plane.destroy()


def scrapes(lab: Lab, rounds: int) -> list[Scrape]:
    """Read the page some times in a namespace of its own."""
    pins = lab.folder / "scrape-bpf"
    lab.undo(run, ["umount", str(pins)])
    return lab.namespace("scale").call(scrape, pins, rounds)


def test_a_scrape_of_many_services_leaves_the_event_loop_its_turns(lab: Lab) -> None:
    """The page is made in a thread beside the API."""
    for found in scrapes(lab, 2):
        assert found.lines > SERVICES * 15
        assert found.turns > TURNS
