# SPDX-License-Identifier: Apache-2.0
"""What BPF_PROG_TEST_RUN cannot make: frames that a device hands in."""

import re
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator

import pytest

from loxilb.kernel.bpf import loading
from loxilb.model import L4Protocol
from loxilb.model.port import Port
from tests.packet.conftest import loaded
from tests.packet.driver import SMALL, Driver
from tests.packet.test_partial import partial
from tests.support.bpf import CLIENT, SERVERS, Device, World
from tests.support.lab import wait_for
from tests.support.packets import SYN

pytestmark = pytest.mark.must_run
SOL_PACKET, PACKET_VNET_HDR, ALL_PROTOCOLS = 263, 15, 3
NEEDS_CSUM = 1  # VIRTIO_NET_HDR_F_NEEDS_CSUM of linux/virtio_net.h
FIELD = {L4Protocol.TCP: 16, L4Protocol.UDP: 6}


@pytest.fixture
def near(world: World) -> Port:
    """Return the client's device, as the network shows it."""
    return world.port(CLIENT)


@pytest.fixture
def wire(driver: Driver, near: Port) -> Iterator[socket.socket]:
    """Return a socket on the far end of the client's device, with the TC program at the near end."""
    driver.data_plane.attach(near)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as raw:
        raw.bind((f"{CLIENT.name}-far", 0))
        yield raw
    driver.data_plane.detach(near.index)


@pytest.fixture
def others_filter(near: Port) -> Iterator[Callable[[], int]]:
    """Put a filter of somebody else at the ingress of the device; returns how many packets came to it."""

    def tc(command: str) -> str:
        return subprocess.run(["tc", *command.split()], check=True, capture_output=True, text=True).stdout

    def seen() -> int:
        found = re.search(r"clsact.*\n Sent \d+ bytes (\d+) pkt", tc(f"-s qdisc show dev {near.name} clsact"))
        return int(found[1]) if found else 0

    tc(f"qdisc add dev {near.name} clsact")
    tc(f"filter add dev {near.name} ingress protocol all u32 match u32 0 0 flowid 1:1")
    yield seen
    tc(f"qdisc del dev {near.name} clsact")


def test_what_is_not_ours_goes_on_to_the_filters_of_others(
    driver: Driver, wire: socket.socket, others_filter: Callable[[], int], version: int
) -> None:
    """A packet of a service does not."""
    path = driver.path(driver.service(version, L4Protocol.UDP))

    wire.send(bytes(path.request()))
    assert others_filter() == 0
    wire.send(bytes(path.request().with_ports(1024, path.vip_port + 1)))

    wait_for(lambda: others_filter() == 1, what="the packet at the filter behind")


def packet_socket(device: Device) -> socket.socket:
    """Open a socket on the far end of a device, whose frames say what is known of their checksum."""
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL_PROTOCOLS))
    raw.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    raw.bind((f"{device.name}-far", ALL_PROTOCOLS))
    raw.settimeout(5)
    return raw


@pytest.fixture(scope="module", params=["seen", "unseen"])
def either_driver(world: World, request: pytest.FixtureRequest) -> Iterator[Driver]:
    """Return a data plane that can see the kernel's record of a packet, or, as on older kernels, cannot."""
    known = loading._known_to_kernel
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "unseen":
            patch.setattr(loading, "_known_to_kernel", lambda *names: known(*names) - {loading._KERNEL_CTX})
        with loaded(world, SMALL) as made:
            yield made


@pytest.mark.parametrize("protocol", [L4Protocol.TCP, L4Protocol.UDP], ids=lambda one: one.value)
def test_a_checksum_left_to_the_device_stays_so(either_driver: Driver, near: Port, protocol: L4Protocol) -> None:
    """As sockets behind a veth send: the field holds the sum of the pseudo-header, before and after."""
    either_driver.data_plane.attach(near)
    data = {"payload": b"odd"} | ({"flags": SYN} if protocol is L4Protocol.TCP else {})
    for version, start in ((4, 34), (6, 54)):
        path = either_driver.path(either_driver.service(version, protocol))
        header = struct.pack("=BBHHHH", NEEDS_CSUM, 0, 0, 0, start, FIELD[protocol])
        becomes = partial(path.requested(**data))
        with packet_socket(CLIENT) as client, packet_socket(SERVERS[0]) as server:
            client.send(header + partial(path.request(**data)))
            arrived = next(frame for frame in iter(lambda: server.recv(2048), b"") if frame.endswith(b"odd"))
        assert (arrived[0] & NEEDS_CSUM, arrived[len(header) :]) == (NEEDS_CSUM, becomes)
    either_driver.data_plane.detach(near.index)


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
