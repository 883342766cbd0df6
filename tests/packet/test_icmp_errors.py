# SPDX-License-Identifier: Apache-2.0
"""ICMP errors about a packet of a flow reach its sender, and quote what it sent (RFC 5508 section 4)."""

from dataclasses import replace
from typing import Any

import pytest

from loxilb.kernel.abi import Reason
from loxilb.model import Endpoint, L4Protocol, Mode
from tests.packet.driver import TARGET, Driver, Path
from tests.support.bpf import CLIENT, SERVERS, Device, Hook
from tests.support.packets import IcmpError, Packet

pytestmark = pytest.mark.must_run
MODES = [Mode.DEFAULT, Mode.ONEARM, Mode.FULLNAT]
PROTOCOLS = [L4Protocol.TCP, L4Protocol.UDP, L4Protocol.ICMP]
MTU = 1280
# Unreachable, too big, time exceeded, parameter problem: type, code, second word.
KINDS = {
    4: ((3, 1, 0), (3, 4, MTU), (11, 0, 0), (12, 0, 0x14000000)),
    6: ((1, 4, 0), (2, 0, MTU), (3, 0, 0), (4, 1, 6)),
}
UNREACHABLE = {4: (3, 3, 0), 6: (1, 4, 0)}


def error(device: Device, about: Packet, kind: tuple[int, int, int], *, quoted: int = 1 << 16) -> Packet:
    """Return the error of the router behind ``device`` as it arrives, to the sender of ``about``."""
    quote = bytes(about)[14 : 14 + quoted]
    return Packet(
        dmac=device.mac,
        smac=device.neighbour,
        source=device.gateway(about.source.version),
        destination=about.source,
        transport=IcmpError(kind=kind[0], code=kind[1], info=kind[2], quote=quote),
    )


def quoting(arrived: Packet, about: Packet, quoted: int) -> IcmpError:
    """Return the same error about another packet, which was a hop further."""
    assert isinstance(arrived.transport, IcmpError)
    return replace(arrived.transport, quote=bytes(replace(about, ttl=about.ttl - 1))[14 : 14 + quoted])


def to_client(path: Path, arrived: Packet, about: Packet, *, quoted: int = 1 << 16) -> Packet:
    """Return what becomes of ``arrived``, an error about what the client sent as ``about``."""
    return replace(
        arrived,
        dmac=CLIENT.neighbour,
        smac=CLIENT.mac,
        source=path.vip,
        destination=path.client,
        ttl=arrived.ttl - 1,
        transport=quoting(arrived, about, quoted),
    )


def to_endpoint(path: Path, arrived: Packet, about: Packet, *, quoted: int = 1 << 16) -> Packet:
    """Return what becomes of ``arrived``, an error about what the endpoint sent as ``about``."""
    return replace(
        arrived,
        dmac=path.server.neighbour,
        smac=path.server.mac,
        source=arrived.source if path.source == path.client else path.source,
        destination=path.endpoint,
        ttl=arrived.ttl - 1,
        transport=quoting(arrived, about, quoted),
    )


def expect(driver: Driver, hook: Hook, arrives: Packet, becomes: Packet) -> None:
    """Check an error that TC translates; XDP leaves it to it."""
    if hook is Hook.XDP:
        driver.expect(Hook.XDP, arrives, Reason.PASS_ICMP_ERROR)
    driver.expect(Hook.TC, arrives, Reason.FORWARD_ICMP_ERROR, becomes)


