# SPDX-License-Identifier: Apache-2.0
"""What BPF_PROG_TEST_RUN cannot make: frames that a device hands in."""

import socket
from collections.abc import Iterator

import pytest

from loxilb.model import L4Protocol, LinkKind
from loxilb.model.port import IfIndex, Port
from tests.packet.driver import Driver
from tests.support.bpf import CLIENT, World
from tests.support.lab import wait_for

pytestmark = pytest.mark.must_run


@pytest.fixture
def near(world: World) -> Port:
    """Return the client's device, as the network shows it."""
    return Port(
        index=IfIndex(world.indexes[CLIENT]),
        name=CLIENT.name,
        kind=LinkKind.VETH,
        mac=CLIENT.mac,
        mtu=1500,
        up=True,
        carrier=True,
    )


@pytest.fixture
def wire(driver: Driver, near: Port) -> Iterator[socket.socket]:
    """Return a socket on the far end of the client's device, with the TC program at the near end."""
    driver.data_plane.attach(near)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as raw:
        raw.bind((f"{CLIENT.name}-far", 0))
        yield raw
    driver.data_plane.detach(near.index)


def test_a_device_that_was_given_up_can_be_taken_again_at_once(driver: Driver, near: Port) -> None:
    """Nothing of ours runs on it any more when it is given up: a program meets no second copy of itself."""
    for _ in range(50):
        hooks = driver.data_plane.attach(near)
        driver.data_plane.detach(near.index)
        assert hooks == ("tcx",)


def test_a_tagged_frame_belongs_to_another_network(driver: Driver, wire: socket.socket, version: int) -> None:
    """The kernel takes the tag off before TC sees the frame."""
    service = driver.service(version, L4Protocol.UDP)
    tagged, plain = bytes(driver.path(service).request()), driver.path(service)

    wire.send(tagged[:12] + b"\x81\x00\x00\x64" + tagged[12:])
    wire.send(bytes(plain.request()))

    flows = wait_for(lambda: driver.flows(service), what="the flow of the frame without a tag")
    assert {flow.source for flow in flows if not flow.reply} == {plain.client}
