# SPDX-License-Identifier: Apache-2.0
"""UDP and ICMP echo: checksums, and flows that have no handshake."""

from dataclasses import replace

import pytest

from loxilb.kernel.abi import ONE_WAY_PACKETS, Reason
from loxilb.model import FlowState, L4Protocol
from tests.packet.driver import Driver
from tests.support.bpf import Hook
from tests.support.packets import UDP, Packet, Udp, checksum, pseudo_header

pytestmark = pytest.mark.must_run
BOTH = [L4Protocol.UDP, L4Protocol.ICMP]


@pytest.mark.kernel
@pytest.mark.parametrize("protocol", BOTH, ids=lambda one: one.value)
def test_a_reply_makes_a_flow_two_way(driver: Driver, hook: Hook, version: int, protocol: L4Protocol) -> None:
    """Half-open until then; payloads of any length."""
    service = driver.service(version, protocol)
    path = driver.path(service)

    driver.expect(hook, path.request(), Reason.FORWARD_NEW, path.requested())
    assert {flow.state for flow in driver.flows(service)} == {FlowState.ONE_WAY}
    driver.expect(hook, path.reply(), Reason.FORWARD_HALF_OPEN, path.replied())
    assert [flow.state for flow in driver.flows(service)] == [FlowState.TWO_WAY] * 2
    for size in (0, 1, 2, 1400):
        data = {"payload": bytes(range(1, 256)) * 6}
        data["payload"] = data["payload"][:size]
        driver.expect(hook, path.request(**data), Reason.FORWARD_ESTABLISHED, path.requested(**data))
        driver.expect(hook, path.reply(**data), Reason.FORWARD_ESTABLISHED, path.replied(**data))


@pytest.mark.parametrize("protocol", BOTH, ids=lambda one: one.value)
def test_a_flow_without_replies_is_established_in_the_end(
    driver: Driver, hook: Hook, version: int, protocol: L4Protocol
) -> None:
    """After so many packets it is no longer half-open, and no packet is forgotten."""
    service = driver.service(version, protocol)
    path = driver.path(service)

    driver.expect(hook, path.request(), Reason.FORWARD_NEW, path.requested())
    for _ in range(ONE_WAY_PACKETS):
        driver.expect(hook, path.request(), Reason.FORWARD_HALF_OPEN, path.requested())
    for _ in range(2):
        driver.expect(hook, path.request(), Reason.FORWARD_ESTABLISHED, path.requested())
    assert {flow.state for flow in driver.flows(service)} == {FlowState.ONE_WAY}
    assert [flow.counter.packets for flow in driver.flows(service)] == [ONE_WAY_PACKETS + 3, 0]
    driver.expect(hook, path.reply(), Reason.FORWARD_ESTABLISHED, path.replied())
    assert {flow.state for flow in driver.flows(service)} == {FlowState.TWO_WAY}


@pytest.mark.kernel
def test_a_missing_checksum_stays_missing(driver: Driver, hook: Hook, version: int) -> None:
    """Zero says that there is none (RFC 768); over IPv6 tunnels do so (RFC 6935)."""
    path = driver.path(driver.service(version, L4Protocol.UDP))
    wrong = () if version == 4 else ("transport",)

    there, arrived = path.request(summed=False), path.requested(summed=False)
    driver.expect(hook, there, Reason.FORWARD_NEW, arrived, wrong=wrong)
    back, returned = path.reply(summed=False), path.replied(summed=False)
    driver.expect(hook, back, Reason.FORWARD_HALF_OPEN, returned, wrong=wrong)


def summing_to_zero(packet: Packet) -> bytes:
    """Return the payload that makes the checksum of a datagram zero."""
    assert isinstance(packet.transport, Udp)
    segment = replace(packet.transport, payload=b"\0\0").segment()
    covered = pseudo_header(packet.source, packet.destination, UDP, len(segment)) + segment
    return checksum(covered).to_bytes(2, "big")


def test_a_checksum_that_comes_out_as_zero_is_written_as_all_ones(driver: Driver, hook: Hook, version: int) -> None:
    """Zero would say that there is none (RFC 768, RFC 8200 section 8.1)."""
    path = driver.path(driver.service(version, L4Protocol.UDP))
    there, back = summing_to_zero(path.requested()), summing_to_zero(path.replied())

    assert bytes(path.requested(payload=there))[-4:-2] == b"\xff\xff"
    driver.expect(hook, path.request(payload=there), Reason.FORWARD_NEW, path.requested(payload=there))
    driver.expect(hook, path.reply(payload=back), Reason.FORWARD_HALF_OPEN, path.replied(payload=back))


def test_a_checksum_of_all_ones_is_updated(driver: Driver, hook: Hook, version: int) -> None:
    """It stands for zero."""
    path = driver.path(driver.service(version, L4Protocol.UDP))
    payload = summing_to_zero(path.request())

    assert bytes(path.request(payload=payload))[-4:-2] == b"\xff\xff"
    driver.expect(hook, path.request(payload=payload), Reason.FORWARD_NEW, path.requested(payload=payload))


def test_an_echo_reply_nobody_asked_for_is_not_ours(driver: Driver, hook: Hook, version: int) -> None:
    """It opens no flow."""
    service = driver.service(version, L4Protocol.ICMP)
    path = driver.path(service)
    transport = path.replied().transport

    driver.expect(hook, replace(path.request(), transport=transport), Reason.PASS_NOT_SERVICE)
    assert driver.flows(service) == []
