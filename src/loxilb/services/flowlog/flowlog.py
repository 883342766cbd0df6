# SPDX-License-Identifier: Apache-2.0
"""The log of flows: one line when a flow is established, one when it ends."""

from collections import Counter
from collections.abc import AsyncIterator
from typing import Protocol

import structlog

from loxilb.errors import KernelError
from loxilb.model import FlowEvent, FlowEventKind

_LINES = {FlowEventKind.OPENED: "flow opened", FlowEventKind.ENDED: "flow ended"}

_log = structlog.get_logger(__name__)


class FlowReporter(Protocol):
    """A data plane as far as its reports of flows go."""

    def report_flows(self, wanted: bool) -> None:
        """Report flows, or stop to; idempotent and immediate."""

    def flow_events(self) -> AsyncIterator[FlowEvent]:
        """Report flows as they open and end, without end; raises KernelError."""


class FlowLog:
    """Logs at level trace what the data plane reports, and counts it; lives in one event loop."""

    def __init__(self, reporter: FlowReporter) -> None:
        """Keep the data plane; nothing is asked of it yet."""
        self._reporter = reporter
        self._reporting = False
        self._seen: Counter[FlowEventKind] = Counter()

    def report(self, wanted: bool) -> None:
        """Have flows reported, or not; at the end of a time of reports, say how many there were.

        The data plane is told even where nothing changes here: another process may have left it reporting.
        """
        self._reporter.report_flows(wanted)
        if self._reporting and not wanted:
            _log.info(
                "flows no longer reported",
                opened=self._seen[FlowEventKind.OPENED],
                ended=self._seen[FlowEventKind.ENDED],
            )
            self._seen.clear()
        self._reporting = wanted

    async def run(self) -> None:
        """Log what is reported, until cancelled; a kernel that does not let it is logged once."""
        try:
            async for event in self._reporter.flow_events():
                self._note(event)
        except KernelError as error:
            _log.error("flows not reported", cause=error.cause, remedy=error.remedy)

    def _note(self, event: FlowEvent) -> None:
        self._seen[event.kind] += 1
        _log.trace(
            _LINES[event.kind],
            protocol=event.protocol,
            source=str(event.source),
            source_port=event.source_port,
            destination=str(event.destination),
            destination_port=event.destination_port,
            rule=event.rule,
            endpoint=event.endpoint,
            state=event.state.name.lower(),
            packets=event.counter.packets,
            bytes=event.counter.bytes,
        )
