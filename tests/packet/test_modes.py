# SPDX-License-Identifier: Apache-2.0
"""Which source an endpoint sees, and which port."""

from dataclasses import replace

import pytest

from loxilb.kernel.abi import Reason
from loxilb.model import Endpoint, L4Protocol, Mode
from tests.packet.driver import SMALL, TARGET, Driver, source_port
from tests.support.bpf import SERVERS, Hook
from tests.support.packets import ACK, SYN

pytestmark = pytest.mark.must_run
MODES = [Mode.DEFAULT, Mode.ONEARM, Mode.FULLNAT]
PROTOCOLS = [L4Protocol.TCP, L4Protocol.UDP, L4Protocol.ICMP]
FIRST_PORT = 1024


def by_name(one: Mode | L4Protocol) -> str:
    """Return how a parameter is shown."""
    return one.name.lower()


@pytest.mark.parametrize("mode", MODES, ids=by_name)
@pytest.mark.parametrize("protocol", PROTOCOLS, ids=by_name)
def test_the_client_keeps_its_port_where_it_is_free(
    driver: Driver, hook: Hook, version: int, protocol: L4Protocol, mode: Mode
) -> None:
    """The source address is the client's, the load balancer's or the service's."""
    path = driver.path(driver.service(version, protocol, mode=mode))

    opened = driver.open(hook, path)

    assert opened == path
    driver.use(hook, path)


@pytest.mark.parametrize("mode", [Mode.ONEARM, Mode.FULLNAT], ids=by_name)
@pytest.mark.parametrize("protocol", PROTOCOLS, ids=by_name)
def test_clients_with_the_same_port_share_an_endpoint(
    driver: Driver, hook: Hook, version: int, protocol: L4Protocol, mode: Mode
) -> None:
    """All but the first get another source port; each gets its own replies."""
    target = 0 if protocol is L4Protocol.ICMP else TARGET
    service = driver.service(
        version, protocol, mode=mode, endpoints=[Endpoint(address=SERVERS[1].gateway(version), port=target)]
    )

    first = driver.open(hook, driver.path(service))
    opened = [driver.open(hook, driver.path(service, port=first.client_port)) for _ in range(20)]

    ports = [path.source_port for path in (first, *opened)]
    assert ports[0] == first.client_port
    assert len(set(ports)) == 21
    assert min(ports) >= FIRST_PORT
    for path in (first, *opened):
        driver.use(hook, path)


@pytest.mark.parametrize("mode", MODES, ids=by_name)
def test_one_client_reaches_one_endpoint_by_two_services(driver: Driver, hook: Hook, version: int, mode: Mode) -> None:
    """From the same port: the endpoint must be able to tell the two apart."""
    endpoints = [Endpoint(address=SERVERS[0].gateway(version), port=TARGET)]
    one, other = (driver.service(version, L4Protocol.UDP, mode=mode, endpoints=endpoints) for _ in range(2))
    first = driver.open(hook, driver.path(one))

    second = driver.open(hook, driver.path(other, client=first.client, port=first.client_port))

    assert (second.source, second.source_port) != (first.source, first.source_port)
    for path in (first, second):
        driver.use(hook, path)


def test_a_flow_keeps_its_port_while_it_is_half_open(driver: Driver, hook: Hook, version: int) -> None:
    """A repeated SYN does not allocate again."""
    service = driver.service(
        version, mode=Mode.FULLNAT, endpoints=[Endpoint(address=SERVERS[0].gateway(version), port=TARGET)]
    )
    first = driver.open(hook, driver.path(service))
    path = driver.path(service, port=first.client_port)
    path = replace(path, source_port=source_port(driver.send(hook, path.request(flags=SYN))))

    assert path.source_port != first.source_port
    driver.expect(hook, path.request(flags=SYN), Reason.FORWARD_HALF_OPEN, path.requested(flags=SYN))
    driver.send(hook, path.reply(flags=SYN | ACK), path.request(flags=ACK))
    driver.use(hook, path)


def test_without_a_source_there_is_no_flow(driver: Driver, hook: Hook, version: int) -> None:
    """Onearm towards an endpoint that the host knows no own address for."""
    service = driver.service(
        version, mode=Mode.ONEARM, endpoints=[Endpoint(address=SERVERS[0].gateway(version) + 1, port=TARGET)]
    )

    driver.expect(hook, driver.path(service).request(flags=SYN), Reason.DROP_NO_SOURCE)
    assert driver.flows(service) == []


@pytest.mark.parametrize("own_driver", [replace(SMALL, flows4=131_072)], indirect=True, ids=["large"])
def test_when_every_port_is_taken_the_packet_is_dropped(own_driver: Driver) -> None:
    """One source, one endpoint, and a flow on each port that could be given."""
    hook = Hook.XDP
    service = own_driver.service(
        4,
        L4Protocol.UDP,
        mode=Mode.FULLNAT,
        inactive_timeout=86_400,
        endpoints=[Endpoint(address=SERVERS[0].gateway(4), port=TARGET)],
    )
    client = own_driver.client(4)
    for port in range(FIRST_PORT, 65_536):
        path = own_driver.path(service, client=client, port=port)
        own_driver.send(hook, path.request(), path.reply())

    own_driver.expect(hook, own_driver.path(service).request(), Reason.DROP_NO_PORT)
    own_driver.use(hook, own_driver.path(service, client=client, port=50_000))