def both_ways(driver: Driver, hook: Hook, path: Path, kind: tuple[int, int, int], **more: Any) -> None:
    """Check the errors that both ends of a flow may be sent."""
    sent, answered = path.request(**more), path.reply(**more)
    arrives = error(path.server, path.requested(**more), kind)
    expect(driver, hook, arrives, to_client(path, arrives, sent))
    arrives = error(CLIENT, path.replied(**more), kind)
    expect(driver, hook, arrives, to_endpoint(path, arrives, answered))


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name.lower())
@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda one: one.value)
def test_an_error_is_translated_with_what_it_quotes(
    driver: Driver, hook: Hook, version: int, protocol: L4Protocol, mode: Mode
) -> None:
    """Addresses, ports and every checksum, the quoted ones too; another source port than the client's as well."""
    service = driver.service(version, protocol, mode=mode)
    first = driver.open(hook, driver.path(service))
    again = driver.open(hook, driver.path(service, endpoint=1, port=first.client_port))
    third = driver.open(hook, driver.path(service, endpoint=2))
    shared = driver.open(hook, driver.path(service, port=first.client_port))

    assert (shared.source_port != first.client_port) == (mode is not Mode.DEFAULT)
    for path in (first, again, third, shared):
        for kind in KINDS[version]:
            both_ways(driver, hook, path, kind, payload=b"quoted")
    assert sum(flow.counter.packets for flow in driver.flows(service)) == (3 if protocol is L4Protocol.TCP else 2) * 4


@pytest.mark.kernel
@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda one: one.value)
def test_a_quote_may_end_behind_the_ports(driver: Driver, hook: Hook, version: int, protocol: L4Protocol) -> None:
    """Eight bytes of the transport header are all that RFC 792 promises."""
    path = driver.open(hook, driver.path(driver.service(version, protocol, mode=Mode.FULLNAT)))
    size = (20 if version == 4 else 40) + 8

    arrives = error(path.server, path.requested(), UNREACHABLE[version], quoted=size)
    expect(driver, hook, arrives, to_client(path, arrives, path.request(), quoted=size))
    arrives = error(CLIENT, path.replied(), UNREACHABLE[version], quoted=size)
    expect(driver, hook, arrives, to_endpoint(path, arrives, path.reply(), quoted=size))


def test_a_quoted_datagram_without_a_checksum_keeps_none(driver: Driver, hook: Hook, version: int) -> None:
    """Zero is not a sum to be updated."""
    path = driver.open(hook, driver.path(driver.service(version, L4Protocol.UDP, mode=Mode.FULLNAT)))

    both_ways(driver, hook, path, UNREACHABLE[version], summed=False)


@pytest.mark.kernel
def test_an_error_about_a_half_open_flow_is_translated(driver: Driver, hook: Hook, version: int) -> None:
    """A SYN that cannot be delivered."""
    path = driver.path(driver.service(version))
    syn, sent = path.request(flags=2), path.requested(flags=2)
    driver.expect(hook, syn, Reason.FORWARD_NEW, sent)

    arrives = error(path.server, sent, UNREACHABLE[version])
    expect(driver, hook, arrives, to_client(path, arrives, syn))


def test_a_router_that_is_not_hidden_is_shown(driver: Driver, hook: Hook, version: int) -> None:
    """To the server, where the source port alone was changed: a trace of the way to the client."""
    endpoints = [Endpoint(address=SERVERS[0].gateway(version), port=TARGET)]
    one, other = (driver.service(version, L4Protocol.UDP, endpoints=endpoints) for _ in range(2))
    first = driver.open(hook, driver.path(one))
    path = driver.open(hook, driver.path(other, client=first.client, port=first.client_port))
    assert path.source_port != first.source_port

    arrives = error(CLIENT, path.replied(), UNREACHABLE[version])
    expect(driver, hook, arrives, to_endpoint(path, arrives, path.reply()))
    assert to_endpoint(path, arrives, path.reply()).source == CLIENT.gateway(version)


def test_an_error_about_another_packet_is_left_alone(driver: Driver, hook: Hook, version: int) -> None:
    """Of another port, of another direction, cut short, or with nothing in it."""
    path = driver.open(hook, driver.path(driver.service(version, L4Protocol.UDP)))
    sent, kind = path.requested(), UNREACHABLE[version]

    for other in (
        error(path.server, sent.with_ports(path.source_port, path.endpoint_port + 1), kind),
        error(path.server, path.reply(), kind),
        error(path.server, sent, kind, quoted=20 if version == 4 else 40),
        error(path.server, sent, kind, quoted=0),
    ):
        driver.expect(hook, replace(other, destination=path.source), Reason.PASS_ICMP_ERROR, device=path.server)
