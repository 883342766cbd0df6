# SPDX-License-Identifier: Apache-2.0
"""Reports of drops in memory: those that a test makes up."""

import asyncio
from collections.abc import AsyncIterator, Sequence

from loxilb.errors import KernelError
from loxilb.model.trace import DroppedPacket


class FakeDrops:
    """Reports what is put into ``news`` while it is to; an error there is raised instead.

    ``sampling`` says whether it is to, ``unreported`` how many drops there were besides.
    """

    def __init__(self) -> None:
        """Start switched off."""
        self.sampling = False
        self.unreported = 0
        self.news: asyncio.Queue[Sequence[DroppedPacket] | KernelError] = asyncio.Queue()

    def sample(self, wanted: bool) -> None:
        """Remember whether drops are to be reported."""
        self.sampling = wanted

    async def dropped_packets(self) -> AsyncIterator[Sequence[DroppedPacket]]:
        """Report what is put into ``news``, without end."""
        while True:
            news = await self.news.get()
            if isinstance(news, KernelError):
                raise news
            yield news

    def lost(self) -> int:
        """Return ``unreported``."""
        return self.unreported
