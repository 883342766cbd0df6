# SPDX-License-Identifier: Apache-2.0
"""The log of flows: records of the ring buffer, log lines, and when the data plane is to report."""

import asyncio
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import pytest
import structlog

from loxilb.errors import KernelError
from loxilb.kernel import abi
from loxilb.kernel.bpf.convert import flow_event_from_record
from loxilb.kernel.fake import FakeDataPlane
from loxilb.logs import LogFormat, LogLevel, configure
from loxilb.model import Counter, FlowEvent, FlowEventKind, FlowState
from loxilb.services.flowlog import FlowLog

EVENT = FlowEvent(
    kind=FlowEventKind.ENDED,
    protocol=6,
    source=ip_address("10.10.10.1"),
    destination=ip_address("20.20.20.1"),
    source_port=40001,
    destination_port=2020,
    state=FlowState.TIME_WAIT,
    rule=7,
    endpoint=9,
    counter=Counter(packets=5, bytes=280),
)


@pytest.fixture(autouse=True)
def put_back() -> Iterator[None]:
    """Undo the configuration of the logs."""
    yield
    structlog.reset_defaults()


def record(source: str, destination: str, **members: Any) -> bytes:
    """Return a record as the programs write it: addresses and ports in network byte order."""
    addresses = ip_address(source), ip_address(destination)
    raw = abi.Event(family=addresses[0].version, **members)
    raw.saddr[: len(addresses[0].packed)] = addresses[0].packed
    raw.daddr[: len(addresses[1].packed)] = addresses[1].packed
    raw.sport[:] = (40001).to_bytes(2, "big")
    raw.dport[:] = (2020).to_bytes(2, "big")
    return bytes(raw)


@pytest.mark.parametrize(("source", "destination"), [("10.10.10.1", "20.20.20.1"), ("3ffe::1", "2001::1")])
def test_a_record_is_decoded(source, destination):
    data = record(source, destination, kind=2, proto=6, state=5, rule=7, endpoint=9, packets=5, bytes=280)

    assert len(data) == 64
    event = flow_event_from_record(data)
    assert (event.source, event.destination) == (ip_address(source), ip_address(destination))
    assert (event.source_port, event.destination_port, event.protocol) == (40001, 2020, 6)
    assert (event.kind, event.state) == (FlowEventKind.ENDED, FlowState.TIME_WAIT)
    assert (event.rule, event.endpoint, event.counter) == (7, 9, Counter(packets=5, bytes=280))


def follow(log: FlowLog, fake: FakeDataPlane, *events: FlowEvent) -> None:
    """Let ``log`` run until it has taken every event."""

    async def scene() -> None:
        for event in events:
            fake.happenings.put_nowait(event)
        task = asyncio.create_task(log.run())
        async with asyncio.timeout(5):
            while not fake.happenings.empty():  # noqa: ASYNC110 polls with a deadline
                await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(scene())


def test_a_line_says_everything_of_a_flow(capsys):
    configure(LogLevel("trace"), LogFormat.TEXT)
    fake = FakeDataPlane()

    follow(FlowLog(fake), fake, EVENT)

    line = capsys.readouterr().err
    assert ' level=trace event="flow ended" ' in line
    words = set(line.split())
    assert {"protocol=6", "source=10.10.10.1", "source_port=40001"} <= words
    assert {"destination=20.20.20.1", "destination_port=2020"} <= words
    assert {"rule=7", "endpoint=9", "state=time_wait", "packets=5", "bytes=280"} <= words


def test_the_end_of_reports_says_how_many_there_were(capsys):
    configure(LogLevel("info"), LogFormat.TEXT)
    fake = FakeDataPlane()
    log = FlowLog(fake)

    log.report(True)
    assert fake.reporting
    follow(log, fake, EVENT, EVENT)
    log.report(False)
    log.report(False)

    assert not fake.reporting
    (line,) = capsys.readouterr().err.splitlines()
    assert 'event="flows no longer reported"' in line
    assert {"opened=0", "ended=2"} <= set(line.split())


def test_what_an_earlier_process_left_on_is_switched_off():
    fake = FakeDataPlane()
    fake.reporting = True

    FlowLog(fake).report(False)

    assert not fake.reporting


def test_a_kernel_that_refuses_is_logged_once(capsys):
    class Refusing(FakeDataPlane):
        async def flow_events(self):
            raise KernelError("open the ring buffer", 1, remedy="run as root")
            yield

    configure(LogLevel("info"), LogFormat.TEXT)

    asyncio.run(FlowLog(Refusing()).run())

    (line,) = capsys.readouterr().err.splitlines()
    assert 'event="flows not reported"' in line
    assert 'remedy="run as root"' in line
