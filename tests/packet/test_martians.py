# SPDX-License-Identifier: Apache-2.0
"""Sources that cannot be one host's: no flow is opened for them, and nothing is said to them."""

from ipaddress import ip_address

import pytest

from loxilb.kernel.abi import Reason
from loxilb.model import IPAddress, L4Protocol
from tests.packet.driver import Driver, without_endpoints
from tests.packet.test_fragments import expect, pieces
from tests.support.bpf import Hook
from tests.support.packets import SYN

pytestmark = pytest.mark.must_run
# RFC 1812 section 5.3.7; RFC 4291 sections 2.5.2, 2.5.3, 2.5.6 and 2.7, RFC 4443 section 2.4 (e).
MARTIANS = [
    "0.0.0.0",
    "127.0.0.1",
    "127.255.255.255",
    "224.0.0.1",
    "239.1.2.3",
    "255.255.255.255",
    "::",
    "::1",
    "ff02::1",
    "ff0e::1234",
    "fe80::1",
]
# Just beside them.
HOSTS = [
    "0.0.0.1",
    "126.255.255.255",
    "128.0.0.1",
    "223.255.255.255",
    "240.0.0.1",
    "255.255.255.254",
    "::2",
    "feff::1",
    "fd00::1",
    "64:ff9b::1",
]
PROTOCOLS = [L4Protocol.TCP, L4Protocol.UDP, L4Protocol.ICMP]
by_protocol = pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda one: one.value)


def opening(protocol: L4Protocol) -> dict[str, int]:
    """Return what makes a packet of the client the first one of a flow."""
    return {"flags": SYN} if protocol is L4Protocol.TCP else {}


@pytest.mark.parametrize("source", [*map(ip_address, MARTIANS)], ids=str)
@by_protocol
def test_what_no_host_sends_from_opens_nothing(
    driver: Driver, hook: Hook, protocol: L4Protocol, source: IPAddress
) -> None:
    """Nor is it answered where there is no endpoint."""
    service = driver.service(source.version, protocol)
    packet = driver.path(service, client=source).request(**opening(protocol))
    driver.expect(hook, packet, Reason.DROP_MARTIAN)
    assert driver.flows(service) == []

    refusing = without_endpoints(driver, source.version, protocol)
    packet = driver.path(refusing, client=source).request(**opening(protocol))
    driver.expect(hook, packet, Reason.DROP_MARTIAN)


@pytest.mark.parametrize("source", [*map(ip_address, HOSTS)], ids=str)
def test_the_addresses_beside_are_hosts(driver: Driver, hook: Hook, source: IPAddress) -> None:
    """Each opens a flow."""
    service = driver.service(source.version, L4Protocol.UDP)
    path = driver.path(service, client=source)

    driver.expect(hook, path.request(), Reason.FORWARD_NEW, path.requested())


def test_a_segment_of_no_connection_from_a_group_is_not_answered(driver: Driver, hook: Hook, version: int) -> None:
    """A reset to a group would go to many (RFC 1122 section 3.2.2 for ICMP, RFC 9293 section 3.9.2.3)."""
    path = driver.path(driver.service(version), client=ip_address("224.0.0.5" if version == 4 else "ff02::5"))

    driver.expect(hook, path.request(), Reason.DROP_MARTIAN)


def test_fragments_of_a_martian_go_nowhere(driver: Driver, hook: Hook, version: int) -> None:
    """The first is dropped for its source, the others for want of a flow."""
    client = ip_address("127.0.0.9" if version == 4 else "::1")
    path = driver.path(driver.service(version, L4Protocol.UDP), client=client)
    first, second = pieces(path.request(payload=bytes(2000)), 1440)

    expect(driver, hook, first, Reason.DROP_MARTIAN)
    expect(driver, hook, second, Reason.DROP_FRAGMENT)
