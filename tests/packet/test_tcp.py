# SPDX-License-Identifier: Apache-2.0
"""TCP: the life of a connection, packet by packet."""

from dataclasses import replace

import pytest

from loxilb.kernel.abi import Reason
from loxilb.model import FlowState
from tests.packet.driver import Driver, Path
from tests.support.bpf import Hook
from tests.support.packets import ACK, FIN, PSH, RST, SYN

pytestmark = pytest.mark.must_run


def open_connection(driver: Driver, hook: Hook, path: Path) -> None:
    """Shake hands."""
    driver.expect(hook, path.request(flags=SYN), Reason.FORWARD_NEW, path.requested(flags=SYN))
    driver.expect(hook, path.reply(flags=SYN | ACK), Reason.FORWARD_HALF_OPEN, path.replied(flags=SYN | ACK))
    driver.expect(hook, path.request(flags=ACK), Reason.FORWARD_HALF_OPEN, path.requested(flags=ACK))


def close_connection(driver: Driver, hook: Hook, path: Path) -> None:
    """Say goodbye, the client first."""
    for packet, becomes in (
        (path.request(flags=FIN | ACK), path.requested(flags=FIN | ACK)),
        (path.reply(flags=FIN | ACK), path.replied(flags=FIN | ACK)),
        (path.request(flags=ACK), path.requested(flags=ACK)),
    ):
        driver.expect(hook, packet, Reason.FORWARD_ESTABLISHED, becomes)


def test_a_connection_from_handshake_to_goodbye(driver: Driver, hook: Hook, version: int) -> None:
    """Every packet is rewritten exactly, either way, and both directions share the state."""
    service = driver.service(version)
    path = driver.path(service)

    def states() -> list[FlowState]:
        return [flow.state for flow in driver.flows(service)]

    driver.expect(hook, path.request(flags=SYN), Reason.FORWARD_NEW, path.requested(flags=SYN))
    assert states() == [FlowState.SYN_SENT] * 2
    driver.expect(hook, path.reply(flags=SYN | ACK), Reason.FORWARD_HALF_OPEN, path.replied(flags=SYN | ACK))
    assert states() == [FlowState.SYN_RECEIVED] * 2
    driver.expect(hook, path.request(flags=ACK), Reason.FORWARD_HALF_OPEN, path.requested(flags=ACK))
    assert states() == [FlowState.ESTABLISHED] * 2
    for size in (1, 2, 1399):
        data = {"flags": PSH | ACK, "payload": bytes(range(256)) * 5 + bytes(size)}
        driver.expect(hook, path.request(**data), Reason.FORWARD_ESTABLISHED, path.requested(**data))
        driver.expect(hook, path.reply(**data), Reason.FORWARD_ESTABLISHED, path.replied(**data))
    driver.expect(hook, path.request(flags=FIN | ACK), Reason.FORWARD_ESTABLISHED, path.requested(flags=FIN | ACK))
    assert states() == [FlowState.CLOSING] * 2
    driver.expect(hook, path.reply(flags=FIN | ACK), Reason.FORWARD_ESTABLISHED, path.replied(flags=FIN | ACK))
    assert states() == [FlowState.TIME_WAIT] * 2
    driver.expect(hook, path.request(flags=ACK), Reason.FORWARD_ESTABLISHED, path.requested(flags=ACK))
    assert states() == [FlowState.TIME_WAIT] * 2
