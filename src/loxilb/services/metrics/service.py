# SPDX-License-Identifier: Apache-2.0
"""The metrics service: gathers on request, in a thread, so that the event loop goes on serving."""

import asyncio
import time
from collections.abc import Sequence
from typing import Protocol

from loxilb.ports import Account, Ledgers, Measures, Reconciling
from loxilb.proto.metrics import render
from loxilb.services.metrics.accounts import Accounts
from loxilb.services.metrics.families import Facts, Latencies, families
from loxilb.services.metrics.system import System


class Health(Protocol):
    """What is known of the health of endpoints."""

    def probed(self) -> tuple[int, int]:
        """Return how many probed endpoints are up, and how many are not; called in the event loop."""


class MetricsService:
    """``loxilb.ports.MetricsPage``. Nothing is gathered while nobody asks, so it costs nothing then.

    Scrapes that overlap share one text: totals are followed by one thread at a time.
    """

    def __init__(
        self,
        *,
        measures: Measures,
        ledgers: Ledgers,
        health: Health,
        reconciler: Reconciling,
        latencies: Latencies,
        enabled: bool,
    ) -> None:
        """Keep what to ask."""
        self.enabled = enabled
        self._measures = measures
        self._ledgers = ledgers
        self._health = health
        self._reconciler = reconciler
        self._latencies = latencies
        self._accounts = Accounts()
        self._system = System()
        self._opened = 0
        self._running: asyncio.Task[bytes] | None = None

    async def page(self) -> bytes:
        """Return the text of now; raises KernelError."""
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._gather())
        return await asyncio.shield(self._running)

    async def _gather(self) -> bytes:
        began = time.monotonic()
        accounts = await self._ledgers.accounts()
        text = await asyncio.to_thread(self._text, accounts, self._health.probed())
        self._latencies.scrape.observe(time.monotonic() - began)
        return text

    def _text(self, accounts: Sequence[Account], health: tuple[int, int]) -> bytes:
        measures = self._measures
        self._accounts.follow(accounts, measures.counters(), measures.flow_counts())
        facts = Facts(
            rules=len(accounts),
            reasons=measures.reasons(),
            fills=measures.fills(),
            lost_reports=measures.lost_reports(),
            health=health,
            reconciler=self._reconciler.status(),
            accounts=self._accounts,
            latencies=self._latencies,
            opened_before=self._opened,
        )
        text = render((*families(facts), *self._system.families()))
        self._opened = sum(total.opened for total in self._accounts.protocols.values())
        return text
