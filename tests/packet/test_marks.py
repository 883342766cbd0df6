# SPDX-License-Identifier: Apache-2.0
"""Services for packets of a mark, beside services for any; and services at several addresses."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_address

import pytest
from msgspec import structs

from loxilb.kernel.abi import Reason
from loxilb.model import Endpoint, L4Protocol, Mode, Service
from tests.packet.driver import TARGET, Driver
from tests.packet.test_fragments import DATA, pieces
from tests.support.bpf import SERVERS, Hook
from tests.support.packets import SYN

pytestmark = pytest.mark.must_run
MARK, OTHER = 10, 0xFFFF_FFFF
PROTOCOLS = [L4Protocol.TCP, L4Protocol.UDP, L4Protocol.ICMP]


@contextmanager
def marked(driver: Driver, mark: int) -> Iterator[None]:
    """Run packets with a mark."""
    driver.mark = mark
    try:
        yield
    finally:
        driver.mark = 0


def at_server(service: Service, number: int, block: int) -> Service:
    """Return a service at the same address and port for a mark, with one server."""
    port = 0 if service.key.protocol is L4Protocol.ICMP else TARGET
    endpoint = Endpoint(address=SERVERS[number].gateway(service.key.address.version), port=port)
    return structs.replace(service, key=structs.replace(service.key, block=block), endpoints=(endpoint,))


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda one: one.value)
def test_the_mark_chooses_the_service(driver: Driver, hook: Hook, version: int, protocol: L4Protocol) -> None:
    """XDP, which sees no marks, leaves the choice to TC; packets of another mark are anybody's."""
    anybody = driver.service(version, protocol)
    anybody = at_server(anybody, 0, 0)
    ten, other = at_server(anybody, 1, MARK), at_server(anybody, 2, OTHER)
    driver.put(anybody, ten, other)
    first = {"flags": SYN} if protocol is L4Protocol.TCP else {}

    for mark, service in ((0, anybody), (MARK, ten), (OTHER, other), (MARK + 1, anybody)):
        path = driver.path(service)
        if hook is Hook.XDP:
            driver.expect(Hook.XDP, path.request(**first), Reason.PASS_TO_TC)
        with marked(driver, mark):
            driver.expect(Hook.TC, path.request(**first), Reason.FORWARD_NEW, path.requested(**first))
            driver.open(Hook.TC, path)
        driver.use(hook, path)  # a flow that is there needs no mark

    driver.drop(ten, other)
    path = driver.path(anybody)
    with marked(driver, MARK):
        driver.expect(hook, path.request(**first), Reason.FORWARD_NEW, path.requested(**first))


def test_without_a_service_for_any_only_marked_packets_are_served(driver: Driver, hook: Hook, version: int) -> None:
    """Others are nobody's; the address may be another service's, too."""
    service = driver.service(version)
    ten = at_server(service, 1, MARK)
    driver.put(ten)
    driver.drop(service)
    path = driver.path(ten)

    if hook is Hook.XDP:
        driver.expect(Hook.XDP, path.request(flags=SYN), Reason.PASS_TO_TC)
    driver.expect(Hook.TC, path.request(flags=SYN), Reason.PASS_NOT_SERVICE)
    with marked(driver, MARK):
        driver.use(hook, driver.open(Hook.TC, path))

    driver.drop(ten)
    with marked(driver, MARK):
        driver.expect(hook, driver.path(ten).request(flags=SYN), Reason.PASS_NOT_SERVICE)


def test_fragments_have_the_mark_of_their_first(driver: Driver, version: int) -> None:
    """The first one chooses the service, the others follow it."""
    service = driver.service(version, L4Protocol.UDP)
    ten = at_server(service, 1, MARK)
    driver.put(ten)
    path = driver.path(ten)
    with marked(driver, MARK):
        there, leaves = pieces(path.request(**DATA), 1440), pieces(path.requested(**DATA), 1440)
        driver.expect(Hook.TC, next(there), Reason.FORWARD_NEW, next(leaves))
        driver.expect(Hook.TC, next(there), Reason.FORWARD_FRAGMENT, next(leaves))


@pytest.mark.parametrize("mode", [Mode.DEFAULT, Mode.FULLNAT], ids=lambda mode: mode.name.lower())
@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda one: one.value)
def test_secondary_addresses_serve_the_same_rule(
    driver: Driver, hook: Hook, version: int, protocol: L4Protocol, mode: Mode
) -> None:
    """One turn for all of them; each answers from its own address, and all go with the service."""
    further = tuple(ip_address(text) for text in (("30.0.0.1", "30.0.0.2") if version == 4 else ("30::1", "30::2")))
    service = driver.service(version, protocol, mode=mode, secondary_addresses=further)
    paths = [
        replace(driver.path(service, endpoint=number), vip=vip)
        for number, vip in enumerate((service.key.address, *further))
    ]

    for path in paths:
        driver.use(hook, driver.open(hook, path))
    assert len(driver.flows(service)) == 6

    driver.drop(service)
    first = {"flags": SYN} if protocol is L4Protocol.TCP else {}
    for vip in further:
        packet = replace(driver.path(service), vip=vip).request(**first)
        driver.expect(hook, packet, Reason.PASS_NOT_SERVICE)
