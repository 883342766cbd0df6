# SPDX-License-Identifier: Apache-2.0
"""Headers that are longer, shorter or fuller than usual."""

from dataclasses import replace

import pytest

from loxilb.kernel.abi import Reason
from loxilb.model import L4Protocol, Mode
from tests.packet.answers import DONT_FRAGMENT, reset
from tests.packet.driver import Driver, without_endpoints
from tests.packet.test_fragments import EXTENSIONS, extended
from tests.support.bpf import Hook
from tests.support.packets import ACK, FIN, IPV4, PSH, SYN, Packet, checksum

pytestmark = pytest.mark.must_run
OPTIONS = {"one word": b"\x01" * 4, "ten words": b"\x01" * 39 + b"\x00"}
URG = 0x20


def resized(packet: Packet, change: int) -> bytes:
    """Return a packet whose header tells another length than it has."""
    raw = bytearray(bytes(packet))
    if raw[12:14] == IPV4.to_bytes(2, "big"):
        raw[16:18] = (int.from_bytes(raw[16:18], "big") + change).to_bytes(2, "big")
        raw[24:26] = b"\0\0"
        raw[24:26] = checksum(bytes(raw[14:34])).to_bytes(2, "big")
    else:
        raw[18:20] = (int.from_bytes(raw[18:20], "big") + change).to_bytes(2, "big")
    return bytes(raw)


@pytest.mark.parametrize("mode", [Mode.DEFAULT, Mode.ONEARM, Mode.FULLNAT], ids=lambda mode: mode.name.lower())
@pytest.mark.parametrize("tos", [0x01, 0x03, 0xB8, 0xFF])
def test_what_is_not_translated_stays(driver: Driver, hook: Hook, version: int, mode: Mode, tos: int) -> None:
    """DSCP, ECN, do not fragment, identification, urgent pointer and all flags (RFC 2474, 3168, 6864, 9293)."""
    path = driver.open(hook, driver.path(driver.service(version, mode=mode)))
    more = {"flags": ACK | PSH | URG | 0xC0, "urgent": 0x1234, "payload": b"urgent"}

    for arrives, leaves in ((path.request, path.requested), (path.reply, path.replied)):
        for fragment in (0, DONT_FRAGMENT):
            packet, becomes = (
                replace(one(**more), tos=tos, fragment=fragment, identification=0xBEEF) for one in (arrives, leaves)
            )
            driver.expect(hook, packet, Reason.FORWARD_ESTABLISHED, becomes)


@pytest.mark.parametrize("flags", [SYN, SYN | 0xC0, ACK, FIN, PSH, 0])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_segment_with_ip_options_is_reset(driver: Driver, hook: Hook, options: bytes, flags: int) -> None:
    """As one without; the answer has none."""
    path = driver.path(without_endpoints(driver, 4))
    packet = replace(path.request(flags=flags, payload=b"payload"), options=options)

    driver.expect_answer(hook, packet, Reason.ANSWER_RESET, reset(packet))


@pytest.mark.parametrize("headers", EXTENSIONS.values(), ids=EXTENSIONS)
def test_a_segment_behind_extension_headers_is_reset(
    driver: Driver, hook: Hook, headers: tuple[tuple[int, bytes], ...]
) -> None:
    """As one without."""
    packet = driver.path(without_endpoints(driver, 6)).request(flags=SYN, payload=b"payload")

    driver.expect_answer(hook, extended(packet, headers), Reason.ANSWER_RESET, reset(packet))


@pytest.mark.parametrize("kind", [0, 2, 3, 4])
@pytest.mark.parametrize("left", [1, 255])
def test_a_routing_header_with_segments_left_is_the_stacks_affair(
    driver: Driver, hook: Hook, kind: int, left: int
) -> None:
    """The service is no last stop of such a packet (RFC 8200 section 4.4, RFC 5095)."""
    service = driver.service(6)
    packet = driver.path(service).request(flags=SYN)
    other = extended(packet, ((43, bytes((kind, left)) + bytes(4) + bytes(range(16))),))

    driver.expect(hook, other, Reason.PASS_PROTOCOL)
    assert driver.flows(service) == []


@pytest.mark.parametrize("protocol", [L4Protocol.TCP, L4Protocol.UDP, L4Protocol.ICMP], ids=lambda one: one.value)
def test_padding_is_no_header(driver: Driver, hook: Hook, version: int, protocol: L4Protocol) -> None:
    """Of a packet that its own header says is too short (RFC 1812 section 5.2.2) nothing is opened or answered."""
    payload = {} if protocol is L4Protocol.TCP else {"payload": b""}
    for service in (driver.service(version, protocol), without_endpoints(driver, version, protocol)):
        path = driver.path(service)
        packet = replace(path.request(**payload), trailer=bytes(30))
        size = len(packet.transport.segment())
        for cut in (1, size - 7, size):
            driver.expect(hook, resized(packet, -cut), Reason.PASS_MALFORMED)
        assert driver.flows(service) == []


def test_a_packet_that_lost_its_end_opens_nothing(driver: Driver, hook: Hook, version: int) -> None:
    """It tells of more than there is."""
    service = driver.service(version, L4Protocol.UDP)
    packet = driver.path(service).request(payload=b"payload")

    for more in (1, 1000):
        driver.expect(hook, resized(packet, more), Reason.PASS_MALFORMED)
    assert driver.flows(service) == []


@pytest.mark.parametrize("words", [0, 4, 6, 15])
def test_a_segment_that_tells_a_wrong_data_offset_is_not_answered(
    driver: Driver, hook: Hook, version: int, words: int
) -> None:
    """Its length is unknown, and so is what the answer would have to acknowledge (RFC 9293 section 3.1)."""
    packet = driver.path(without_endpoints(driver, version)).request(flags=SYN)
    raw = bytearray(bytes(packet))
    raw[(34 if version == 4 else 54) + 12] = words << 4

    if hook is Hook.XDP:
        driver.expect(Hook.XDP, bytes(raw), Reason.PASS_TO_TC)
    driver.expect(Hook.TC, bytes(raw), Reason.DROP_NO_ENDPOINT)
