# SPDX-License-Identifier: Apache-2.0
"""What depends on the client: persistence, allowed sources, and the way of direct server return."""

import struct
from dataclasses import replace
from ipaddress import ip_network

import pytest
from msgspec import structs

from loxilb.kernel.abi import Client, Reason
from loxilb.kernel.bpf import maps
from loxilb.model import Endpoint, IPAddress, L4Protocol, Mode, Selection
from tests.packet.answers import reset
from tests.packet.driver import PORT, Driver
from tests.support.bpf import SERVERS, Hook
from tests.support.lab import wait_for
from tests.support.packets import ACK, FIN, SYN, Packet

pytestmark = pytest.mark.must_run
PERSIST_S = 100


def affinity(driver: Driver, client: IPAddress) -> tuple[bytes, bytes]:
    """Return the key and the value that a client is remembered by."""
    (found,) = (
        (key, value)
        for key, value in maps.dump(driver.data_plane.descriptors["affinities"], 24, 8)
        if bytes(Client.from_buffer_copy(key).addr) == client.packed.ljust(16, b"\0")
    )
    return found


def age(driver: Driver, client: IPAddress, seconds: float) -> None:
    """Let a client's latest flow have been opened so much earlier."""
    key, value = affinity(driver, client)
    endpoint, last = struct.unpack("=II", value)
    earlier = (last - driver.data_plane._clock.ticks(seconds)) % (1 << 32)
    maps.update(driver.data_plane.descriptors["affinities"], key, struct.pack("=II", endpoint, earlier), "age")


@pytest.mark.parametrize("protocol", [L4Protocol.TCP, L4Protocol.UDP], ids=lambda one: one.value)
def test_a_client_comes_back_to_its_endpoint(driver: Driver, hook: Hook, version: int, protocol: L4Protocol) -> None:
    """From any port, on either hook; other clients take their turns."""
    service = driver.service(version, protocol, selection=Selection.PERSIST, persist_timeout=PERSIST_S)
    more = {"flags": SYN} if protocol is L4Protocol.TCP else {}
    clients = [driver.client(version) for _ in range(6)]
    for again in (hook, *Hook):
        packets = [driver.path(service, client=client).request(**more) for client in clients]
        assert driver.servers(again, packets) == [0, 1, 2] * 2


def test_a_client_that_stays_away_is_forgotten(driver: Driver, hook: Hook, version: int) -> None:
    """After the time the rule says, from its latest flow on."""
    service = driver.service(version, selection=Selection.PERSIST, persist_timeout=PERSIST_S)
    client = driver.client(version)

    def server() -> int:
        return driver.servers(hook, [driver.path(service, client=client).request(flags=SYN)])[0]

    assert server() == 0
    for _ in range(2):
        age(driver, client, PERSIST_S - 1)
        assert server() == 0
    age(driver, client, PERSIST_S + 1)
    assert server() == 1
    assert server() == 1


def test_a_client_whose_endpoint_left_gets_another(driver: Driver, hook: Hook, version: int) -> None:
    """Those of the other endpoints stay where they are."""
    service = driver.service(version, selection=Selection.PERSIST, persist_timeout=PERSIST_S)
    clients = [driver.client(version) for _ in range(3)]

    def servers() -> list[int]:
        return driver.servers(hook, [driver.path(service, client=one).request(flags=SYN) for one in clients])

    assert servers() == [0, 1, 2]
    driver.put(service.with_endpoints(service.endpoints[:2]))
    after = servers()
    assert after[:2] == [0, 1]
    assert after[2] in (0, 1)
    assert servers() == after


def test_only_allowed_sources_open_flows(driver: Driver, hook: Hook, version: int) -> None:
    """The longest prefix does not matter: any that holds the client does."""
    allowed, other, single = (driver.client(version) for _ in range(3))
    bits = 32 if version == 4 else 128
    networks = (ip_network((allowed, bits)), ip_network((single, bits)))
    service = driver.service(version, allowed_sources=networks)

    packet = driver.path(service, client=other).request(flags=SYN)
    driver.expect(hook, packet, Reason.DROP_SOURCE)
    assert driver.flows(service) == []
    opened = driver.open(hook, driver.path(service, client=allowed))
    driver.use(hook, opened)
    driver.put(structs.replace(service, allowed_sources=networks[1:]))
    driver.expect(hook, driver.path(service, client=allowed).request(flags=SYN), Reason.DROP_SOURCE)
    driver.put(structs.replace(service, allowed_sources=()))
    driver.use(hook, driver.open(hook, driver.path(service, endpoint=1, client=other)))


@pytest.mark.parametrize("before", ["open", "restricted"])
def test_a_client_that_is_allowed_no_more_loses_its_flows(
    driver: Driver, hook: Hook, version: int, before: str
) -> None:
    """Half-open and established ones; those of the others go on."""
    barred, allowed = driver.client(version), driver.client(version)
    networks = (ip_network(barred), ip_network(allowed))
    service = driver.service(version, allowed_sources=networks if before == "restricted" else ())
    gone = driver.open(hook, driver.path(service, client=barred))
    kept = driver.open(hook, driver.path(service, endpoint=1, client=allowed))
    driver.send(hook, driver.path(service, client=barred).request(flags=SYN))

    driver.put(structs.replace(service, allowed_sources=networks[1:]))

    wait_for(lambda: len(driver.flows(service)) == 2, what="the end of the barred client's flows")
    driver.use(hook, kept)
    driver.expect(hook, gone.request(flags=SYN), Reason.DROP_SOURCE)


def test_prefixes_of_every_length(driver: Driver, hook: Hook, version: int) -> None:
    """The first address that lies outside is refused."""
    client = driver.client(version)
    for short in (0, 4, 8):
        network = ip_network((client, client.max_prefixlen - short), strict=False)
        service = driver.service(version, allowed_sources=(network,))
        for inside in (network[0], network[-1]):
            assert driver.servers(hook, [driver.path(service, client=inside).request(flags=SYN)])
        for outside in (network[0] - 1, network[-1] + 1):
            driver.expect(hook, driver.path(service, client=outside).request(flags=SYN), Reason.DROP_SOURCE)


def direct(packet: Packet, server: int) -> Packet:
    """Return a packet on its way to a server that shares the service's address: the MACs alone differ."""
    return replace(packet, dmac=SERVERS[server].neighbour, smac=SERVERS[server].mac)


@pytest.mark.parametrize("ttl", [1, 64])
def test_direct_server_return_changes_the_macs_alone(driver: Driver, hook: Hook, version: int, ttl: int) -> None:
    """The server is a neighbour, no hop; replies do not come by, so the client's segments move the state."""
    endpoints = [Endpoint(address=server.gateway(version), port=PORT) for server in SERVERS]
    service = driver.service(version, endpoints=endpoints, mode=Mode.DSR, selection=Selection.HASH)
    plain = driver.path(driver.service(version))
    syn = replace(plain.request(flags=SYN), destination=service.key.address, ttl=ttl)
    server = driver.servers(hook, [syn])[0]

    for flags, reason in (
        (SYN, Reason.FORWARD_HALF_OPEN),
        (ACK, Reason.FORWARD_HALF_OPEN),
        (ACK, Reason.FORWARD_ESTABLISHED),
        (FIN | ACK, Reason.FORWARD_ESTABLISHED),
    ):
        packet = replace(plain.request(flags=flags), destination=service.key.address, ttl=ttl)
        driver.expect(hook, packet, reason, direct(packet, server))
    late = replace(driver.path(service).request(flags=FIN | ACK))
    driver.expect_answer(hook, late, Reason.ANSWER_RESET, reset(late))
