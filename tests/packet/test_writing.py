# SPDX-License-Identifier: Apache-2.0
"""What follows from what is written, where somebody else wrote before too, and what is said of maps that are full."""

import errno
from collections.abc import Iterator
from ipaddress import IPv4Address, ip_address

import pytest

from loxilb.errors import KernelError
from loxilb.kernel.bpf import BpfDataPlane, DataPlaneSettings, XdpPolicy, layouts, loading, maps
from loxilb.kernel.bpf.hosts import served_bit
from loxilb.model import IPAddress, L4Protocol
from loxilb.model.image import (
    DropEndpoint,
    DropListener,
    EndpointEntry,
    EndpointId,
    Listener,
    PutEndpoint,
    PutListener,
    RuleId,
)
from loxilb.model.tables import EndpointTable
from tests.support.bpf import World, known_hosts

OWN, THEIRS = ip_address("31.31.31.1"), ip_address("31.31.31.2")
VIP, OTHER_VIP = ip_address("20.20.20.1"), ip_address("20.20.20.2")
RULE, SLOT = RuleId(1), EndpointId(1)


@pytest.fixture
def data_plane(world: World) -> Iterator[BpfDataPlane]:
    """Return a small data plane with nothing in it."""
    settings = DataPlaneSettings(
        bpffs=world.pins(), xdp=XdpPolicy.OFF, flows4=1024, flows6=1024, rules=16, endpoints=16, listeners=64
    )
    made = BpfDataPlane.open(settings)
    try:
        yield made
    finally:
        made.destroy()


def entry(address: IPAddress) -> EndpointEntry:
    return EndpointEntry(rule=RULE, address=address, port=80)


def listener(address: IPAddress, *, mark: int = 0) -> Listener:
    return Listener.of(address, L4Protocol.TCP, 80, mark=mark)


def overwrite_endpoint(data_plane: BpfDataPlane, value: bytes) -> None:
    """Write an endpoint as another program would."""
    maps.update(data_plane.descriptors["endpoints"], maps.index_key(SLOT), value, "spoil")


def add_listener(data_plane: BpfDataPlane, one: Listener) -> None:
    """Write a listener as another program would."""
    word = int(RULE).to_bytes(4, "little")
    maps.update(data_plane.descriptors["listeners4"], layouts.listener_to_key(one), word, "spoil")


def is_served(data_plane: BpfDataPlane, address: IPAddress) -> bool:
    """Tell whether the bit of a service address is set."""
    at, bit = divmod(served_bit(address.packed), 64)
    word = maps.lookup(data_plane.descriptors["served"], maps.index_key(at), 8) or b""
    return bool(int.from_bytes(word, "little") >> bit & 1)


@pytest.mark.parametrize(
    "written",
    [layouts.endpoints_to_values(EndpointTable.of({SLOT: entry(THEIRS)})), bytes(40)],
    ids=["another", "nothing"],
)
@pytest.mark.parametrize("drop", [True, False], ids=["drop", "put"])
def test_an_endpoint_that_somebody_else_wrote_can_be_changed(
    data_plane: BpfDataPlane, written: bytes, drop: bool
) -> None:
    """Its address was never counted; whatever is left over goes when the maps are compared."""
    data_plane.apply([PutEndpoint(endpoint=SLOT, entry=entry(OWN))])
    overwrite_endpoint(data_plane, written)

    data_plane.apply([DropEndpoint(endpoint=SLOT) if drop else PutEndpoint(endpoint=SLOT, entry=entry(OWN))])
    assert data_plane.observe().endpoints == ({} if drop else {SLOT: entry(OWN)})

    data_plane.repair([])
    assert known_hosts(data_plane) == ({} if drop else {OWN: False})


@pytest.mark.parametrize("mark", [0, 7])
def test_a_listener_that_somebody_else_wrote_can_be_dropped(data_plane: BpfDataPlane, mark: int) -> None:
    """Those of ours stay found, also the one with a mark."""
    add_listener(data_plane, listener(OTHER_VIP, mark=mark))

    data_plane.apply([DropListener(listener=listener(OTHER_VIP, mark=mark))])
    assert not is_served(data_plane, OTHER_VIP)

    ours = listener(OTHER_VIP, mark=8)
    data_plane.apply([PutListener(listener=ours, rule=RULE), PutListener(listener=listener(VIP), rule=RULE)])
    assert data_plane.observe().listeners == {ours: RULE, listener(VIP): RULE}
    assert is_served(data_plane, VIP)


def test_maps_that_are_full_say_which_option_to_raise(data_plane: BpfDataPlane) -> None:
    """Addresses of listeners are not limited by rules or endpoints, so their map can be full before the others."""
    many = [PutListener(listener=listener(IPv4Address("20.20.21.0") + at), rule=RULE) for at in range(33)]
    with pytest.raises(KernelError, match=r"note addresses: E2BIG .*raise --endpoints or --rules") as caught:
        data_plane.apply(many)
    assert caught.value.errno == errno.E2BIG
    data_plane.apply(many[:32])

    ports = [PutListener(listener=many[0].listener._replace(port=port), rule=RULE) for port in range(1, 66)]
    with pytest.raises(KernelError, match=r"E2BIG .*raise --listeners"):
        data_plane.apply(ports)
    assert data_plane.observe().listeners == {one.listener: RULE for one in many[:32]}


def test_the_map_of_addresses_is_a_power_of_two() -> None:
    """It takes the same memory."""
    settings = DataPlaneSettings()
    assert loading.sizes_of(loading.make_config(settings), settings)["hosts"] == 65_536


@pytest.mark.parametrize("own", [THEIRS, ip_address("3ffe::1")], ids=str)
def test_an_endpoint_on_this_host_is_known(data_plane: BpfDataPlane, own: IPAddress) -> None:
    """By an address of an interface or of a service, whichever is learnt or programmed last."""
    put = PutEndpoint(endpoint=SLOT, entry=entry(own))
    served = listener(own)
    data_plane.apply([put, PutEndpoint(endpoint=EndpointId(2), entry=entry(OWN))])
    assert known_hosts(data_plane) == {own: False, OWN: False}
    data_plane.know_addresses(frozenset({own, VIP}))
    assert known_hosts(data_plane) == {own: True, OWN: False}
    data_plane.apply([DropEndpoint(endpoint=SLOT)])
    assert known_hosts(data_plane) == {OWN: False}
    data_plane.apply([put])
    assert known_hosts(data_plane)[own]
    data_plane.know_addresses(frozenset())
    assert not known_hosts(data_plane)[own]

    data_plane.apply([PutListener(listener=served, rule=RULE)])
    assert known_hosts(data_plane)[own]
    data_plane.apply([DropListener(listener=served)])
    assert not known_hosts(data_plane)[own]
