# SPDX-License-Identifier: Apache-2.0
"""Checksums that a sender left to its device: XDP finishes them where it is told to expect them."""

from dataclasses import replace

import pytest

from loxilb.kernel.abi import Reason
from loxilb.kernel.bpf import XdpPolicy
from loxilb.model import L4Protocol
from tests.packet.driver import SMALL, Driver
from tests.packet.test_udp import summing_to_zero
from tests.support.bpf import Hook
from tests.support.packets import SYN, TCP, UDP, Packet, Tcp, pseudo_header, total

pytestmark = pytest.mark.must_run
SETTINGS = replace(SMALL, xdp=XdpPolicy.ON)


def partial(packet: Packet) -> bytes:
    """Return a packet as it leaves a socket: the checksum field holds the sum of the pseudo-header alone."""
    raw = bytearray(bytes(packet))
    tcp = isinstance(packet.transport, Tcp)
    l4 = 34 if packet.source.version == 4 else 54
    length = len(packet.transport.segment())
    summed = total(pseudo_header(packet.source, packet.destination, TCP if tcp else UDP, length))
    at = l4 + (16 if tcp else 6)
    raw[at : at + 2] = summed.to_bytes(2, "big")
    return bytes(raw)


@pytest.mark.parametrize("size", [0, 1, 2, 15, 16, 31, 32, 33, 63, 64, 65, 100, 1399, 1400])
@pytest.mark.parametrize("protocol", [L4Protocol.TCP, L4Protocol.UDP], ids=lambda one: one.value)
def test_a_partial_checksum_is_finished(module_driver: Driver, version: int, protocol: L4Protocol, size: int) -> None:
    """Of packets of any length; on the way of new flows, and of established ones either way."""
    path = module_driver.path(module_driver.service(version, protocol))
    data = {"payload": bytes(range(1, 201)) * 7}
    data["payload"] = data["payload"][:size]
    first = {"flags": SYN} if protocol is L4Protocol.TCP else data

    module_driver.expect(Hook.XDP, partial(path.request(**first)), Reason.FORWARD_NEW, path.requested(**first))
    module_driver.open(Hook.XDP, path)
    module_driver.expect(Hook.XDP, partial(path.request(**data)), Reason.FORWARD_ESTABLISHED, path.requested(**data))
    module_driver.expect(Hook.XDP, partial(path.reply(**data)), Reason.FORWARD_ESTABLISHED, path.replied(**data))


def test_a_finished_checksum_stays_right(module_driver: Driver, version: int) -> None:
    """What is not partial is only updated."""
    module_driver.use(Hook.XDP, module_driver.open(Hook.XDP, module_driver.path(module_driver.service(version))))


def test_a_finished_checksum_of_zero_does_not_become_none(module_driver: Driver, version: int) -> None:
    """A datagram whose checksum would have been zero."""
    path = module_driver.path(module_driver.service(version, L4Protocol.UDP))
    payload = summing_to_zero(path.request())

    module_driver.expect(
        Hook.XDP, partial(path.request(payload=payload)), Reason.FORWARD_NEW, path.requested(payload=payload)
    )


def test_a_missing_checksum_stays_missing(module_driver: Driver, version: int) -> None:
    """Zero is not partial."""
    path = module_driver.path(module_driver.service(version, L4Protocol.UDP))
    wrong = () if version == 4 else ("transport",)
    there, arrived = path.request(summed=False), path.requested(summed=False)

    module_driver.expect(Hook.XDP, there, Reason.FORWARD_NEW, arrived, wrong=wrong)


@pytest.mark.parametrize("size", [0, 1, 2, 5])
def test_what_pads_a_short_frame_is_not_summed(module_driver: Driver, version: int, size: int) -> None:
    """Ethernet padding need not be zero, and may start at an odd place (RFC 1042)."""
    path = module_driver.path(module_driver.service(version, L4Protocol.UDP))
    data, trailer = {"payload": bytes(range(1, size + 1))}, b"\x5a\xa5\xff" * 13

    arriving, leaving = path.request(**data), replace(path.requested(**data), trailer=trailer)
    module_driver.expect(Hook.XDP, partial(arriving) + trailer, Reason.FORWARD_NEW, leaving)
